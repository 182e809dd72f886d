"""Constrained types of configuration values: what is declared with them is checked when a file is read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0.05, allow_inf_nan=False)]
"""What cosines are divided by before exp, which single precision has of every quotient then."""
Fraction = Annotated[float, Field(gt=0, lt=1)]
"""Between 0 and 1, without both."""
Decay = Annotated[float, Field(ge=0, lt=1)]
"""The part of a running sum that is kept at every step, such as momentum; 0 for none."""
MaskFloor = Annotated[float, Field(ge=0.0001, le=0.25, allow_inf_nan=False)]
"""Of a probability whose score is trained."""
QuantizationLevels = Annotated[int, Field(ge=1, le=63)]
"""On both sides of zero, so that codes have up to 7 bits."""
CodeBits = Annotated[int, Field(ge=1, le=4)]
"""Of a code in a packet."""
Names = Annotated[tuple[str, ...], Field(strict=False)]
"""Several texts, which a file has as a list."""
UpToOne = Annotated[float, Field(gt=0, le=1)]
"""What something counts that is no more than all."""
Seconds = Annotated[tuple[PositiveFloat, ...], Field(strict=False)]
"""Several durations, which a file has as a list."""
