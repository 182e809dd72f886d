"""What a strategy is: the federation's step on the global model, one slice at a time.

The server is nobody: rank k steps slice k and keeps the state of slice k, as a sharded optimizer does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Slice = NDArray[np.floating[Any]]
State = dict[str, Slice]


class Strategy(ABC):
    """A server step with explicit state; coordinates are independent, so any slicing gives the same bits."""

    local: ClassVar[Literal["delta", "gradient"]]
    """What silos send: the change of the model by local training, or the gradient at the global model."""

    linear: ClassVar[bool]
    """Whether the step is linear in the mean update while its state is zero."""

    @abstractmethod
    def init(self, size: int, dtype: np.dtype[np.floating]) -> State:
        """State of a slice of `size` parameters before the first round: arrays (size,) of `dtype`."""

    @abstractmethod
    def step(self, state: State, parameters: Slice, mean: Slice) -> State:
        """Change `parameters` (k,) in place by the weighted mean (k,) of what silos sent; the next state."""
