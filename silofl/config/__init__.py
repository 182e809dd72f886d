"""The configuration: TOML in typed sections, every key known, every mistake one sentence."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w
from pydantic import ValidationError, model_validator

from silofl.config import conflicts, mistakes, privacy_keys
from silofl.config.attack_section import DEFAULT as NO_ATTACK
from silofl.config.attack_section import SECTIONS as ATTACKS
from silofl.config.attack_section import AnyAttack, AttackConfig
from silofl.config.audit_section import AuditConfig
from silofl.config.clients_section import ClientsConfig
from silofl.config.compress_section import DEFAULT as NO_CODEC
from silofl.config.compress_section import SECTIONS as CODECS
from silofl.config.compress_section import AnyCompress, CompressConfig
from silofl.config.detection_section import DetectionConfig
from silofl.config.failure_section import FailureConfig
from silofl.config.local_paths import LOCAL_PATHS, relative_to, silo_path
from silofl.config.personal_section import DEFAULT as NO_METHOD
from silofl.config.personal_section import SECTIONS as PERSONAL
from silofl.config.personal_section import AnyPersonal, PersonalConfig
from silofl.config.prune_section import DEFAULT as NO_PRUNING
from silofl.config.prune_section import SECTIONS as RULES
from silofl.config.prune_section import AnyPrune, PruneConfig
from silofl.config.robust_section import DEFAULT as NO_RULE
from silofl.config.robust_section import SECTIONS as ROBUST
from silofl.config.robust_section import AnyRobust, RobustConfig
from silofl.config.section import Section
from silofl.config.sections import (
    CheckpointConfig,
    DataConfig,
    PrivacyConfig,
    RunConfig,
    SecureConfig,
    TaskConfig,
    TrainConfig,
)
from silofl.config.strategy_section import DEFAULT, SECTIONS, AnyStrategy, StrategyConfig
from silofl.config.text_file import decoded, marked_encoding, read_text
from silofl.config.topology_section import DEFAULT as SERVERLESS
from silofl.config.topology_section import SECTIONS as TOPOLOGIES
from silofl.config.topology_section import AnyTopology, TopologyConfig
from silofl.errors import ConfigError

__all__ = [
    "LOCAL_KEYS",
    "LOCAL_PATHS",
    "RESUMABLE_KEYS",
    "AttackConfig",
    "AuditConfig",
    "CheckpointConfig",
    "ClientsConfig",
    "CompressConfig",
    "Config",
    "DataConfig",
    "DetectionConfig",
    "FailureConfig",
    "PersonalConfig",
    "PrivacyConfig",
    "PruneConfig",
    "RobustConfig",
    "RunConfig",
    "SecureConfig",
    "StrategyConfig",
    "TaskConfig",
    "TopologyConfig",
    "TrainConfig",
    "checked",
    "decoded",
    "digest",
    "dump",
    "first_difference",
    "for_silo",
    "load",
    "marked_encoding",
    "parse",
    "read_tables",
    "read_text",
    "relative_to",
    "resumption_tables",
    "shared_tables",
    "silo_path",
]


class Config(Section):
    """A whole run."""

    run: RunConfig = RunConfig()
    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    clients: ClientsConfig = ClientsConfig()
    strategy: AnyStrategy = SECTIONS[DEFAULT](name=DEFAULT)
    personal: AnyPersonal = PERSONAL[NO_METHOD](name=NO_METHOD)
    topology: AnyTopology = TOPOLOGIES[SERVERLESS](name=SERVERLESS)
    secure: SecureConfig = SecureConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    compress: AnyCompress = CODECS[NO_CODEC](name=NO_CODEC)
    prune: AnyPrune = RULES[NO_PRUNING](name=NO_PRUNING)
    robust: AnyRobust = ROBUST[NO_RULE](name=NO_RULE)
    detection: DetectionConfig = DetectionConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    failure: FailureConfig = FailureConfig()
    audit: AuditConfig = AuditConfig()
    attack: AnyAttack = ATTACKS[NO_ATTACK](name=NO_ATTACK)

    @property
    def evaluates(self) -> bool:
        """Whether metrics of held-out records are shown."""
        return self.privacy.unit == "none" or self.privacy.metrics == "exact"

    @property
    def shares_silo_metrics(self) -> bool:
        """Whether each silo's own are shown; under [privacy] only where that is asked for."""
        chosen = self.run.share_silo_metrics
        return self.evaluates and (self.privacy.unit == "none" if chosen is None else chosen)

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        sentence = next(conflicts.found(self), None)
        if sentence is not None:
            raise ValueError(sentence)
        return self


LOCAL_KEYS = {
    *(
        ("run", "display"),
        ("run", "loggers"),
        ("train", "device"),
        ("train", "ranks_per_silo"),
        ("data", "decimal"),
        ("data", "units"),
    ),
    *(("privacy", key) for key in ("budget_name", "budget_epsilon", "budget_delta")),
    *LOCAL_PATHS,
}
"""Keys that each institution sets for itself; all others are the same on every rank."""

RESUMABLE_KEYS = {
    ("run", "name"),
    ("run", "rounds"),
    ("run", "evaluate_every"),
    ("run", "share_silo_metrics"),
    ("data", "accept_changes"),
    ("privacy", "metrics"),
    ("checkpoint", "every"),
    ("checkpoint", "keep"),
    ("checkpoint", "buddy"),
    *(("failure", key) for key in FailureConfig.model_fields),
}
"""Keys that may change between a run and its resumption: none enters what a round computes."""


def load(
    path: str | Path, overrides: list[str] | None = None, run: Mapping[str, str] | None = None
) -> Config:
    """Read a TOML file, apply `section.key=value` overrides and keys of [run] as they are; check every key.

    A file with [[institution]] has a configuration for each: see `silofl.config.settings`.

    Raises:
        ConfigError: one sentence with the key, the value and what to do.
    """
    tables = read_tables(path, overrides, run)
    if "institution" in tables:
        raise ConfigError(
            f"{path} has [[institution]], and so a configuration for each silo: give silofl.train or "
            "silofl.simulate its path, or read it with silofl.config.settings.load"
        )
    return checked(tables)


def read_tables(
    path: str | Path, overrides: list[str] | None = None, run: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The tables of a TOML file with overrides and keys of [run], unchecked. Raises ConfigError as `load`."""
    path = Path(path)
    try:
        tables = tomllib.loads(read_text(path))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}; give an existing TOML file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not valid TOML: it is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    for override in overrides or []:
        _apply(tables, override)
    table = tables.setdefault("run", {})
    if isinstance(table, dict):
        table.update(run or {})
        table.setdefault("name", path.stem)
    return tables


def checked(tables: dict[str, Any]) -> Config:
    """Check the tables of a file or a command line. Raises ConfigError as `load`."""
    config = parse(tables)
    _refuse_bytes(config)
    return config


def parse(tables: dict[str, Any]) -> Config:
    """Check tables that are already in memory; raises ConfigError as `load` does."""
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(mistakes.sentence(error, Config.model_fields)) from None


def dump(config: Config, idle: Mapping[str, Iterable[str]] = MappingProxyType({})) -> str:
    """The resolved configuration as TOML: what `load` reads back as an equal Config.

    `idle` are keys by section that do nothing in it, and are left out, as those of [privacy] always are:
    where they are set they are refused.
    """
    unused = privacy_keys.idle_keys(config.privacy, statistics=bool(config.data.standardize))
    without: dict[str, Iterable[str]] = {"privacy": unused, "clients": config.clients.idle, **idle}
    without["detection"] = config.detection.idle
    if config.privacy.unit == "client":
        without["clients"] = (*without["clients"], "batched")
    if not config.evaluates:
        without["run"] = ("evaluate_every",)
    exclude = {section: set(keys) for section, keys in without.items()}
    return tomli_w.dumps(config.model_dump(exclude_none=True, exclude=exclude))


def for_silo(config: Config, silo: int) -> Config:
    """The configuration with the local paths of one silo: see `silo_path`."""
    sections: dict[str, Any] = {}
    for section, key in LOCAL_PATHS:
        table = sections.get(section, getattr(config, section))
        text = getattr(table, key)
        own = (
            str(silo_path(text, silo, f"{section}.{key}")) if text else ""
        )  # an empty one is no path, and "." is
        sections[section] = table.model_copy(update={key: own})
    return config.model_copy(update=sections)


def digest(config: Config) -> bytes:
    """SHA-256 (32 bytes) of all that is the same on every rank."""
    return hashlib.sha256(json.dumps(shared_tables(config), sort_keys=True).encode()).digest()


def shared_tables(config: Config) -> dict[str, Any]:
    """The tables, as JSON values, of all that is the same on every rank."""
    tables = config.model_dump(mode="json")
    for section, key in LOCAL_KEYS:
        tables[section].pop(key)
    return tables


def resumption_tables(config: Config) -> dict[str, Any]:
    """The tables, as JSON values, that must be equal for a run to be resumed."""
    tables = config.model_dump(mode="json")
    for section, key in LOCAL_KEYS | RESUMABLE_KEYS:
        tables[section].pop(key)
    schedule = tables["train"]["schedule"]
    if isinstance(schedule, dict) and schedule["rounds"] is None and config.train.schedule.changes:
        schedule["rounds"] = config.run.rounds  # more of them make another schedule
    return tables


def first_difference(mine: Config, other: dict[str, Any]) -> str:
    """The first key that differs from `other`'s dump: `train.lr is 0.1 here and 0.2 there`; else ''."""
    for section, table in mine.model_dump(mode="json").items():
        for key, value in table.items():
            there = other.get(section, {}).get(key)
            if (section, key) not in LOCAL_KEYS and value != there:
                return f"{section}.{key} is {json.dumps(value)} here and {json.dumps(there)} there"
    return ""


def _refuse_bytes(config: Config) -> None:
    """Raise ConfigError for a name of a file or on the command line that is not UTF-8, as results are."""
    for section, table in config.model_dump(mode="python").items():
        for key, value in table.items():
            if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
                raise ConfigError(f"{section}.{key} = {value!a} is not UTF-8: rename it")


def _apply(tables: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    *sections, key = name.strip().split(".")  # tables in a section, such as task.options, have keys as well
    if not (equals and key and sections and all(sections)):
        raise ConfigError(f"--set {override!r} is not of the form section.key=value")
    if name.strip()[0] in "'\"":
        raise ConfigError(
            f"--set {override!r} has a quote before its key, as where no shell takes quotes away, such as in "
            "an app file of mpirun: write section.key=value without"
        )
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = tables
    for depth, section in enumerate(sections):
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            what = "a table" if depth else "a section"
            raise ConfigError(f"--set {override!r}: {'.'.join(sections[: depth + 1])} is not {what}")
    table[key] = value
