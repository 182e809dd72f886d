"""What a run would be, found out in one process before any rank starts: `silofl check`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.protocols import PROTOCOLS, describe_keys, protocol_name
from silofl.aggregation.reduce_scatter import chunk_width
from silofl.aggregation.row_exchange import BUFFERS
from silofl.aggregation.shards import slice_bounds
from silofl.aggregation.spec import AggregationSpec
from silofl.config import Config
from silofl.errors import MismatchError
from silofl.federation.failure.policy import describe_policy
from silofl.federation.federation import aggregation_spec
from silofl.federation.handshake import model_mismatch, model_told
from silofl.federation.privacy.guarantee import describe, notes, plan_for, refuse_over_budget
from silofl.federation.recomputation import describe_recomputation
from silofl.federation.schema import describe_schema, schema_mismatch, schema_notices
from silofl.federation.secure_conflicts import refuse_conflicts
from silofl.federation.silo import Silo, place
from silofl.federation.traffic import TrialRound
from silofl.federation.units import unit_notes
from silofl.privacy.places import PLACES
from silofl.report.dry_run_table import MIB, DryRun, SiloDryRun
from silofl.strategies.base import Strategy
from silofl.strategies.registry import build
from silofl.tasks import registry as tasks
from silofl.tasks.base import Schema
from silofl.tasks.files import Files
from silofl.tasks.user_code import UserCode
from silofl.topologies.registry import topology_of


def dry_run(config: Config, silos: int) -> DryRun:
    """Build every silo once, as `silofl train` would. Raises the ConfigError or DataError it would raise."""
    refuse_conflicts(config)
    task = tasks.build(config, alone=True)
    rows: list[SiloDryRun] = []
    schemas: dict[int, Schema] = {}
    magnitudes: dict[int, NDArray[np.float64]] = {}
    first: Silo | None = None
    error: MismatchError | None = None
    for number in range(silos):
        code = UserCode(number, alone=True)
        silo = Silo(config, task, number, silos, place(config.train.device, number), code=code)
        first = first or silo
        error = error or model_mismatch(number, silo.model, *model_told(first.model))
        schemas[number] = silo.schema
        if isinstance(task, Files) and not config.data.standardize:
            magnitudes[number] = task.magnitudes
        device = str(silo.model.vector.device)
        rows.append(SiloDryRun(number, device, silo.samples, silo.test_samples))
    assert first is not None
    error = schema_mismatch(schemas) or error  # columns are what a user knows
    if error is not None:
        raise error
    notes = [*schema_notices(schemas), *unit_notes(first.schema, magnitudes)]
    found = _sizes(config, rows, first)
    return replace(found, notes=[*found.notes, *notes])


def _sizes(config: Config, rows: list[SiloDryRun], silo: Silo) -> DryRun:
    silos, strategy = len(rows), build(config.strategy)
    tolerant = config.failure.policy != "abort"
    spec = aggregation_spec(config, silo, strategy, silos, tolerant=tolerant)
    words = config.privacy.unit != "none" and not PLACES[config.privacy.place].alone
    topology = topology_of(config.topology)
    sent = TrialRound(config.secure, topology, strategy, words=words, tolerant=tolerant).bytes_sent(spec)
    privacy, weak = _privacy(config, rows, silo)
    name = protocol_name(config.secure, silos)
    return DryRun(
        silos=rows,
        columns=describe_schema(silo.schema),
        model=silo.model.describe(),
        strategy=config.strategy.name,
        rounds=config.run.rounds,
        protocol=name,
        keys=describe_keys(config.secure, silos),
        bears=PROTOCOLS[name].bears(config.secure, silos),
        steps=describe_recomputation(config, silos),
        bytes_sent_per_round=sent,
        memory_mib=_memory(silo, strategy, spec) / MIB,
        failure=describe_policy(config, silos),
        privacy=privacy,
        notes=[*silo.notices(), *weak],
    )


def _memory(silo: Silo, strategy: Strategy, spec: AggregationSpec) -> int:
    """Bytes of shared and sent vectors, the strategy's state, the local model, and rows of silos."""
    size, wire = silo.model.size, silo.model.wire_dtype.itemsize
    local = 2 * silo.model.vector.element_size()
    vectors = len(strategy.shared) + len(strategy.sends) + 2 * len(silo.strategy_state)
    if spec.rows:
        vectors += len(strategy.sends) * (1 + spec.replica_count)
    longest = slice_bounds(size, spec.silos)[1]
    rows = BUFFERS * spec.silos * chunk_width(longest, spec.silos, silo.model.wire_dtype) * wire
    return size * (wire * vectors + local) + rows


def _privacy(config: Config, rows: list[SiloDryRun], silo: Silo) -> tuple[str, list[str]]:
    """The epsilon that the run will end with if no silo fails; raises what the run would refuse."""
    if config.privacy.unit == "none":
        return "", []
    silo.refuse_unprotectable(config.privacy)
    records = sum(row.train_samples for row in rows)
    plan = plan_for(config, silo.model.size, records, len(rows), len(rows))
    noise = plan.noise_multiplier()
    refuse_over_budget(plan, noise)
    return describe(plan, noise), notes(plan, noise)
