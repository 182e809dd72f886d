"""What detection saw of silos' updates: who was suspicious, excluded and reinstated."""

from __future__ import annotations

from silofl.report.page.page_parts import Part, Table
from silofl.report.page.shared_files import SharedFiles
from silofl.report.page.words import plain_number

MOST_NAMED = 6
"""Rounds that are written out in a cell."""


def detection_part(run: SharedFiles) -> Part:
    """A row for each silo whose updates were scored; nothing where none were."""
    silos = sorted({int(silo) for one in run.rounds for silo in one.scores if silo.isdecimal()})
    rows = [_row(run, silo) for silo in silos]
    head = ["silo", "largest deviation", "suspicious", "left out", "excluded after", "reinstated after"]
    caption = (
        "Deviations of an update's norm, distance to the others, and cosine with their median, in robust "
        "standard deviations; suspicious and left out: in how many rounds."
    )
    return Part("Detection", tables=[Table("Updates by silo", head, rows, caption=caption)] if rows else [])


def _row(run: SharedFiles, silo: int) -> list[str]:
    key, rounds = str(silo), run.rounds
    seen = [one.scores[key].get("deviation") for one in rounds if key in one.scores]
    deviations = [one for one in seen if one is not None]
    most = "not finite" if None in seen else plain_number(max(deviations, default=0.0))
    return [
        key,
        most,
        str(sum(silo in one.suspicious for one in rounds)),
        str(sum(silo in one.left_out for one in rounds)),
        _named([one.round for one in rounds if key in one.excluded]),
        _named([one.round for one in rounds if key in one.reinstated]),
    ]


def _named(rounds: list[int]) -> str:
    shown = ", ".join(map(str, rounds[:MOST_NAMED]))
    return (shown + (", ..." if len(rounds) > MOST_NAMED else "")) or "–"
