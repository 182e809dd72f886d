"""A run's configuration and environment, without what tells of a person, a machine or a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from silofl.config import LOCAL_PATHS, Config
from silofl.report.page.parts import Part, Table
from silofl.report.page.shared_files import SharedFiles

HIDDEN = "not shown"
_SECRET = re.compile(r"secret|token|passw|passphrase|credential|api_?key|private_?key", re.IGNORECASE)
"""Names of keys, such as those of a task's own options, whose values are nobody else's."""
LONGEST = 200
"""Characters of a value that are shown."""


def settings_of(run: SharedFiles) -> dict[str, str]:
    """The configuration as the report shows it, by full key: paths, and what may be secret, are left out."""
    return dict(_flat(run.config))


def _flat(tables: Mapping[str, Any], *above: str) -> Iterator[tuple[str, str]]:
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from _flat(value, *above, name)
        elif value not in ("", []) and (*above, name) not in LOCAL_PATHS:
            yield ".".join((*above, name)), HIDDEN if _SECRET.search(name) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        text = f"[{', '.join(map(_text, value))}]"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def configuration_part(run: SharedFiles) -> Part:
    """Keys that are other than their defaults; all of them in a folded table."""
    every = settings_of(run)
    if not every:
        return Part("Configuration")
    usual = dict(_flat(Config().model_dump(exclude_none=True)))
    other = [[key, value] for key, value in every.items() if usual.get(key) != value]
    tables = [
        Table("Other than the defaults", ["key", "value"], other, numbers=9),
        Table(
            f"All {len(every)} keys", ["key", "value"], list(map(list, every.items())), numbers=9, folded=True
        ),
    ]
    return Part("Configuration", ["Paths, and values that may be secret, are left out."], (), tables)


def environment_part(run: SharedFiles) -> Part:
    """Versions and machine of the rank that led, the sum, the keys, and digests of the models."""
    rows = [
        [name, str(value)]
        for section in ("run", "versions", "machine")
        for name, value in run.environment.get(section, {}).items()
        if value is not None
    ]
    if run.summary is not None:
        known = {row[0] for row in rows}
        rows += [["silofl", run.summary.silofl]] if run.summary.silofl and "silofl" not in known else []
        rows += [["keys", run.summary.keys]] if run.summary.keys else []
        rows += [[f"sha256 of {name}", digest] for name, digest in run.summary.models_sha256.items()]
    return Part("Environment", (), (), [Table("", ["", ""], rows, numbers=9)] if rows else [])


def differences(runs: Mapping[str, SharedFiles]) -> Table:
    """Keys whose values differ between runs, one column for each run."""
    every = {name: settings_of(run) for name, run in runs.items()}
    keys = dict.fromkeys(key for own in every.values() for key in own)
    rows = [
        [key, *(own.get(key, "–") for own in every.values())]
        for key in keys
        if len({own.get(key) for own in every.values()}) > 1 and key != "run.name"
    ]
    return Table("Keys that differ", ["key", *every], rows, numbers=9)
