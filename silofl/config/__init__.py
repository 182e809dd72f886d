"""The configuration: TOML in typed sections, every key known, every mistake one sentence."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError, model_validator

from silofl.config.conflicts import privacy_conflicts
from silofl.config.sections import (
    CheckpointConfig,
    DataConfig,
    FailureConfig,
    PrivacyConfig,
    RunConfig,
    Section,
    SecureConfig,
    StrategyConfig,
    TaskConfig,
    TrainConfig,
)
from silofl.errors import ConfigError

__all__ = [
    "LOCAL_KEYS",
    "RESUMABLE_KEYS",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "FailureConfig",
    "PrivacyConfig",
    "RunConfig",
    "SecureConfig",
    "StrategyConfig",
    "TaskConfig",
    "TrainConfig",
    "digest",
    "dump",
    "first_difference",
    "load",
    "parse",
    "resumption_tables",
]


class Config(Section):
    """A whole run."""

    run: RunConfig = RunConfig()
    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    strategy: StrategyConfig = StrategyConfig()
    secure: SecureConfig = SecureConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    failure: FailureConfig = FailureConfig()

    @model_validator(mode="after")
    def _privacy_is_possible(self) -> Config:
        for wrong, sentence in privacy_conflicts(self) if self.privacy.unit != "none" else ():
            if wrong:
                raise ValueError(sentence)
        return self


LOCAL_KEYS = {
    ("run", "dir"),
    ("run", "display"),
    ("data", "path"),
    ("train", "device"),
    ("secure", "identity"),
    ("secure", "passphrase_file"),
    ("secure", "roster"),
    ("checkpoint", "key_file"),
}
"""Keys that each institution sets for itself; all others are the same on every rank."""

RESUMABLE_KEYS = {
    ("run", "name"),
    ("run", "rounds"),
    ("run", "evaluate_every"),
    ("run", "share_silo_metrics"),
    ("checkpoint", "every"),
    ("checkpoint", "keep"),
    ("checkpoint", "buddy"),
    *(("failure", key) for key in FailureConfig.model_fields),
}
"""Keys that may change between a run and its resumption: none enters what a round computes."""


def load(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a TOML file, apply `section.key=value` overrides, check every key.

    Raises:
        ConfigError: one sentence with the key, the value and what to do.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}; give an existing TOML file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    for override in overrides or []:
        _apply(tables, override)
    run = tables.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("name", path.stem)
    return parse(tables)


def parse(tables: dict[str, Any]) -> Config:
    """Check tables that are already in memory; raises ConfigError as `load` does."""
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from None


def dump(config: Config) -> str:
    """The resolved configuration as TOML: what `load` reads back as an equal Config."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))


def digest(config: Config) -> bytes:
    """SHA-256 (32 bytes) of all that is the same on every rank."""
    tables = config.model_dump(mode="json")
    for section, key in LOCAL_KEYS:
        tables[section].pop(key)
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).digest()


def resumption_tables(config: Config) -> dict[str, Any]:
    """The tables, as JSON values, that must be equal for a run to be resumed."""
    tables = config.model_dump(mode="json")
    for section, key in LOCAL_KEYS | RESUMABLE_KEYS:
        tables[section].pop(key)
    return tables


def first_difference(mine: Config, other: dict[str, Any]) -> str:
    """The first key that differs from `other`'s dump: `train.lr is 0.1 here and 0.2 there`; else ''."""
    for section, table in mine.model_dump(mode="json").items():
        for key, value in table.items():
            there = other.get(section, {}).get(key)
            if (section, key) not in LOCAL_KEYS and value != there:
                return f"{section}.{key} is {json.dumps(value)} here and {json.dumps(there)} there"
    return ""


def _apply(tables: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(f"--set {override!r} is not of the form section.key=value")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = tables.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"--set {override!r}: {section} is not a section")
    table[key] = value


def _sentence(error: ValidationError) -> str:
    """The first problem as one sentence that names key, value and remedy."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
    if problem["type"] == "extra_forbidden":
        return _unknown(where, problem["loc"])
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    text = problem["msg"].removeprefix("Input should be ")
    return f"{where} = {problem['input']!r} is not allowed: it should be {text}"


def _unknown(where: str, loc: tuple[int | str, ...]) -> str:
    known = list(Config.model_fields)
    kind = "section"
    if len(loc) > 1:
        kind = "key"
        fields = Config.model_fields[str(loc[0])].annotation.model_fields  # type: ignore[union-attr]
        known = [f"{loc[0]}.{name}" for name in fields]
    near = difflib.get_close_matches(where, known, n=1, cutoff=0.0)
    return f"unknown {kind} {where}: did you mean {near[0]}?"
