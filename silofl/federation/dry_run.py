"""What a run would be, found out in one process before any rank starts: `silofl check`."""

from __future__ import annotations

from dataclasses import dataclass

from silofl.aggregation.plain import CHUNK
from silofl.aggregation.protocols import choose_protocol
from silofl.aggregation.shards import slice_bounds
from silofl.config import Config
from silofl.federation.failure.policy import describe_policy
from silofl.federation.federation import gathered_bytes
from silofl.federation.handshake import model_mismatch
from silofl.federation.privacy.guarantee import describe, notes, plan_for, refuse_over_budget
from silofl.federation.silo import Silo, place
from silofl.tasks import registry as tasks

MIB = 1 << 20


@dataclass(frozen=True)
class SiloDryRun:
    """One silo before it runs."""

    silo: int
    device: str
    train_samples: int
    test_samples: int


@dataclass(frozen=True)
class DryRun:
    """A run before it runs. Memory counts silofl's own arrays, not activations, data or libraries."""

    silos: list[SiloDryRun]
    model: str
    parameters: int
    protocol: str
    bytes_sent_per_round: int
    """By silo 0: its update to the owners of slices, then its slice of the new model to all."""
    memory_mib: float
    """Per silo: global model, local model, gradients, update, and the buffers of the sum."""
    failure: str
    """What happens when a silo dies."""
    privacy: str
    """What is promised at the end; empty where nothing is."""
    notes: list[str]
    """What makes that promise weaker than it looks."""


def dry_run(config: Config, silos: int) -> DryRun:
    """Build every silo once, as `silofl train` would. Raises the ConfigError or DataError it would raise."""
    task = tasks.build(config)
    rows: list[SiloDryRun] = []
    first: Silo | None = None
    for number in range(silos):
        silo = Silo(config, task, number, silos, place(config.train.device, number))
        if first is not None:
            error = model_mismatch(number, silo.model, first.model.fingerprint(), first.model.describe())
            if error is not None:
                raise error
        first = first or silo
        device = str(silo.model.vector.device)
        rows.append(SiloDryRun(number, device, silo.samples, silo.test_samples))
    assert first is not None
    return _sizes(config, rows, first)


def _sizes(config: Config, rows: list[SiloDryRun], silo: Silo) -> DryRun:
    size, wire = silo.model.size, silo.model.wire_dtype.itemsize
    silos = len(rows)
    bounds = slice_bounds(size, silos)
    largest = bounds[1]
    protocol = choose_protocol(config.secure, silos)
    word = wire if protocol == "plain" else config.secure.bits / 8
    sent = round(word * (size - largest)) + gathered_bytes(bounds, 0, wire)
    memory = size * (2 * wire + 2 * silo.model.vector.element_size()) + 2 * silos * min(CHUNK, largest) * wire
    failure = describe_policy(config, silos)
    privacy, weak = _privacy(config, rows, silo)
    return DryRun(rows, silo.model.describe(), size, protocol, sent, memory / MIB, failure, privacy, weak)


def _privacy(config: Config, rows: list[SiloDryRun], silo: Silo) -> tuple[str, list[str]]:
    """The epsilon that the run will end with if nobody is lost; raises what the run would refuse."""
    if config.privacy.unit == "none":
        return "", []
    silo.refuse_unprotectable(config.privacy)
    records = sum(row.train_samples for row in rows)
    plan = plan_for(config, silo.model.size, records, len(rows), len(rows))
    noise = plan.noise_multiplier()
    refuse_over_budget(plan, noise)
    return describe(plan, noise), notes(plan, noise)
