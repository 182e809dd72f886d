"""A run's configuration and environment, without what tells of a person, a machine or a secret."""

from __future__ import annotations

from collections.abc import Mapping

from silofl.config import Config
from silofl.report.page.page_parts import Part, Table
from silofl.report.page.shared_files import SharedFiles
from silofl.report.settings_text import settings_text


def configuration_part(run: SharedFiles) -> Part:
    """Keys that are other than their defaults; all of them in a folded table."""
    every = settings_text(run.config)
    if not every:
        return Part("Configuration")
    usual = settings_text(Config().model_dump(exclude_none=True))
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
    every = {name: settings_text(run.config) for name, run in runs.items()}
    keys = dict.fromkeys(key for own in every.values() for key in own)
    rows = [
        [key, *(own.get(key, "–") for own in every.values())]
        for key in keys
        if len({own.get(key) for own in every.values()}) > 1 and key != "run.name"
    ]
    return Table("Keys that differ", ["key", *every], rows, numbers=9)
