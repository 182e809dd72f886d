"""Types that name the stage of the data on its way through a round, and the scalars they travel with.

A stage is a `NewType`: it costs nothing at run time and adding the wrong two is a type error.
`docs/architecture.md` draws the way. d is the number of shared values, n the number of silos.
"""

from __future__ import annotations

from typing import Any, Literal, NewType

import numpy as np
from numpy.typing import NDArray

RingVector = NDArray[np.unsignedinteger[Any]]

Update = NewType("Update", NDArray[np.floating[Any]])
"""float32 or float64 (d,): what one silo learnt in a round, in the clear, never leaves its rank."""

Masked = NewType("Masked", NDArray[np.unsignedinteger[Any]])
"""uintB (k,): uniform to everyone but its silo."""

TotalSlice = NewType("TotalSlice", NDArray[np.unsignedinteger[Any]])
"""uintB (k/n,): the exact sum over the agreed survivors of the slice that this rank owns."""

ReduceOp = Literal["sum", "min", "max"]
RingBits = Literal[8, 16, 32]
