"""Audit trails in run directories, verified: each by itself, and beside the other silos' copies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from silofl.checkpoint.audit_trail import (
    FILE,
    SignedEntry,
    TrailError,
    TrailHead,
    common_prefix,
    read,
    verify,
)
from silofl.crypto.roster import Roster
from silofl.errors import ConfigError

MODEL = "model.safetensors"
SUMMARY = "summary.json"
UNPINNED = (
    "by keys of this run's first start, which the trail itself names: no silo can have changed an entry "
    "without the others since, and one machine with all of these keys can have written everything; compare "
    "the keys' digest among the institutions' own copies"
)
UNCOMPARED = (
    "by keys that the trail itself names: give the institutions' roster by --roster, or compare the keys' "
    "digest with its own"
)


@dataclass(frozen=True)
class Trail:
    """One file, whose chain and signatures hold."""

    path: Path
    run: str
    head: TrailHead
    signed: list[SignedEntry]


@dataclass(frozen=True)
class Verified:
    """What was found of one run.

    Attributes:
        trails: of silos, all of them copies of one another as far as they go.
        pinned: whether the keys are those of a roster that was given.
        model_round: the round whose model `model.safetensors` is; None where that was not looked at.
    """

    trails: Sequence[Trail]
    pinned: bool
    model_round: int | None

    @property
    def longest(self) -> Trail:
        """The copy that goes on longest."""
        return max(self.trails, key=lambda one: len(one.signed))

    def text(self) -> str:
        """For people."""
        trail = self.longest
        copies = len({one.path.parent.name for one in self.trails})
        lines = [
            f"run {trail.run}: {len(trail.signed)} round(s), copies of {copies} of "
            f"{len(trail.head.roster)} silos, each chained and signed by all silos that were there",
            f"  keys      {trail.head.roster.digest.hex()}",
        ]
        worth = (
            "by the keys of the roster"
            if self.pinned
            else UNPINNED
            if trail.head.of_first_start
            else UNCOMPARED
        )
        lines.append(f"  signed    {worth}")
        if self.model_round is not None:
            lines.append(f"  model     {MODEL} is the model of round {self.model_round}")
        for one in trail.signed:
            decided = one.entry.decisions
            for what in ("excluded", "reinstated"):
                told = decided.get(what, {})
                lines += [
                    f"  round {one.entry.round:<4}silo {silo} {what}: {why}" for silo, why in told.items()
                ]
        return "\n".join([*lines, ""])


def verified(paths: Sequence[Path], roster: Roster | None = None) -> Verified:
    """Verify the trails in run directories of one run, or copies of it from several institutions.

    Raises TrailError, one sentence, for what does not hold; ConfigError where there is no trail, or a trail
    is of another run.
    """
    files = [file for path in paths for file in sorted(path.glob(f"silo-*/{FILE}"))]
    if not files:
        named = ", ".join(map(str, paths))
        raise ConfigError(f"{named} has no audit trail: a run keeps one with audit.trail = true")
    trails = [_trail(file, roster) for file in files]
    first = trails[0]
    for other in trails[1:]:
        if other.run != first.run:
            raise ConfigError(f"{other.path} is of another run than {first.path}: verify one run at a time")
        _compare(first, other)
    found = Verified(trails, roster is not None, None)
    rounds = len(found.longest.signed)
    for path in paths:
        told = _rounds_told(path)
        if told > rounds:
            ends = f"the audit trail ends at round {rounds}: its end is missing"
            raise TrailError(f"{path / SUMMARY} tells of {told} rounds, and {ends}")
    return Verified(trails, roster is not None, _model_round(paths, found.longest))


def _trail(file: Path, roster: Roster | None) -> Trail:
    run, head, signed = read(file)
    if roster is not None and roster.digest != head.roster.digest:
        raise TrailError(
            f"{file} is signed by other keys than those of the roster: {_difference(roster, head)}"
        )
    try:
        verify(signed, head, run)
    except TrailError as error:
        raise TrailError(f"{file}: {error}") from None
    return Trail(file, run, head, signed)


def _difference(roster: Roster, head: TrailHead) -> str:
    if len(roster) != len(head.roster):
        return f"it has {len(head.roster)} silos, and the roster {len(roster)}"
    pairs = zip(roster.institutions, head.roster.institutions, strict=True)
    silo = next((silo for silo, (one, other) in enumerate(pairs) if one.key != other.key), None)
    return "names differ" if silo is None else f"silo {silo} has another one"


def _compare(first: Trail, other: Trail) -> None:
    """Raise TrailError unless one of the two is the beginning of the other.

    The last entry of a silo that failed may be one that the others signed anew without it.
    """
    same = common_prefix(first.signed, other.signed)
    shorter, longer = sorted((first, other), key=lambda one: len(one.signed))
    if same == len(shorter.signed):
        return
    last = same == len(shorter.signed) - 1
    owner = int(shorter.path.parent.name.removeprefix("silo-"))
    if last and owner not in longer.signed[same].entry.present:
        return
    number = shorter.signed[same].entry.round
    raise TrailError(
        f"{first.path} and {other.path} have different entries of round {number}, each signed: silos have "
        "signed two courses of one run"
    )


def _rounds_told(path: Path) -> int:
    try:
        return int(json.loads((path / SUMMARY).read_text())["rounds"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def _model_round(paths: Sequence[Path], trail: Trail) -> int | None:
    """The newest round whose model the file in one of the folders is; TrailError where it is none's.

    None where there is no such file, or it has not all of the values that were signed.
    """
    for path in paths:
        try:
            arrays = load_file(path / MODEL)
        except (OSError, SafetensorError):
            continue
        layout = trail.head.layout
        if not all(name in arrays and arrays[name].size == size for name, size in layout):
            continue
        flat = np.concatenate([arrays[name].ravel().astype(trail.head.dtype) for name, _ in layout])
        digest = hashlib.sha256(flat.data).hexdigest()
        rounds = [one.entry.round for one in trail.signed if one.entry.model == digest]
        if not rounds:
            raise TrailError(f"{path / MODEL} is the model of no round that was signed: it was changed")
        return rounds[-1]
    return None
