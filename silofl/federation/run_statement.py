"""The privacy statement of a run directory: `silofl privacy RUN`. No data is read and no rank started.

A directory may be all silos' or the copy that one institution has; the run may have ended, been killed, or be
going on. What its files say must agree, or there is no statement.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import silofl
from silofl import config as configuration
from silofl import private_files
from silofl.checkpoint.atomic_files import read_skeleton, write_json
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.manifest import Manifest
from silofl.config import Config, PrivacyConfig
from silofl.errors import CheckpointError, ConfigError, MismatchError
from silofl.federation.privacy.release_log import Entry, entries_of, run_of_log, union
from silofl.privacy.claim import NOTHING, outside
from silofl.privacy.ledger import Ledger, rounded
from silofl.privacy.plan import method_for
from silofl.privacy.spent_statement import Statement

Json = dict[str, Any]
TOLERANCE = 1e-6
"""Relative: what epsilon may differ by from processor to processor."""
ATTEMPTS = 3
"""How often a directory is read in which a running job removes and adds rounds meanwhile."""
_OTHER_VERSION = "it was written by another version of silofl, which can tell what was spent"


@dataclass(frozen=True)
class NoPrivacy:
    """A run without [privacy]."""

    of: str

    def text(self, recompute: str) -> str:
        """For people."""
        return f"privacy: {NOTHING}\n"

    def python(self) -> str:
        """Nothing is to be worked out."""
        return "# privacy: none\n"

    def to_json(self) -> Json:
        """For programs."""
        return {"silofl": silofl.__version__, "of": self.of, "unit": "none"}


def statement_of_run(path: Path) -> Statement | NoPrivacy:
    """What a run directory says was spent.

    Raises ConfigError for what is no run directory, CheckpointError where a file is damaged or two disagree,
    MismatchError where another version wrote one.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _Reader(path).statement()
        except FileNotFoundError as error:
            if attempt == ATTEMPTS - 1:
                raise CheckpointError(f"{error.filename} is missing, and a manifest names it") from None
    raise AssertionError("unreachable: the last attempt returns or raises")


def write(file: Path, statement: Statement | NoPrivacy) -> None:
    """The statement as JSON. StorageError where it cannot be written."""
    write_json(file, statement.to_json(), private=False)


class _Reader:
    """The files of one directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._manifest = self._newest()
        logs = path.glob("silo-*/privacy.jsonl")
        self._logs = sorted(log for log in logs if log.parent.name.removeprefix("silo-").isdecimal())
        self._config = self._configured()

    def statement(self) -> Statement | NoPrivacy:
        """Read everything, and compare it."""
        privacy = self._privacy()
        if privacy.unit == "none":
            if self._logs:
                raise self._disagreement(
                    "the configuration has no [privacy]", f"{self._logs[0]} has releases"
                )
            return NoPrivacy(str(self._path))
        committed = self._committed(privacy)
        whole, perhaps = self._with_later(committed)
        self._compare(privacy, committed, whole)
        number = 0 if self._manifest is None else self._manifest.round
        later = f", and sums that may have been shown of {len(perhaps)} more" if perhaps else ""
        facts = [("run", self._run()), ("rounds", f"{number} committed{later}")]
        facts.append(("clipping norm", f"{privacy.clip_norm:g}"))
        facts += self._statistics(privacy)
        more = {"run": self._run(), "rounds": number, "rounds_perhaps_shown": sorted(perhaps)}
        return Statement(
            str(self._path), silofl.__version__, privacy, whole, facts, self._outside(privacy), more
        )

    def _newest(self) -> Manifest | None:
        """The newest committed round; CheckpointError for a damaged manifest, or rounds of two runs."""
        if not self._path.is_dir():
            raise ConfigError(f"{self._path} is no folder: name a run directory, such as runs/digits")
        intact, damaged = CheckpointDirectory(self._path / "checkpoints", 0).manifests()
        if damaged and (not intact or damaged[0] >= intact[0].round):
            raise CheckpointError(f"{self._path}: the manifest of round {damaged[0]} is damaged")
        if len({one.run for one in intact}) > 1:
            raise self._disagreement("rounds of two runs lie in it", "a statement is of one")
        return intact[0] if intact else None

    def _configured(self) -> Config | None:
        """What `config.toml` says, where this directory has it."""
        file = self._path / "config.toml"
        if not file.exists():
            return None
        try:
            return configuration.parse(tomllib.loads(configuration.read_text(file)))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            raise CheckpointError(f"{file} is damaged, or cannot be read") from None
        except ConfigError as error:
            raise MismatchError(f"{file}: {_OTHER_VERSION} ({error})") from None

    def _privacy(self) -> PrivacyConfig:
        """[privacy] of the run, from its manifest, its configuration, or both."""
        told = None
        if self._manifest is not None:
            table = self._manifest.identity.get("config")
            section = table.get("privacy") if isinstance(table, dict) else None
            if not isinstance(section, dict):
                raise CheckpointError(f"{self._path}: the manifest has no [privacy]")
            set_keys = {key: value for key, value in section.items() if value is not None}
            try:
                told = PrivacyConfig.model_validate(set_keys)
            except ValueError:
                raise MismatchError(f"{self._path}: {_OTHER_VERSION}") from None
        own = None if self._config is None else self._config.privacy
        if told is None and own is None:
            if self._logs:
                raise ConfigError(
                    f"{self._path} has releases, and neither a committed round nor config.toml, which say of "
                    "what unit and at which delta: lay the run's config.toml beside them"
                )
            raise ConfigError(f"{self._path} holds no run: name a run directory, such as runs/digits")
        if told is None:
            assert own is not None
            return own
        if own is not None and _without_local(own) != _without_local(told):
            raise self._disagreement("config.toml has another [privacy]", "the committed rounds have")
        return told if own is None else own

    def _run(self) -> str:
        """The run's id; CheckpointError where files have several."""
        found = {log: run_of_log(log) for log in self._logs}
        if self._manifest is not None:
            found[self._path / "checkpoints"] = self._manifest.run
        ids = {run for run in found.values() if run is not None}
        if len(ids) > 1:
            raise self._disagreement(*(f"{file} is of run {run}" for file, run in list(found.items())[-2:]))
        return min(ids, default="unknown")

    def _committed(self, privacy: PrivacyConfig) -> Ledger:
        """The ledger of the newest committed round, in which all files of it here agree."""
        if self._manifest is None:
            return Ledger()
        folder = CheckpointDirectory(self._path / "checkpoints", 0).folder(self._manifest.round)
        found: dict[int, Ledger] = {}
        for silo, entry in self._manifest.files.items():
            if (folder / entry.name).exists():
                found[silo] = self._ledger_in(folder / entry.name, entry.sha256)
        if not found:
            raise CheckpointError(
                f"{folder} has a manifest and no silo's file: a sealed copy is restored by --resume"
            )
        first, ledger = next(iter(found.items()))
        for silo, other in found.items():
            if ledger.forgets(other, silo) or not _equal(ledger, other):
                raise self._disagreement(f"silo {first}'s ledger", f"silo {silo}'s")
        if ledger.relations() - {privacy.neighbours}:
            raise self._disagreement(f'privacy.neighbours = "{privacy.neighbours}"', "the ledger")
        return ledger

    def _ledger_in(self, file: Path, digest: str) -> Ledger:
        try:
            text = read_skeleton(file, digest)["privacy"]["ledger"]
        except (KeyError, TypeError):
            raise CheckpointError(f"{file} has no ledger of what was spent") from None
        try:
            return Ledger.from_json(text)
        except ConfigError as error:
            raise CheckpointError(f"{file}: {error}") from None

    def _with_later(self, committed: Ledger) -> tuple[Ledger, set[int]]:
        """The ledger with all that any log here has of later rounds, and the numbers of those."""
        number = -1 if self._manifest is None else self._manifest.round
        whole, later = committed.copy(), list[Entry]()
        for log in self._logs:
            entries = entries_of(log)
            later += [entry for entry in entries if entry.round > number]
            self._refuse_forgotten(log, [entry for entry in entries if entry.round <= number], committed)
        for entry in union(later):
            for release, count in entry.releases:
                whole.record(release, entry.silos, count)
        return whole, {entry.round for entry in later if entry.round}

    def _statistics(self, privacy: PrivacyConfig) -> list[tuple[str, str]]:
        """What was shown of columns before the first round."""
        if not any(entry.round == 0 for log in self._logs for entry in entries_of(log)):
            return []
        noise = privacy.standardize_noise_multiplier
        return [("statistics", f"of columns, once, by sums with noise of multiplier {noise:g}, counted here")]

    def _refuse_forgotten(self, log: Path, entries: list[Entry], committed: Ledger) -> None:
        """Raise CheckpointError where a log has more of its silo than the ledger; attempts count once."""
        silo, logged = int(log.parent.name.removeprefix("silo-")), Ledger()
        for entry in {(one.round, one.attempt): one for one in entries if silo in one.silos}.values():
            for release, count in entry.releases:
                logged.record(release, [silo], count)
        if committed.forgets(logged, silo):
            raise self._disagreement(f"{log} has more releases", "the committed ledger has fewer")

    def _compare(self, privacy: PrivacyConfig, committed: Ledger, whole: Ledger) -> None:
        """Raise CheckpointError where `metrics.jsonl` or `summary.json` have other numbers."""
        number = 0 if self._manifest is None else self._manifest.round
        method = method_for(privacy)
        least, most = (ledger.epsilon(privacy.delta, method) for ledger in (committed, whole))
        for line in self._lines():
            if line.get("round") == number:
                self._within("metrics.jsonl", line.get("epsilon"), least, most)
        summary = self._summary()
        if summary is None or (number and summary.get("rounds") != number):
            return  # none yet, or of a shorter run that was resumed
        self._within("summary.json", summary.get("epsilon"), least, most)
        same = {"delta": privacy.delta, "neighbours": privacy.neighbours}
        for key, value in same.items():
            if summary.get(key) != value:
                raise self._disagreement(f"summary.json has another {key}", "the run's is")

    def _within(self, name: str, told: Any, least: float, most: float) -> None:
        number = math.inf if told is None else told
        if not isinstance(number, int | float) or not (
            least * (1 - TOLERANCE) <= number <= most * (1 + TOLERANCE)
        ):
            said = f"{number:.6g}" if isinstance(number, int | float) else "no number"
            raise self._disagreement(f"{name} says epsilon {said}", f"its ledger gives {least:.6g}")

    def _lines(self) -> list[Json]:
        """Of metrics.jsonl; a last one that a kill tore is left out."""
        return [line for line in map(_table, self._text("metrics.jsonl").splitlines()) if line is not None]

    def _summary(self) -> Json | None:
        text = self._text("summary.json")
        summary = _table(text)
        if text and summary is None:
            raise CheckpointError(f"{self._path / 'summary.json'} is damaged: it is not JSON")
        return summary

    def _text(self, name: str) -> str:
        file = self._path / name
        try:
            return private_files.read_bytes(file).decode(errors="replace") if file.exists() else ""
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None

    def _outside(self, privacy: PrivacyConfig) -> list[str]:
        """What was shown without noise, as far as this directory tells."""
        lines = []
        shown = any(line.get("metrics") for line in self._lines())
        rows = [line.get("per_silo") for line in self._lines()]
        each = any(any(row) for row in rows if isinstance(row, list))
        if self._config is None:
            lines.append("held-out records, where metrics were shown: metrics.jsonl is not in this directory")
        elif shown or privacy.metrics == "exact":
            exact = privacy.model_copy(update={"metrics": "exact"})
            lines.append(outside(exact, each_silo=each or self._config.shares_silo_metrics))
        if privacy.neighbours != "add-remove":
            who = {"patient": "patients", "client": "clients"}.get(privacy.unit, "records")
            lines.append(f"how many {who} each silo has, which is taken to be public")
        return lines

    def _disagreement(self, one: str, other: str) -> CheckpointError:
        return CheckpointError(f"{self._path} is no record of one run: {one}, and {other}")


def _without_local(privacy: PrivacyConfig) -> PrivacyConfig:
    """All that a resume must have as it was."""
    local = {key for section, key in configuration.LOCAL_KEYS if section == "privacy"} | {"metrics"}
    return PrivacyConfig.model_validate(privacy.model_dump(exclude=local))


def _equal(one: Ledger, other: Ledger) -> bool:
    return one.silos == other.silos and all(
        rounded(one.spent_by(silo)) == rounded(other.spent_by(silo)) for silo in one.silos
    )


def _table(text: str) -> Json | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, Mapping) else None  # type: ignore[return-value]
