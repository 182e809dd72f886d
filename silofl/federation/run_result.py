"""What `silofl.train` and `silofl.simulate` return: a run that is over, with its model ready to use."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silofl.errors import DataError

if TYPE_CHECKING:
    from silofl.inference.trained_model import TrainedModel
    from silofl.tasks.base import Task

NESTED = "metrics"
"""What a line of `metrics.jsonl` has once more, together."""


@dataclass(frozen=True)
class Result:
    """A run that is over.

        result = silofl.simulate("launch/digits.toml")
        pandas.DataFrame(result.history).plot("round", "accuracy")
        result.model.predict(images)

    Attributes:
        summary: what `summary.json` holds, the same on every rank.
        path: this rank's run directory. What a run leaves for all lies in that of the rank that led it.
        task: what was given to train; None where it was made of the configuration.
    """

    summary: Mapping[str, Any]
    path: Path
    task: Callable[[], Task] | None = field(default=None, repr=False)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """A dict for each round, as pandas.DataFrame takes them, of numbers, those of silos as `silo 2 loss`.

        Raises DataError on a rank whose run directory has no `metrics.jsonl`, as one that did not lead may.
        """
        try:
            lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError:
            raise DataError(
                f"{self.path} has no metrics.jsonl, which the rank that led the run has"
            ) from None
        return [_flat(json.loads(line)) for line in lines]

    @cached_property
    def model(self) -> TrainedModel:
        """The shared model, ready to use; see `silofl.load`, whose errors it has."""
        return self._load(None)

    def personal(self, silo: int) -> TrainedModel:
        """The personal model of a silo, whose folder lies in this run directory; errors as of `model`."""
        return self._load(silo)

    def _load(self, silo: int | None) -> TrainedModel:
        from silofl.inference.loading import load

        return load(self.path, silo, task=None if self.task is None else self.task())

    def __str__(self) -> str:
        told = self.summary.get("metrics", {})
        numbers = [f"{name} {value:.4f}" for name, value in told.items() if isinstance(value, float)]
        return ", ".join([f"{self.summary.get('rounds')} rounds", *numbers, str(self.path)])


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics without lists and tables but those of numbers by name."""
    found: dict[str, Any] = {}
    for name, value in line.items():
        if isinstance(value, (int, float)) or value is None:
            found[name] = value
    told = line.get(NESTED, {})
    found |= {
        name: value for name, value in told.items() if not isinstance(value, list) and name not in found
    }
    found["silos"] = len(line.get("survivors", ()))
    for silo, own in enumerate(line.get("per_silo", ())):
        found |= {f"silo {silo} {name}": value for name, value in own.items()}
    for phase, seconds in line.get("seconds_by_phase", {}).items():
        found[f"seconds {phase}"] = seconds
    return found
