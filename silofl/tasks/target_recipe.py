"""What is done to the target of a model: constants of its head, the same at every silo, published with it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class TargetRecipe:
    """Constants that a head trains and predicts with: see `silofl.tasks.heads`.

    Attributes:
        center, scale: the model learns (target - center) / scale, and predicts the target.
        weights: of classes, or of the positive records of each label; empty where all count alike.
        ends: of intervals of time, ascending; empty where there is no time.
    """

    center: float = 0.0
    scale: float = 1.0
    weights: tuple[float, ...] = ()
    ends: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it; no number loses a bit."""
        return asdict(self) | {"weights": list(self.weights), "ends": list(self.ends)}

    @classmethod
    def from_json(cls, told: Any) -> Self:
        """From `to_json`. ValueError, TypeError or KeyError for what is none."""
        made = cls(told["center"], told["scale"], tuple(told["weights"]), tuple(told["ends"]))
        numbers = [made.center, made.scale, *made.weights, *made.ends]
        finite = all(type(one) in (int, float) and math.isfinite(one) for one in numbers)
        positive = all(one > 0 for one in (made.scale, *made.weights, *made.ends))
        if not (finite and positive and list(made.ends) == sorted(set(made.ends))) or made.to_json() != told:
            raise ValueError("not a recipe of a target")
        return made


AS_IT_IS = TargetRecipe()
"""That by which nothing is done."""
