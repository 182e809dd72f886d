"""Number formats: how a named vector becomes words of a ring, and how their sum becomes values again.

Another format is another file and its line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from silofl.aggregation.formats.base import NumberFormat
from silofl.aggregation.formats.exact import Exact
from silofl.aggregation.formats.plain_words import PlainWords
from silofl.aggregation.formats.scaled import Scaled
from silofl.aggregation.spec import VectorSpec
from silofl.types import RingBits

Build = Callable[[VectorSpec, RingBits, int, bool], NumberFormat]

FORMATS: Mapping[str, Build] = {
    "scaled": lambda spec, bits, silos, stochastic: Scaled(spec, bits, silos, stochastic=stochastic),
    "exact": lambda spec, bits, silos, stochastic: Exact(bits, silos),
    "words": lambda spec, bits, silos, stochastic: PlainWords(bits),
}
"""By the name in `VectorSpec.format`."""


def format_of(spec: VectorSpec, bits: RingBits, silos: int, *, stochastic: bool) -> NumberFormat:
    """The format that a vector's spec names. ConfigError where so many silos do not fit the ring."""
    return FORMATS[spec.format](spec, bits, silos, stochastic)
