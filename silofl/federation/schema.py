"""The columns of all silos are the same: names, order and kinds, compared before the first round."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from silofl.comm.collective_errors import allgather_parsed, texts
from silofl.comm.protocol import Communicator
from silofl.errors import MismatchError
from silofl.tasks.column_kinds import Schema

_SHOWN = 8
_SILOS_SHOWN = 4
_IMAGE = "image"
"""The only column of images."""
_REMEDY = (
    "give columns the same names, kinds and units at every silo, or name those that only some have in "
    "data.drop, or those to take in data.columns"
)
_OF_IMAGES = (
    "set task.channels to read all as grey or all in colour, or give images of one type at every silo"
)


def agree_on_schema(comm: Communicator, schema: Schema | None) -> list[str]:
    """Refuse silos whose columns are not the others'; collective, and all ranks raise the same.

    Names and kinds are exchanged where digests differ, and no value of any column. Returns what was taken
    for what: a line for each silo whose data name no columns. A rank without data has None.
    """
    digests = allgather_parsed(comm, [] if schema is None else [digest(schema)], texts, "its columns")
    here = [one for one in digests if one]
    if all(one == here[0] for one in here):
        return []
    told = allgather_parsed(comm, [list(pair) for pair in schema or ()], _columns, "its columns")
    pairs = zip(comm.members, told, digests, strict=True)
    schemas = {silo: one for silo, one, said in pairs if said}
    error = schema_mismatch(schemas)
    if error is not None:
        error.rank = comm.members.index(error.rank) if error.rank in comm.members else 0
        raise error
    return schema_notices(schemas)


def _columns(told: Any) -> Schema:
    pairs = [texts(pair) for pair in told]
    return [(name, kind) for name, kind in pairs]


def digest(schema: Schema) -> str:
    """SHA-256 of names and kinds."""
    return hashlib.sha256(json.dumps([list(pair) for pair in schema]).encode()).hexdigest()


def schema_mismatch(schemas: Mapping[int, Schema]) -> MismatchError | None:
    """The error of silos whose columns are not those that most have; its rank is the first such silo."""
    usual = _usual(schemas)
    odd = {
        silo: text for silo, schema in schemas.items() if (text := _difference(schema, schemas[usual])) != ""
    }
    if not odd:
        return None
    texts = [
        f"the columns of silo {silo} are not those of silo {usual}: {odd[silo]}"
        for silo in list(odd)[:_SILOS_SHOWN]
    ]
    if len(odd) > _SILOS_SHOWN:
        texts.append(f"nor are those of {len(odd) - _SILOS_SHOWN} more silos")
    images = all(name == _IMAGE for schema in schemas.values() for name, _ in schema)
    return MismatchError(f"{'; '.join(texts)}; {_OF_IMAGES if images else _REMEDY}", rank=min(odd))


def schema_notices(schemas: Mapping[int, Schema]) -> list[str]:
    """What the columns of silos that name none are taken for."""
    usual = schemas[_usual(schemas)]
    names = _listed([name for name, _ in usual])
    return [
        f"silo {silo} gives no names of columns: its {len(schema)} are taken for {names}, in this order"
        for silo, schema in schemas.items()
        if schema and usual[0][0] and not schema[0][0]
    ]


def describe_schema(schema: Schema) -> str:
    """`age, bmi (numbers); smoker (truth values)`: the names of each kind; empty without columns."""
    kinds: dict[str, list[str]] = {}
    for name, kind in schema:
        kinds.setdefault(kind, []).append(name)
    return "; ".join(f"{_enumerated(names)} ({kind})" for kind, names in kinds.items())


def _enumerated(names: list[str], limit: int = 40) -> str:
    if not names[0]:
        return f"{len(names)} without names"
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _usual(schemas: Mapping[int, Schema]) -> int:
    """The first silo of those whose columns most silos have; silos that name columns go first."""
    counts = Counter(digest(schema) for schema in schemas.values())

    def rank(silo: int) -> tuple[bool, int, int]:
        schema = schemas[silo]
        return all(name for name, _ in schema), counts[digest(schema)], -silo

    return max(schemas, key=rank)


def _difference(schema: Schema, usual: Schema) -> str:
    """What of a silo's columns is other than usual; empty where nothing is."""
    mine, theirs = [name for name, _ in schema], [name for name, _ in usual]
    if "" in (*mine, *theirs):
        same = len(mine) == len(theirs)
        return "" if same else f"it has {len(mine)} and not {len(theirs)}, of which not all have a name"
    extra, lost = _without(mine, theirs), _without(theirs, mine)
    found = []
    if extra:
        found.append(f"it has {_listed(extra)}")
    if lost:
        found.append(f"it has no {_listed(lost)}")
    if {name.casefold() for name in extra} & {name.casefold() for name in lost}:
        found.append("capital letters make another name")
    found += [
        f"{one!r} is spelt {one!a}, with other letters or signs than it looks"
        for one in (*extra, *lost)
        if not one.isascii() and any(_alike(one, other) for other in (*extra, *lost) if other != one)
    ][:1]
    there = dict(usual)
    found += [
        f"{name!r} has {kind} and not {there[name]}" for name, kind in schema if there.get(name, kind) != kind
    ][:_SHOWN]
    if not found and mine != theirs:
        place = next(k for k, (one, other) in enumerate(zip(mine, theirs, strict=True)) if one != other)
        found.append(f"they are in another order, {mine[place]!r} where {theirs[place]!r} should be")
    return ", ".join(found)


def _alike(one: str, other: str) -> bool:
    """Whether two names have as many letters, of which those that are ASCII in both are the same."""
    pairs = list(zip(one, other, strict=False))
    same = all(a == b or not (a + b).isascii() for a, b in pairs)
    return len(one) == len(other) and same and any(a == b for a, b in pairs)


def _without(names: list[str], others: list[str]) -> list[str]:
    known = set(others)
    return [name for name in names if name not in known]


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
