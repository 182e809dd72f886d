"""Which rounds were committed, as all ranks together know it."""

from __future__ import annotations

import hashlib
from collections import Counter

from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.manifest import Manifest, parse
from silofl.comm.collective_errors import allgather_object
from silofl.comm.protocol import Communicator
from silofl.errors import MismatchError, SiloflError


def gather_manifests(comm: Communicator, directory: CheckpointDirectory) -> tuple[list[Manifest], list[str]]:
    """Every manifest that any rank sees, newest round first, and a line for each damaged one; collective.

    A rank's folder may lack rounds that others have: its disk is new, or it was away. A round has several
    manifests where it was committed again after a silo was lost: one that is the last in somebody's folder
    comes first, the lowest rank's of those.

    Raises MismatchError, on every rank, where another version of silofl wrote one.
    """
    intact: list[Manifest] = []
    damaged: list[int] = []
    problem: SiloflError | None = None
    try:
        intact, damaged = directory.manifests()
    except MismatchError as error:
        problem = error
    texts = {(one.round, _digest(data)): data for one, data in ((m, m.encode()) for m in intact)}
    mine = {"silo": directory.silo, "intact": list(texts), "damaged": damaged}
    every = allgather_object(comm, mine, problem)
    owners: dict[tuple[int, str], tuple[int, int]] = {}
    for rank, one in enumerate(every):
        places: Counter[int] = Counter()
        for found, digest in one["intact"]:
            place = (places[found], rank)
            owners[found, digest] = min(owners.get((found, digest), place), place)
            places[found] += 1
    order = sorted(owners, key=lambda key: (-key[0], owners[key]))
    manifests = [parse(comm.broadcast_bytes(texts.get(key, b""), owners[key][1])) for key in order]
    return manifests, _damage(every, {found for found, _ in owners})


def _damage(every: list[dict[str, list[int]]], replaced: set[int]) -> list[str]:
    """One line for each round of which somebody's manifest is damaged, newest first."""
    lines = []
    for found in sorted({found for one in every for found in one["damaged"]}, reverse=True):
        silos = [str(one["silo"]) for one in every if found in one["damaged"]]
        line = f"the manifest of round {found} is damaged"
        if found in replaced:
            line += f" at silo {', '.join(silos)}; another silo's copy is used"
        lines.append(line)
    return lines


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
