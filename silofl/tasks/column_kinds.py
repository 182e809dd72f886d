"""What silos compare of their tables: the columns, without any value."""

from collections.abc import Sequence

Schema = Sequence[tuple[str, str]]
"""Name and kind of each column of features, in the order of the features; an empty name is not known."""
