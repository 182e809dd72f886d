"""A configuration file as all its silos have it, where institutions have values of their own in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from silofl import config as configuration
from silofl.config import LOCAL_KEYS, Config
from silofl.config.institutions import Institution, taken_from
from silofl.config.topology_section import coordinators_of, group_by_labels
from silofl.errors import ConfigError

DEFAULT_SILOS = 4
_PATH = ("data", "path")
_OF_INSTITUTIONS = LOCAL_KEYS - {("run", "display")}


@dataclass(frozen=True)
class Settings:
    """What a file says, for every silo."""

    path: Path
    institutions: tuple[Institution, ...]
    """None where the file has no `[[institution]]`: all silos have one configuration then."""
    _tables: Mapping[str, Any]
    _parsed: dict[int, Config] = field(default_factory=dict)

    def of(self, silo: int) -> Config:
        """The configuration of a silo. Raises ConfigError, with its name where it has values of its own."""
        number = silo if self.institutions else 0
        if number not in self._parsed:
            self._parsed[number] = self._config(number)
        return self._parsed[number]

    @property
    def own(self) -> Callable[[int], Config] | None:
        """`of` where institutions have values of their own, else None."""
        return self.of if self.institutions else None

    @classmethod
    def same(cls, config: Config) -> Settings:
        """One configuration for all silos."""
        return cls(Path("the configuration"), (), {}, {0: config})

    def silos(self, given: int | None, how: str = "leave out -n") -> int:
        """How many silos there are: as many as institutions, or as many as given.

        ConfigError where both are told and differ; `how` says how to give as many as there are institutions.
        """
        if self.institutions and given not in (None, len(self.institutions)):
            raise ConfigError(
                f"{self.path} has {len(self.institutions)} institutions and there are to be {given} silos: "
                f"{how}, or give one [[institution]] for each",
                rank=0,
            )
        return len(self.institutions) or given or DEFAULT_SILOS

    def own_keys(self) -> set[tuple[str, str]]:
        """Those that any institution has a value of its own of."""
        return {key for one in self.institutions for key in one.own}

    def hosts(self) -> tuple[str, ...]:
        """The host of each institution; none where no institution names one.

        ConfigError where some name one and others do not.
        """
        hosts = tuple(one.host for one in self.institutions)
        if any(hosts) and not all(hosts):
            without = next(one.name for one in self.institutions if not one.host)
            raise ConfigError(
                f"institution {without!r} has no host and others have one: give each its own, or none"
            )
        return hosts if any(hosts) else ()

    def _config(self, number: int) -> Config:
        if not self.institutions:
            return configuration.checked(dict(self._tables))
        one = self.institutions[number]
        try:
            return configuration.checked(self._applied(one, number))
        except ConfigError as error:
            if self._shared_mistake() == str(error):
                raise
            raise ConfigError(f"institution {one.name!r}: {error}", rank=error.rank) from None

    def _applied(self, one: Institution, number: int) -> dict[str, Any]:
        """An institution's tables; of a coordinator with a path that nothing reads, where others have one."""
        found = one.applied(self._tables)
        paths = any(_PATH in other.own for other in self.institutions)
        without = coordinators_of(self._tables.get("topology"), len(self.institutions))
        if paths and number in without and _PATH not in one.own and isinstance(found.get("data", {}), dict):
            found.setdefault("data", {})["path"] = "unread"
        return found

    def _shared_mistake(self) -> str:
        """What is wrong with what all institutions share; empty where nothing is."""
        try:
            configuration.checked(dict(deepcopy(self._tables)))
        except ConfigError as error:
            return str(error)
        return ""


def load(
    path: str | Path, overrides: list[str] | None = None, run: Mapping[str, str] | None = None
) -> Settings:
    """Read a file as `silofl.config.load` does; institutions' own values are checked by `Settings.of`."""
    return of_tables(configuration.read_tables(path, overrides, run), path)


def of_tables(tables: Mapping[str, Any], path: str | Path = "the configuration") -> Settings:
    """The same of tables that are already in memory; `path` is what messages call them."""
    mine = deepcopy(dict(tables))
    if isinstance(run := mine.setdefault("run", {}), dict):
        run.setdefault("name", "run")
    entries = mine.get("institution")
    ranks = len(entries) if isinstance(entries, list) else 1
    found = taken_from(mine, _OF_INSTITUTIONS, coordinators_of(mine.get("topology"), ranks))
    group_by_labels(mine.get("topology"), [one.label for one in found])
    return Settings(Path(path), found, mine)
