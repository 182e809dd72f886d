"""Which rounds were committed, as all ranks together know it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from silofl.checkpoint.checked import each, hexadecimal, named, refused, whole
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.manifest import SHA256_BYTES, Manifest, parse
from silofl.checkpoint.trust import Trust
from silofl.comm.collective_errors import allgather_object
from silofl.comm.protocol import Communicator
from silofl.errors import CheckpointError, MismatchError, SiloflError


class Catalogue(NamedTuple):
    """What all ranks see together; the same on every rank."""

    manifests: list[Manifest]
    """Newest round first."""
    damaged: list[str]
    """A line for each round of which somebody's manifest is damaged, newest first."""
    untrusted: list[str]
    """A line for each manifest of which no use is made, newest first."""


@dataclass(frozen=True)
class _Seen:
    """What one rank sees."""

    silo: int
    intact: list[tuple[int, str]]
    damaged: list[int]

    @classmethod
    def checked(cls, message: Any, silo: int) -> _Seen:
        try:
            table = named(message, "it")
            intact = [each(pair, "a manifest in it") for pair in each(table.get("intact"), "its list")]
            return cls(
                silo,
                [
                    (whole(found, "a round"), hexadecimal(digest, "a SHA-256", SHA256_BYTES))
                    for found, digest in intact
                ],
                [whole(found, "a damaged round") for found in each(table.get("damaged"), "its damage")],
            )
        except (CheckpointError, ValueError) as error:
            raise refused(silo, error) from None


def gather_manifests(comm: Communicator, directory: CheckpointDirectory, trust: Trust) -> Catalogue:
    """Every manifest that any rank sees; collective.

    A rank's folder may lack rounds that others have: its disk is new, or it was away. A round has several
    manifests where it was committed again after a silo was lost: one that is the last in somebody's folder
    comes first, the lowest rank's of those.

    Raises, on every rank, MismatchError where another version of silofl wrote one, and ProtocolError where a
    silo tells what no manifest is.
    """
    intact: list[Manifest] = []
    damaged: list[int] = []
    problem: SiloflError | None = None
    try:
        intact, damaged = directory.manifests()
    except MismatchError as error:
        problem = error
    texts = {(one.round, _digest(data)): data for one, data in ((m, m.encode()) for m in intact)}
    told = allgather_object(comm, {"intact": list(texts), "damaged": damaged}, problem)
    every = [_Seen.checked(one, silo) for one, silo in zip(told, comm.members, strict=True)]
    owners: dict[tuple[int, str], tuple[int, int]] = {}
    for rank, one in enumerate(every):
        places: Counter[int] = Counter()
        for found, digest in one.intact:
            place = (places[found], rank)
            owners[found, digest] = min(owners.get((found, digest), place), place)
            places[found] += 1
    order = sorted(owners, key=lambda key: (-key[0], owners[key]))
    manifests, untrusted = [], []
    for key in order:
        silo, data = comm.members[owners[key][1]], comm.broadcast_bytes(texts.get(key, b""), owners[key][1])
        manifest = _told(silo, key, data)
        reason = trust.refusal(manifest)
        if reason:
            untrusted.append(f"the manifest of round {manifest.round} that silo {silo} has {reason}")
        else:
            manifests.append(manifest)
    return Catalogue(manifests, _damage(every, {found for found, _ in owners}), untrusted)


def _told(silo: int, key: tuple[int, str], data: bytes) -> Manifest:
    """The manifest that a silo sent as that of a round and a digest."""
    try:
        manifest = parse(data)
    except CheckpointError as error:
        raise refused(silo, error) from None
    if (manifest.round, _digest(data)) != key:
        raise refused(silo, "the manifest is not the one that it announced")
    return manifest


def _damage(every: list[_Seen], replaced: set[int]) -> list[str]:
    lines = []
    for found in sorted({found for one in every for found in one.damaged}, reverse=True):
        silos = [str(one.silo) for one in every if found in one.damaged]
        line = f"the manifest of round {found} is damaged"
        if found in replaced:
            line += f" at silo {', '.join(silos)}; another silo's copy is used"
        lines.append(line)
    return lines


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
