"""Number formats: how a named vector becomes words of a ring, and how their sum becomes values again.

Another format is another file and its line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from silofl.aggregation.formats.base import NumberFormat
from silofl.aggregation.formats.counts import Counts
from silofl.aggregation.formats.exact import Exact
from silofl.aggregation.formats.packed import Packed
from silofl.aggregation.formats.plain_words import PlainWords
from silofl.aggregation.formats.scaled import Scaled
from silofl.aggregation.spec import VectorSpec

FORMATS: Mapping[str, type[NumberFormat]] = {
    "scaled": Scaled,
    "packed": Packed,
    "exact": Exact,
    "words": PlainWords,
    "counts": Counts,
}
"""By the name in `VectorSpec.format`."""


def format_of(spec: VectorSpec) -> type[NumberFormat]:
    """The format that a vector's spec names."""
    return FORMATS[spec.format]
