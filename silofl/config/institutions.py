"""`[[institution]]`: what each institution has of its own, in the one configuration file of all.

    [[institution]]
    name = "north"
    host = "gpu1.north.example"      # of `silofl launch`; here where it is not given
    label = "eu/de"                  # of its group, where topology.groups = "label"
    identity = "keys/north.pem"      # secure.identity
    device = "cuda:0"                # train.device
    data.path = "/data/cohort.csv"   # and every other key that may differ from silo to silo

The k-th is silo k, counted from 0. A rank applies its own entry alone.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from silofl.errors import ConfigError

SHORT = {"identity": ("secure", "identity"), "device": ("train", "device")}
"""Keys of an institution that stand for one of a section."""
ALL_OR_NONE = (("data", "path"), ("run", "dir"), ("secure", "identity"))
"""Where one institution has its own, the others' would be nobody's."""
_TABLE, _DATA = "institution", ("data", "path")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
Key = tuple[str, str]


@dataclass(frozen=True)
class Institution:
    """One entry."""

    name: str
    host: str
    """Where its rank runs; empty where that is not said."""
    label: str
    """Of its group, such as "eu/de"; empty where it has none."""
    own: Mapping[Key, Any]
    """Its own values by section and key."""

    def applied(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """The tables that all have, with this institution's own values."""
        merged = deepcopy(dict(tables))
        for (section, key), value in self.own.items():
            if isinstance(merged.setdefault(section, {}), dict):  # else it is refused as it stands
                merged[section][key] = value
        return merged


def taken_from(
    tables: dict[str, Any], local_keys: Collection[Key], without_data: Collection[int] = ()
) -> tuple[Institution, ...]:
    """Take `[[institution]]` out of a file's tables; none without it. `local_keys` are those that may differ.

    Those numbered in `without_data` need no path of data.

    Raises ConfigError: one sentence, with the institution's name.
    """
    if _TABLE not in tables:
        return ()
    entries = tables.pop(_TABLE)
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries) or not entries:
        raise ConfigError("institution is no list of tables: write [[institution]] once for each")
    found = tuple(_institution(entry, number, local_keys) for number, entry in enumerate(entries))
    _refuse_same_names(found)
    for key in dict.fromkeys(key for one in found for key in one.own):
        having = [one for number, one in enumerate(found) if key != _DATA or number not in without_data]
        if key == _DATA:
            _refuse_unread_data(found, [number for number in without_data if number < len(found)])
        _refuse_half_given(having, key, tables)
    return found


def _refuse_unread_data(found: Sequence[Institution], without_data: Collection[int]) -> None:
    """Raise ConfigError where an institution that is the coordinator has a path, which nobody would read."""
    lacking = [number for number, one in enumerate(found) if _DATA not in one.own]
    for number in without_data:
        name = found[number].name
        if number in lacking:
            continue
        remedy = "remove its data.path, or set topology.coordinator to the number of another"
        if len(lacking) == 1:
            remedy = (
                f"set topology.coordinator = {lacking[0]}, for {found[lacking[0]].name!r} has no data.path"
            )
        raise ConfigError(
            f"institution {name!r} is the coordinator, by topology.coordinator = {number}, and has a "
            f"data.path, which nobody reads: {remedy}"
        )


def _institution(entry: dict[str, Any], number: int, local_keys: Collection[Key]) -> Institution:
    name, host, label = entry.get("name"), entry.get("host", ""), entry.get("label", "")
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ConfigError(
            f'[[institution]] number {number + 1} has no name: give it one, such as name = "north"'
        )
    who = f"institution {name!r}"
    if not isinstance(host, str) or (host and not _HOST.fullmatch(host)):
        raise ConfigError(f"{who}: host = {host!r} is no name of a host")
    if not isinstance(label, str) or (label and not all(part.strip() for part in label.split("/"))):
        raise ConfigError(f'{who}: label = {label!r} is none: give it a text, such as "de" or "eu/de"')
    own: dict[Key, Any] = {}
    for word, value in entry.items():
        if word in ("name", "host", "label"):
            continue
        for key, one in _keys(word, value, who, local_keys):
            if key in own:
                raise ConfigError(f"{who} has {word} and {'.'.join(key)}, which are the same: remove one")
            own[key] = one
    return Institution(name, host, label, own)


def _keys(word: str, value: Any, who: str, local_keys: Collection[Key]) -> list[tuple[Key, Any]]:
    """The keys that an entry's word stands for: one of SHORT, or a section with a table."""
    if word in SHORT:
        return [(SHORT[word], value)]
    if not isinstance(value, dict):
        raise _unknown(who, word, local_keys)
    for key in value:
        if (word, key) not in local_keys:
            raise _unknown(who, f"{word}.{key}", local_keys)
    return [((word, key), one) for key, one in value.items()]


def _unknown(who: str, word: str, local_keys: Collection[Key]) -> ConfigError:
    known = ["name", "host", "label", *SHORT, *sorted(".".join(key) for key in local_keys)]
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
    return ConfigError(
        f"{who}: {word} is no key that one institution has of its own: {hint} What all share stands in the "
        "sections"
    )


def _refuse_same_names(found: tuple[Institution, ...]) -> None:
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two institutions are named {twice!r}: give each a name of its own")


def _refuse_half_given(found: Sequence[Institution], key: Key, tables: Mapping[str, Any]) -> None:
    name = ".".join(key)
    having = next((one for one in found if key in one.own), None)
    if having is None:
        return
    section = tables.get(key[0])
    if isinstance(section, dict) and key[1] in section:
        raise ConfigError(
            f"{name} is set for all silos and for institution {having.name!r}: leave it out of one of them"
        )
    without = next((one for one in found if key not in one.own), None)
    if without is not None and key in ALL_OR_NONE:
        raise ConfigError(
            f"institution {having.name!r} has a {name} and {without.name!r} has none: give each its own"
        )
