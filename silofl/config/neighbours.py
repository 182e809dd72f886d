"""Which data sets the bound keeps from being told apart: neighbours (Ponomareva et al. 2023, section 2).

`replace-special`: a record is replaced by a special one that contributes nothing; their number is public.
`add-remove`: a record is there or not; no number that is shown may be made of how many there are.
`replace-one`: a record is replaced by any other, which moves a sum by up to two clipping norms.
For "a record" read "all records of a patient" or "of a client", or "a silo's data", by the unit.
"""

from __future__ import annotations

from typing import Literal, get_args

Neighbours = Literal["replace-special", "add-remove", "replace-one"]
NEIGHBOURS: tuple[str, ...] = get_args(Neighbours)

IN_WORDS = {
    (
        "example",
        "replace-special",
    ): "a record replaced by one that contributes nothing; their number is public",
    ("example", "add-remove"): "a record added or removed; no number shown is made of how many there are",
    ("example", "replace-one"): "a record replaced by any other; their number is public",
    (
        "patient",
        "replace-special",
    ): "all records of a patient replaced by ones that contribute nothing; how many patients there are is "
    "public",
    (
        "patient",
        "add-remove",
    ): "a patient added or removed with all records; no number shown is made of how many there are",
    (
        "patient",
        "replace-one",
    ): "all records of a patient replaced by any others; how many patients there are is public",
    (
        "client",
        "replace-special",
    ): "all records of a client replaced by ones that contribute nothing; how many clients there are is "
    "public",
    (
        "client",
        "add-remove",
    ): "a client added or removed with all records; no number shown is made of how many there are",
    (
        "client",
        "replace-one",
    ): "all records of a client replaced by any others; how many clients there are is public",
    (
        "silo",
        "replace-special",
    ): "a silo's data replaced by none; which silos there are, and of how many records, is public",
    (
        "silo",
        "replace-one",
    ): "a silo's data replaced by any other of as many records; which silos there are is public",
}
"""By unit and relation; which silos take part is never hidden, so that there is no `add-remove` of one."""
