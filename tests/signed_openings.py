"""Records of openings in runs' folders, signed by as many silos as a test has keys of."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from silofl.checkpoint.opening_evidence import OpeningEvidence
from silofl.checkpoint.opening_log import Opening, OpeningLog
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Roster
from silofl.crypto.signer import Signer


def evidence(run: str, identities: list[Identity], silos: int = 1) -> list[OpeningEvidence]:
    """Of each silo, which signs without a quorum unless a run of so many silos is told of."""
    roster = Roster.ephemeral([one.public for one in identities])
    return [OpeningEvidence(run, silos, Signer(one, roster)) for one in identities]


def signed(opening: Opening, by: list[OpeningEvidence], liars: Collection[int] | None = None) -> Opening:
    """By all that are there; of the others than `liars` there is nothing but zeros."""
    honest = [silo for silo in opening.present if liars is not None and silo not in liars]
    told = tuple("00" * 64 if silo in honest else by[silo].sign(opening) for silo in opening.present)
    return Opening(opening.round, opening.silos, opening.present, opening.way, opening.buckets, told)


def told_by(path: Path, silo: int, opening: Opening, liars: Collection[int] | None = None) -> None:
    """Add a record to that of a silo, by the keys that a run of threads left in its folder."""
    file = path / f"silo-{silo:04d}" / "openings.jsonl"
    run = json.loads(file.read_text().splitlines()[0])["run"]
    identities = [Identity.load(one) for one in sorted(path.glob("silo-*/identity.pem"))]
    log = OpeningLog(file, run, len(identities))
    log.append(signed(opening, evidence(run, identities), liars))
