"""One run with canaries, and what an attacker proves of it: `silofl audit`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from silofl.audit.canaries import Canaries, insert
from silofl.audit.probes import Probed, probe
from silofl.audit.scores import Attacker, released_models
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import ConfigError, StoppedError
from silofl.federation.loop import train
from silofl.federation.run_statement import NoPrivacy, statement_of_run
from silofl.federation.secure_conflicts import refuse_conflicts
from silofl.federation.silo import Silo
from silofl.privacy.accountant import Method
from silofl.privacy.one_run import accuracy, by_accuracy, refutes, without_assumptions
from silofl.privacy.releases import Release
from silofl.tasks import registry as tasks
from silofl.topologies.arrangements.registry import build

ERROR = 0.05
"""Probability with which an honest claim is called false, or a bound is above the truth, in all."""


@dataclass(frozen=True)
class Audit:
    """What was found of one configuration."""

    claimed: float
    """Epsilon against who sees the models."""
    delta: float
    probed: Probed
    canaries: int
    proven: float
    """Epsilon is at least this, where canaries' noise is independent."""
    proven_always: float
    """Epsilon is at least this, whatever the mechanism is."""
    guesses: int
    right: int
    refuted: bool
    """Whether the claim is refuted at any delta."""

    @property
    def holds(self) -> bool:
        """Whether nothing that was found contradicts the claim."""
        return self.probed.holds and not self.refuted

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"error": ERROR, "verdict": "consistent" if self.holds else "false"}

    def text(self) -> str:
        """For people."""
        probed, others = self.probed, ""
        if probed.others:
            others = f"; {probed.others} OTHER RECORDS CHANGED with it"
        lines = [
            f"sensitivity  {probed.probes} probes: a record moves its silo's clipped sum by at most "
            f"{probed.norms:.4f} clipping norms of 1 claimed{others}",
            f"canaries     {self.canaries}: of the {self.guesses} surest guesses {self.right} are right",
            f"proven       epsilon {self.proven:.3g} of {self.claimed:.4g} claimed against who sees models, "
            f"at delta {self.delta:g} and {1 - ERROR:.0%} confidence",
            f"             epsilon {self.proven_always:.3g} of any mechanism (Steinke et al. 2023, thm 5.2)",
            f"verdict      {'consistent with the claim' if self.holds else 'the claim is FALSE'}",
        ]
        return "\n".join(lines) + "\n"


def audit(config: Config, silos: int, canaries: int, *, seed: int = 0, timeout_s: float = 600.0) -> Audit:
    """Probe every silo's files, then train once with canaries, silos as threads of this process.

    Nobody's own file, run directory, key or budget is written or used. StoppedError after `timeout_s`.
    Raises ConfigError for a configuration that makes no claim on records.
    """
    _refuse(config, canaries)
    with _one_thread():
        return _audit(config, silos, canaries, seed, timeout_s)


def _audit(config: Config, silos: int, canaries: int, seed: int, timeout_s: float) -> Audit:
    probed = Probed(0, 0.0, 0)
    with tempfile.TemporaryDirectory(prefix="silofl-audit-") as folder:
        for silo in range(silos):
            probed = probed.worst(probe(config, silo, silos, folder, seed))
    with tempfile.TemporaryDirectory(prefix="silofl-audit-") as folder:
        at, inserted = insert(config, silos, canaries, folder, seed)
        _train(at, silos, timeout_s)
        return _found(at, silos, inserted, probed, Path(folder) / "run")


def _refuse(config: Config, canaries: int) -> None:
    refuse_conflicts(config)
    arrangement = build(config.topology)
    if arrangement.own_models or arrangement.coordinators(1):
        raise ConfigError(
            "silofl audit attacks a shared model, of ranks that all have data, and topology.name = "
            f'"{config.topology.name}" has other ones: audit with topology.name = "sharded", whose noise is '
            "the same"
        )
    if config.privacy.unit != "example":
        raise ConfigError(
            f'silofl audit takes records for canaries, and privacy.unit is "{config.privacy.unit}": set '
            '"example"'
        )
    if config.data.standardize:
        raise ConfigError(
            'data.standardize = "federated" takes noisy statistics before the first round, which silofl '
            "audit does not attack: audit with constants in data.center and data.scale in its place"
        )
    if config.task.head != "classification" or config.task.class_weights is not None:
        raise ConfigError(
            'silofl audit has canaries of classes that count alike: audit with task.head = "classification" '
            "and without task.class_weights, whose way from file to noise is the same"
        )
    if config.data.categorical or config.data.impute:
        raise ConfigError(
            "silofl audit writes canaries of numbers alone: audit without data.categorical and data.impute, "
            "which touch one record at a time and release nothing"
        )
    if canaries < 20:
        raise ConfigError(f"--canaries {canaries} is too few to prove anything: give 20 at least")


def _train(config: Config, silos: int, timeout_s: float) -> None:
    def rank(comm: Communicator) -> None:
        torch.set_num_threads(1)  # each silo has a thread already
        train(config, comm=comm)

    try:
        run_in_threads(silos, rank, timeout_s=timeout_s)
    except TimeoutError:
        raise StoppedError(
            f"the audited run took longer than {timeout_s:g} s: set a longer --timeout, fewer --canaries "
            "or fewer run.rounds"
        ) from None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of few records are faster by one thread; the probes' bits do not hang on the machine then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _found(config: Config, silos: int, canaries: Canaries, probed: Probed, run: Path) -> Audit:
    statement = statement_of_run(run)
    assert not isinstance(statement, NoPrivacy)
    observer = statement.adversaries[0]
    spent = observer.groups[0][1] or {}
    made = [_silo(config, silo, silos) for silo in range(silos)]
    records = sum(silo.counted for _, silo in made)
    task, first = made[0]
    scores = Attacker(config, task, first, canaries, records).scores(released_models(run), spent)
    return _judged(scores, canaries, spent, observer.epsilon, config.privacy.delta, observer.method, probed)


def _silo(config: Config, silo: int, silos: int) -> tuple[Any, Silo]:
    task = tasks.build(config)
    return task, Silo(config, task, silo, silos, "cpu")


def _judged(
    scores: Any,
    canaries: Canaries,
    spent: Mapping[Release, int],
    claimed: float,
    delta: float,
    method: Method,
    probed: Probed,
) -> Audit:
    always, guesses, right = without_assumptions(scores, canaries.there, delta, ERROR / 2)
    least = accuracy(scores, canaries.there, ERROR / 2)
    proven = by_accuracy(least, spent, delta, method)
    refuted = refutes(least, spent, delta, method) or always > claimed
    return Audit(claimed, delta, probed, len(canaries), max(proven, always), always, guesses, right, refuted)
