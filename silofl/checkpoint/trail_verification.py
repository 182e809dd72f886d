"""Audit trails in run directories, verified: each by itself, and beside the other silos' copies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from silofl.checkpoint.audit_trail import FILE, SignedEntry, TrailError, TrailHead, common_prefix, read
from silofl.checkpoint.trail_rules import quorum, verify
from silofl.crypto.roster import Roster
from silofl.errors import CheckpointError, ConfigError, MismatchError

MODEL = "model.safetensors"
SUMMARY = "summary.json"
LONGEST_NUMBER = 10
"""Digits of a silo's."""
SHOWN = 3
"""Names of tensors that are told, of many."""
UNCOMPARED = (
    "by keys that the copies themselves name: nothing here says whose they are, and one party can have made "
    "all of them; compare the keys' digest with what the institutions' own copies have, or give --roster"
)


@dataclass(frozen=True)
class Trail:
    """One file, whose chain and signatures hold."""

    path: Path
    run: str
    head: TrailHead
    signed: list[SignedEntry]

    @property
    def silo(self) -> int | None:
        """Whose copy it is, by its folder; None where that does not say."""
        number = self.path.parent.name.removeprefix("silo-")
        return int(number) if number.isdecimal() and len(number) < LONGEST_NUMBER else None


@dataclass(frozen=True)
class Verified:
    """What was found of one run.

    Attributes:
        trails: of silos, all of them copies of one another as far as they go.
        pinned: whether the keys are those of a roster that was given.
        model_round: the round whose model `model.safetensors` is; None where that was not compared.
        model: what is said of that file.
        remarks: what copies have otherwise than the longest, and may have.
    """

    trails: Sequence[Trail]
    pinned: bool
    model_round: int | None
    model: str
    remarks: Sequence[str] = ()

    @property
    def longest(self) -> Trail:
        """The copy that goes on longest."""
        return max(self.trails, key=lambda one: len(one.signed))

    @property
    def rounds(self) -> int:
        """The newest round of its course."""
        signed = self.longest.signed
        return signed[-1].entry.round if signed else 0

    def text(self) -> str:
        """For people."""
        trail, silos = self.longest, len(self.longest.head.roster)
        have = sorted({one.silo for one in self.trails if one.silo is not None})
        missing = tuple(silo for silo in range(silos) if silo not in have)
        away = f", none of {silos_text(missing)}" if missing else ""
        lines = [
            f"run {trail.run}: {self.rounds} round(s), copies of {len(have)} of {silos} silos{away}",
            f"  keys      {trail.head.roster.digest.hex()}",
            f"  signed    {'by the keys of the roster' if self.pinned else UNCOMPARED}",
            f"  against   fewer than {quorum(silos)} of these silos: so many that collude can write all",
            f"  end       round {self.rounds}; what was cut off all of these copies is not seen",
            f"  model     {self.model}",
        ]
        return "\n".join([*lines, *signers(trail.signed), *self.remarks, *_decided(trail.signed), ""])


def signers(signed: Sequence[SignedEntry]) -> list[str]:
    """Lines that say who signed which rounds, and which rounds came again."""
    lines, newest = list[str](), 0
    for (present, _), group in groupby(enumerate(signed), _course):
        numbers = [one.entry.round for _, one in group]
        again = " again, after a resume" if numbers[0] <= newest else ""
        newest = numbers[-1]
        rounds = f"round {newest}" if len(numbers) == 1 else f"rounds {numbers[0]} to {newest}"
        lines.append(f"  signers   {rounds}{again}: {silos_text(present)}")
    return lines


def _course(numbered: tuple[int, SignedEntry]) -> tuple[tuple[int, ...], int]:
    """What entries of one line have in common: who signed, and by how much rounds are behind their places."""
    place, one = numbered
    return one.entry.present, place - one.entry.round


def _decided(signed: Sequence[SignedEntry]) -> list[str]:
    return [
        f"  round {one.entry.round:<4}silo {silo} {what}: {why}"
        for one in signed
        for what in ("excluded", "reinstated")
        for silo, why in _table(one.entry.decisions.get(what)).items()
    ]


def silos_text(silos: Sequence[int]) -> str:
    """Silos by number: `silo 2`, `silos 1, 2`."""
    return f"silo{'s' if len(silos) > 1 else ''} {', '.join(map(str, silos))}"


def _table(told: Any) -> dict[str, Any]:
    return told if isinstance(told, dict) else {}


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
    first = max(trails, key=lambda one: len(one.signed))
    remarks = []
    for other in trails:
        if other.run != first.run:
            raise ConfigError(f"{other.path} is of another run than {first.path}: verify one run at a time")
        if other.head != first.head:
            raise TrailError(f"{first.path} and {other.path} tell of other keys or tensors of one run")
        remarks += _compare(first, other)
    model_round, model = _model_round(paths, first)
    found = Verified(trails, roster is not None, model_round, model, remarks)
    for path in paths:
        told = _rounds_told(path)
        if told > found.rounds:
            ends = f"the audit trail ends at round {found.rounds}: its end is missing"
            raise TrailError(f"{path / SUMMARY} tells of {told} rounds, and {ends}")
    return found


def _trail(file: Path, roster: Roster | None) -> Trail:
    try:
        run, head, signed = read(file)
    except (CheckpointError, MismatchError) as error:
        raise TrailError(str(error)) from None
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


def _compare(longest: Trail, other: Trail) -> list[str]:
    """A remark, or none; TrailError unless the other is the beginning of the longest.

    The last entry of a silo that failed may be one that the others signed anew without it, as theirs says.
    """
    same = common_prefix(longest.signed, other.signed)
    if same == len(other.signed):
        return []
    theirs, ours = other.signed[same].entry, longest.signed[same].entry
    if same == len(other.signed) - 1 and other.silo in ours.departed and theirs.round == ours.round:
        return [
            f"  remark    silo {other.silo} has an entry of round {ours.round} that the others signed anew "
            "as it failed"
        ]
    both = tuple(silo for silo in theirs.present if silo in ours.present)
    raise TrailError(
        f"{longest.path} and {other.path} have different entries of round {theirs.round}, and "
        f"{silos_text(both)} signed both: two courses of one run"
    )


def _rounds_told(path: Path) -> int:
    try:
        return int(json.loads((path / SUMMARY).read_text())["rounds"])
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return 0


def _model_round(paths: Sequence[Path], trail: Trail) -> tuple[int | None, str]:
    """The newest round whose model the file in one of the folders is, and what is said of it.

    TrailError where it is none's.
    """
    for file in (path / MODEL for path in paths):
        if not file.exists():
            continue
        try:
            arrays = load_file(file)
        except (OSError, SafetensorError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise TrailError(f"{file} cannot be read: {type(error).__name__}") from None
        flat = _values(file, arrays, trail.head)
        digest = hashlib.sha256(flat.data).hexdigest()
        rounds = [one.entry.round for one in trail.signed if one.entry.model == digest]
        if not rounds:
            raise TrailError(f"{file} is the model of no round that was signed: it was changed")
        more = sorted(arrays.keys() - {name for name, _ in trail.head.layout})
        named = ", ".join(more[:SHOWN]) + (", ..." if len(more) > SHOWN else "")
        beside = f"; nobody has signed what else it has: {named}" if more else ""
        return rounds[-1], f"{MODEL} is the model of round {rounds[-1]}{beside}"
    return None, f"not compared: there is no {MODEL}"


def _values(file: Path, arrays: Mapping[str, NDArray[Any]], head: TrailHead) -> NDArray[Any]:
    """All values in the order of the layout; TrailError where the file has other tensors."""
    dtype, found = np.dtype(head.dtype), [np.empty(0, head.dtype)]
    for name, shape in head.layout:
        if name not in arrays:
            raise TrailError(f"{file} lacks {name}, which was signed")
        values = arrays[name]
        if values.shape != shape or values.real.dtype != dtype:
            raise TrailError(f"{file} has {name} of another shape or type than was signed")
        found.append(np.ascontiguousarray(values).ravel().view(dtype))
    return np.concatenate(found)
