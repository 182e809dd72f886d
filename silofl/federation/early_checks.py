"""Everything that a run is refused for before torch is loaded and any data is read: one list of checks.

`silofl launch` makes them in its own process, before it starts ranks; every rank makes them again, for
itself, for those who start ranks by other means. A check looks at names, folders and small files, and runs no
code of a user's: it takes milliseconds. What is wrong and is not found here, the ranks find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from silofl.aggregation.protocols import choose_protocol
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.config import Config, for_silo, resumption_tables
from silofl.crypto.signer import refuse_unusable
from silofl.errors import ConfigError
from silofl.federation import rundir
from silofl.federation.exclusion_limits import refuse_unfit_detection
from silofl.federation.failure.policy import refuse_idle_faults
from silofl.federation.participation import refuse_unfit
from silofl.federation.privacy import budget_place
from silofl.federation.robustness import refuse_unfit_attack, refuse_unfit_rule
from silofl.federation.run_trust import CHECKPOINTS
from silofl.federation.secure_conflicts import refuse_conflicts
from silofl.report.loggers import registry as loggers_of
from silofl.tasks import early as tasks
from silofl.topologies.arrangements.registry import ARRANGEMENTS, coordinators, refuse_ranks, with_data


@dataclass(frozen=True)
class Start:
    """A run that is about to start."""

    config: Config
    silos: int
    """How many."""
    resume: bool = False
    own_task: bool = False
    """Whether a program gives the task, and [task] is not read."""
    own: Callable[[int], Config] | None = None
    """A silo's configuration, where institutions have values of their own."""

    def of(self, silo: int) -> Start:
        """The start of one silo."""
        return self if self.own is None else replace(self, config=self.own(silo))


def secure_keys(start: Start) -> None:
    """[secure] has no key that does nothing."""
    refuse_conflicts(start.config)


def topology(start: Start) -> None:
    """There is such a topology, and so many ranks can be arranged as [topology] says."""
    config, silos = start.config, start.silos
    if config.topology.name not in ARRANGEMENTS:  # it may have a class alone, which is dear to ask for
        from silofl.topologies.registry import arrangement_of

        arrangement_of(config.topology)
    private = choose_protocol(config.secure, silos).private
    refuse_ranks(config.topology, silos, config.run.seed, private=private)


def number_of_silos(start: Start) -> None:
    """So many silos can run the protocol."""
    secure, silos = start.config.secure, with_data(start.config.topology, start.silos)
    refusal = choose_protocol(secure, silos).refusal(secure, silos)
    if refusal is not None:
        raise ConfigError(refusal, rank=0)


def participation(start: Start) -> None:
    """So many silos can take part in a round as [run] says."""
    refuse_unfit(start.config, with_data(start.config.topology, start.silos))


def robust_rule(start: Start) -> None:
    """The rule of [robust] is one of so many silos' own updates."""
    refuse_unfit_rule(start.config, start.silos)


def detection(start: Start) -> None:
    """So many silos' own updates can be compared, and some of them left out."""
    refuse_unfit_detection(start.config, start.silos)


def attack(start: Start) -> None:
    """The silos that are to attack are there, and the sum lets them."""
    refuse_unfit_attack(start.config, start.silos)


def faults(start: Start) -> None:
    """Every fault to inject can happen."""
    if not start.resume:
        refuse_idle_faults(start.config, start.silos)


def run_directory(start: Start, silo: int) -> None:
    """The directory holds no other run; one that is named holds none at all, unless it is resumed."""
    if silo == 0:
        rundir.refuse_taken(start.config, resume=start.resume)


def resumed_run(start: Start, silo: int) -> None:
    """A run that is resumed is of this configuration and as many silos, as far as this silo's folder tells.

    Of several runs in one folder, and of manifests that are damaged or not signed as they should be, the
    ranks tell.
    """
    if not start.resume:
        return
    own = for_silo(start.config, silo)
    folder = Path(rundir.pick(own, resume=True)) / CHECKPOINTS
    manifests, _ = CheckpointDirectory(folder, silo).manifests()
    if len({manifest.run for manifest in manifests}) == 1:
        manifests[0].check({"config": resumption_tables(start.config)}, start.silos, str(folder))


def keys(start: Start, silo: int) -> None:
    """The silo's key and roster are there, and the roster is of so many silos."""
    refuse_unusable(for_silo(start.config, silo).secure, start.silos)


def loggers(start: Start, silo: int) -> None:
    """There are loggers of these names; what they need is installed where the run is led."""
    config = for_silo(start.config, silo)
    loggers_of.refuse_unknown(config)
    if silo == 0:
        loggers_of.refuse_missing(config)


def task_and_data(start: Start, silo: int) -> None:
    """The task and the silo's files are there, and what reads these is installed."""
    if not (start.own_task or silo in coordinators(start.config.topology, start.silos)):
        tasks.refuse_early(start.config, silo)


OF_RUN: tuple[Callable[[Start], None], ...] = (
    secure_keys,
    topology,
    number_of_silos,
    participation,
    robust_rule,
    detection,
    attack,
    faults,
)
"""What the configuration and the number of silos tell."""
OF_SILO: tuple[Callable[[Start, int], None], ...] = (
    run_directory,
    resumed_run,
    keys,
    loggers,
    task_and_data,
)
"""What a silo's own files tell, where its rank runs."""


def refuse_early(start: Start, silos: Iterable[int]) -> None:
    """Make all checks, those of silos for the ones whose files are here.

    Raises ConfigError, DataError, MismatchError or MissingDependencyError: one sentence.
    """
    for of_run in OF_RUN:
        of_run(start)
    here = tuple(silos)
    for silo in here:
        for of_silo in OF_SILO:
            of_silo(start.of(silo), silo)
    budget_place.refuse_unusable(start.config, here, start.own)
