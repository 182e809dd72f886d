"""An institution's own budget: how much all runs together may release of its data.

Other silos learn that it ended a run, and nothing else of it.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from silofl.config import Config, PrivacyConfig, for_silo
from silofl.errors import ConfigError
from silofl.federation.privacy.budget_file import BudgetFile, Spending
from silofl.federation.privacy.budget_place import budget_path, shared
from silofl.federation.silo import Silo
from silofl.privacy.accountant import Method, epsilon
from silofl.privacy.plan import method_for
from silofl.privacy.processes import dearest
from silofl.privacy.releases import Release

Spent = Mapping[Release, int]
Releases = tuple[tuple[Release, int], ...]


class DataBudget:
    """What one silo may release of its data in one run, and what all runs have.

    Args:
        privacy: with the silo's own `budget_dir`.
        method: the run's accountant.
        run: its id.
        folder: the silo's run directory.
        silo: its number.
        data: the fingerprint of its data.
    """

    def __init__(
        self, privacy: PrivacyConfig, method: Method, run: str, folder: Path, silo: int, data: bytes
    ) -> None:
        self.file = BudgetFile(budget_path(privacy))
        self._privacy, self._run, self._folder, self._silo, self._data = (
            privacy,
            run,
            folder,
            silo,
            data.hex(),
        )
        self._method = method

    @property
    def delta(self) -> float:
        """At which all runs are added up."""
        return self._privacy.budget_delta or self._privacy.delta

    def spend(self, at: tuple[int, int], tag: str, releases: Releases, *, shown: bool = False) -> str:
        """Have what a round is about to show on disk; where it has no room, say why, and spend nothing.

        What was `shown` already is written down whatever it costs. Errors of `BudgetFile`; ConfigError where
        the file counts something else than this run.
        """
        one = self._spending(at, tag, releases)
        with self.file.writing() as file:
            self.refuse_other()
            known = one.key in {other.key for other in self.file.spendings}
            over = "" if known or shown else self._over(Counter(dict(releases)))
            if not over:
                self.file.append(file, one)
        return over

    def add_shown(self, number: int, releases: Releases) -> None:
        """Write down what a round has shown besides, which only now is known."""
        self.spend((number, 0), f"besides {secrets.token_hex(8)}", releases, shown=True)

    def over(self, more: Spent) -> str:
        """Why so many more releases have no room; empty where they have. Errors as `spend`."""
        self.file.update()
        self.refuse_other()
        return self._over(more)

    def refuse_other(self) -> None:
        """Raise ConfigError where the file has releases that do not add up with those of this run.

        Or releases of another silo of this run, whose data is another's.
        """
        for one in self.file.spendings:
            if one.run == self._run and one.silo != self._silo:
                raise shared(one.silo, self._silo, self.file.path)
        for one in self.file.spendings[:1]:
            (there, _), *_ = one.releases
            kinds = (one.unit, there.neighbours), (self._privacy.unit, self._privacy.neighbours)
            if kinds[0] != kinds[1]:
                raise ConfigError(
                    f"silo {self._silo}: the budget file {self.file.path} counts unit and neighbours "
                    f"{' and '.join(kinds[0])}, and this run's are {' and '.join(kinds[1])}: they do not add "
                    "up; set them as they were, or another privacy.budget_name"
                )

    def would_spend(self, more: Spent) -> float:
        """Epsilon of all runs and of `more` releases together, at `delta`."""
        before, new = self.file.spent, dearest(more)
        if before is None or new is None:
            return math.inf
        whole = Counter(before)
        whole.update(new)
        mixed = any(release.mechanism == "skellam" for release in whole)
        return epsilon(dict(whole), self.delta, "rdp" if mixed else self._method)

    def _over(self, more: Spent) -> str:
        """What a silo is told whose maximum leaves no room for these; empty where there is some."""
        most = self._privacy.budget_epsilon
        if most is None or self.would_spend(more) <= most:
            return ""
        runs = self.file.runs
        return (
            f"{runs} run(s) have spent epsilon {self.would_spend({}):.4g} of this silo's data, and with "
            f"what this one is about to show it would be {self.would_spend(more):.4g} at delta "
            f"{self.delta:g}, above privacy.budget_epsilon = {most:g} ({self.file.path}): raise it, or "
            "stop here"
        )

    def _spending(self, at: tuple[int, int], tag: str, releases: Releases) -> Spending:
        privacy = self._privacy
        where = _identity_of(self._folder)
        return Spending(
            *(self._run, where, self._silo, *at, tag, self._data),
            *(privacy.unit, privacy.place, privacy.colluding, self.delta, self._method),
            releases,
        )


def budget_of(config: Config, silo: Silo, number: int, path: Path, run: str) -> DataBudget | None:
    """What an institution lets all runs release of its data; None where it sets no folder, or has none."""
    if not silo.samples:
        return None
    return budget_for(config, number, path, run, silo.data_digest())


def budget_for(config: Config, number: int, path: Path, run: str, data: bytes) -> DataBudget | None:
    """`budget_of` a silo whose data has this fingerprint; none, `b""`, before it is scaled."""
    privacy = for_silo(config, number).privacy
    if not privacy.budget_dir:
        return None
    return DataBudget(privacy, method_for(privacy), run, path, number, data)


def foretold(config: Config, silo: int, whole: Spent, method: Method) -> str:
    """What a silo's budget file has, and what a run that releases `whole` would make of it.

    Empty where it has none. Errors of `BudgetFile`, and as of `DataBudget.refuse_other`.
    """
    privacy = for_silo(config, silo).privacy
    if not privacy.budget_dir:
        return ""
    budget = DataBudget(privacy, method, "", Path(), silo, b"")
    over, most = budget.over(whole), privacy.budget_epsilon
    runs = budget.file.runs
    return (
        f"silo {silo}: {runs} run(s) have spent epsilon {budget.would_spend({}):.4g} of its data, with "
        f"this one it is {budget.would_spend(whole):.4g} at delta {budget.delta:g}"
        + ("" if most is None else f", of {most:g} that privacy.budget_epsilon allows")
        + (": it will end this run" if over else "")
    )


def _identity_of(folder: Path) -> str:
    """What tells a run directory from its copies: its path and the number that its file system gave it."""
    number = 0
    with suppress(OSError):
        number = folder.stat().st_ino
    return hashlib.sha256(f"{number} {folder.absolute()}".encode()).hexdigest()[:32]
