"""What a run would be, found out in one process before any rank starts: `silofl check`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.compressed import Compression
from silofl.aggregation.exchanges import BUFFERS
from silofl.aggregation.protocols import PROTOCOLS, choose_protocol, describe_keys, protocol_name
from silofl.aggregation.pruned_sum import pruned_spec
from silofl.aggregation.reduce_scatter import chunk_width
from silofl.aggregation.shards import slice_bounds
from silofl.aggregation.spec import AggregationSpec
from silofl.compression import registry as codecs
from silofl.config import Config
from silofl.config.institutions import Institution
from silofl.errors import ConfigError, DataError, MismatchError
from silofl.federation.dry_run_privacy import foretold_privacy
from silofl.federation.dry_run_silos import DryRunSilos
from silofl.federation.exclusion_limits import refuse_unfit_detection
from silofl.federation.failure.policy import describe_policy
from silofl.federation.first_models import weights_mismatch
from silofl.federation.in_buckets import describe_buckets
from silofl.federation.link_time import Link
from silofl.federation.model_agreement import model_mismatch, model_told
from silofl.federation.no_data import data_of
from silofl.federation.participation import buffering_of, describe_participation, refuse_unfit
from silofl.federation.privacy import budget_place
from silofl.federation.privacy.compressed_noise import way_of
from silofl.federation.recomputation import describe_recomputation
from silofl.federation.robustness import refuse_unfit_attack, refuse_unfit_rule
from silofl.federation.schema import describe_schema, schema_mismatch, schema_notices
from silofl.federation.secure_conflicts import refuse_conflicts
from silofl.federation.silo import Silo
from silofl.federation.silo_clients import describe_clients
from silofl.federation.sum_spec import WHOLE, aggregation_spec
from silofl.federation.topology_drawing import drawn
from silofl.federation.traffic import Sent, TrialRound
from silofl.federation.units import unit_notes
from silofl.federation.watched_metrics import refuse_unknown
from silofl.privacy.claim import outside
from silofl.privacy.column_statistics import StatisticsPlan
from silofl.privacy.places import PLACES
from silofl.report.dry_run_table import MIB, DryRun, SiloDryRun
from silofl.strategies.base import Strategy
from silofl.strategies.registry import build
from silofl.tasks.base import ArrivingTask, Task
from silofl.tasks.bounded_columns import POWER
from silofl.tasks.column_agreement import agree_in_one_process
from silofl.tasks.column_kinds import Schema
from silofl.tasks.files import Files
from silofl.tasks.heads.base import target_names
from silofl.tasks.preprocessing import Preprocessing
from silofl.tasks.recipe_making import Agreed, described, numeric_schema
from silofl.tasks.user_code import UserCode
from silofl.topologies.arrangements.registry import refuse_ranks, with_data
from silofl.topologies.registry import arrangement_of, topology_of
from silofl.training.pruned_weights import weights_of

STACKS = 3
"""Of values of clients that train together: models, gradients and changes, or moments."""


def dry_run(
    config: Config,
    silos: int,
    link: Link | None = None,
    own: Callable[[int], Config] | None = None,
    institutions: Sequence[Institution] = (),
) -> DryRun:
    """Build every silo once, as `silofl train` would. Raises the ConfigError or DataError it would raise.

    With a `link` it says how long a round takes over it. `own` gives each silo's configuration where there
    are `institutions`; `config` is what they share. Who calls it may read the data: an error has what ranks
    keep to their silo, `DataError.own`.
    """
    try:
        return _dry_run(config, silos, link, own, institutions)
    except DataError as error:
        if not error.own:
            raise
        raise DataError(f"{error} ({error.own})", rank=error.rank) from None


def _dry_run(
    config: Config,
    silos: int,
    link: Link | None,
    own: Callable[[int], Config] | None,
    institutions: Sequence[Institution],
) -> DryRun:
    counted = with_data(config.topology, silos)
    protocol = choose_protocol(config.secure, counted)
    refuse_ranks(config.topology, silos, config.run.seed, private=protocol.private)
    every = DryRunSilos(config, silos, own, institutions)
    _refuse(config, every, counted)
    budget_place.refuse_unusable(config, every.seen, own)
    first_task = every.task(every.seen[0])
    if isinstance(first_task, Files) and first_task.federated:
        _agree(config, every)
    rows: list[SiloDryRun] = []
    schemas: dict[int, Schema] = {}
    targets: dict[int, Schema] = {}
    passed_over: dict[int, tuple[str, ...]] = {}
    treatments: list[tuple[str, str, str]] = []
    magnitudes: dict[int, NDArray[np.float64]] = {}
    names: list[frozenset[str]] = []
    weights: dict[int, str] = {}
    clients: list[int] = []
    first: Silo | None = None
    error: MismatchError | None = None
    for number in every.seen:
        code, task, mine = UserCode(number, alone=True), every.task(number), every.config(number)
        devices = every.devices(number)
        data = data_of(mine, task, code, silos)
        silo = Silo(mine, task, number, counted, devices[0], code=code, data=data)
        first = first or silo
        names.append(silo.metric_names)
        weights[number] = silo.weights
        error = error or model_mismatch(number, silo.model, *model_told(first.model))
        schemas[number] = silo.schema
        if isinstance(task, Files):
            targets[number] = task.target_schema
            magnitudes[number] = task.magnitudes
            passed_over[number] = task.passed_over
            treatments = described(mine.data, silo.schema)
        clients += [] if silo.clients is None else [len(silo.clients)]
        patients = len(silo.persons) if config.privacy.unit == "patient" else None
        counts = silo.samples, silo.test_samples, patients
        ranks = mine.train.ranks_per_silo
        row = SiloDryRun(number, ", ".join(devices), *counts, name=every.name(number), ranks=ranks)
        rows.append(replace(row, counted=silo.counted))
    assert first is not None
    every_column = {silo: (*schema, *targets.get(silo, ())) for silo, schema in schemas.items()}
    # Columns are what a user knows.
    error = schema_mismatch(every_column) or error or weights_mismatch(weights)
    if error is not None:
        raise error
    refuse_unknown(config.run, names)
    notes = [
        *_of_ranks([row.ranks for row in rows]),
        *schema_notices(schemas),
        *_of_passed_over(passed_over),
        *unit_notes(first.schema, magnitudes),
        *_of_several_records(rows),
        *_of_new_samples(config, first.task),
    ]
    found = _sizes(config, rows, first, link, every)
    target = _target(config, first_task)
    found = replace(found, clients=describe_clients(config, silos, first.clients, clients))
    return replace(found, treatments=treatments, target=target, notes=[*every.notes(), *found.notes, *notes])


def _refuse(config: Config, every: DryRunSilos, counted: int) -> None:
    """Raise ConfigError for what silos cannot have, of which `counted` have data."""
    for number in every.seen:
        refuse_conflicts(every.config(number))
    refuse_unfit(config, counted)
    refuse_unfit_rule(config, counted)
    refuse_unfit_detection(config, counted)
    refuse_unfit_attack(config, counted)


def _target(config: Config, task: Task) -> str:
    """What is learnt of files; empty for other tasks."""
    if not isinstance(task, Files):
        return ""
    weights = config.task.class_weights
    said = "" if weights is None else ", with weights" + (" by all silos' counts" * (weights == "balanced"))
    return f"{', '.join(target_names(config.data))}: {task.described_head.describe()}{said}"


def _of_passed_over(names: Mapping[int, tuple[str, ...]]) -> list[str]:
    """Columns that are no features, and the silos that have them."""
    silos: dict[tuple[str, ...], list[str]] = {}
    for silo, passed in names.items():
        if passed:
            silos.setdefault(passed, []).append(str(silo))
    return [
        f"silo{'s' * (len(numbers) > 1)} {', '.join(numbers)}: passed over: {', '.join(passed)}"
        for passed, numbers in silos.items()
    ]


def _of_ranks(ranks: Sequence[int]) -> list[str]:
    if max(ranks) == 1:
        return []
    several = f"{ranks[0]} ranks" if len(set(ranks)) == 1 else "as many ranks as stand beside it"
    return [f"each silo trains with {several}, each on its part of every batch"]


def _of_several_records(rows: list[SiloDryRun]) -> list[str]:
    """How persons are clipped who have more than the one record that Opacus clips."""
    several = sum(row.persons < row.train_samples for row in rows)
    if not several:
        return []
    return [
        f"{several} silo(s) have patients of several training records, each of whom takes a backward pass "
        "of its own in a step: privacy.clipping is the way of patients with one; "
        "privacy.records_per_patient bounds how many records a pass has"
    ]


def _of_new_samples(config: Config, task: Task) -> list[str]:
    """What epsilon is of where records come between rounds."""
    if config.privacy.unit == "none" or not isinstance(task, ArrivingTask):
        return []
    return [
        "records come between rounds: epsilon is that of what was there from the first round; what comes "
        "later has spent less"
    ]


def _agree(config: Config, every: DryRunSilos) -> None:
    """Have each silo's task scale columns by what the silos of a run would agree on; errors of `_pooled`."""
    files = {silo: task for silo in every.seen if isinstance(task := every.task(silo), Files)}
    recipe = _pooled(config, files, every.count)
    for task in files.values():
        task.agree(recipe)


def _pooled(config: Config, files: Mapping[int, Files], silos: int) -> Preprocessing:
    """What the silos of a run would agree on, from all their data, which tasks keep for their `data`.

    `files` has each silo's task. Under [privacy] without the noise.

    Raises MismatchError where columns differ, and errors of `Files.read`.
    """
    schemas = dict[int, Schema]()
    for silo, task in files.items():
        task.read(silo)
        schemas[silo] = task.schema()
    error = schema_mismatch(schemas)
    if error is not None:
        raise error
    first_silo, one = next(iter(files.items()))
    if config.privacy.unit != "none":
        by_person = config.privacy.unit == "patient"
        sums = [task.bounded_sums(silo, by_person=by_person) for silo, task in files.items()]
        noise = StatisticsPlan(config.privacy, silos, len(numeric_schema(one.schema()))).deviation(silos)
        total = np.sum(sums, axis=0, dtype=np.float64) / 2**POWER
        return one.recipe(Agreed(one.bounded(first_silo).scaling(total, noise)))
    return agree_in_one_process(files, config.run.seed)


def _sizes(
    config: Config, rows: list[SiloDryRun], silo: Silo, link: Link | None, every: DryRunSilos
) -> DryRun:
    silos, strategy = every.count, build(config.strategy)
    tolerant = config.failure.policy != "abort"
    sizes = [one.size for one in silo.fragments]
    longest = sizes.index(max(sizes))
    spec = aggregation_spec(config, silo, strategy, silos, tolerant=tolerant, fragment=longest)
    words = config.privacy.unit != "none" and not PLACES[config.privacy.place].alone
    topology = topology_of(config.topology)
    shares = words and PLACES[config.privacy.place].sources(spec.silos) > 1
    trial = TrialRound(config.secure, topology, strategy, words=words, tolerant=tolerant, shares=shares)
    way = Compression.of(config.compress) if not words else way_of(config)
    trial = replace(trial, compression=way or (WHOLE if config.prune.active else None))
    arrangement = arrangement_of(config.topology)
    if arrangement.own_models:
        trial = replace(trial, compression=None, between=codecs.build(config.compress))
    privacy, weak = foretold_privacy(config, rows, silo, every)
    counted = with_data(config.topology, silos)
    name, sent, apart = protocol_name(config.secure, counted), trial.sent(spec), replace(trial, far=True)
    spread, private = apart.sent(spec), PROTOCOLS[name].private
    return DryRun(
        silos=rows,
        columns=describe_schema(silo.schema),
        model=silo.model.describe(),
        strategy=config.strategy.name,
        rounds=config.run.rounds,
        personal=_personal(config),
        participation=describe_participation(config, counted),
        protocol=", ".join(
            part for part in (name, config.compress.text, config.prune.text, config.robust.text) if part
        ),
        keys=describe_keys(config.secure, counted),
        bears=_bears(config, silos, counted, private=private),
        steps=describe_recomputation(config, silos),
        bytes_sent_per_round=sent.bytes,
        between_groups=_between(config, trial, spec, sent),
        bytes_sent_pruned=_bytes_sent_pruned(config, silo, trial, spec),
        topology=drawn(spread.edges, arrangement, silos, private=private),
        link="" if link is None else link.describe(spread),
        memory_mib=_memory(silo, strategy, spec, own_pace=buffering_of(config, counted) is not None) / MIB,
        failure=describe_policy(config, silos),
        privacy=privacy,
        outside=outside(config.privacy, each_silo=config.shares_silo_metrics),
        notes=[
            *filter(None, [config.detection.text, config.attack.text, describe_buckets(config, counted)]),
            *filter(None, [arrangement.describe(range(silos), config.run.seed)]),
            *silo.notices(),
            *_of_fragments(sizes),
            *weak,
        ],
    )


def _bears(config: Config, silos: int, counted: int, *, private: bool) -> str:
    """How many silos may die, collude or lie in a sum, and what the topology adds to that."""
    arrangement = arrangement_of(config.topology)
    of_topology = arrangement.bears(silos, config.run.seed, private=private)
    protocol = PROTOCOLS[protocol_name(config.secure, counted)]
    of_sums = "" if arrangement.own_models else protocol.bears(config.secure, counted)
    return "; ".join(one for one in (of_sums, of_topology) if one)


def _bytes_sent_pruned(config: Config, silo: Silo, trial: TrialRound, spec: AggregationSpec) -> int | None:
    """Bytes of a round with what [prune] leaves at the end; None where nothing is pruned.

    Which weights those are is as untrained ones have it. ConfigError where a tensor would be left nothing.
    """
    rule, weights = config.prune.rule, weights_of(silo.model)
    if rule is None:
        return None
    refusal = rule.refusal(weights)
    if refusal is not None:
        raise ConfigError(refusal)
    dense = np.ones(silo.model.trainable, np.bool_)
    left = rule.kept(silo.initial()[: silo.model.trainable], dense, weights, rule.end)
    return trial.sent(pruned_spec(spec, left)).bytes


def _between(config: Config, trial: TrialRound, spec: AggregationSpec, sent: Sent) -> str:
    """What passes between groups in a round, beside what would without them; empty where none are known."""
    groups = arrangement_of(config.topology).grouped(())
    if not groups:
        return ""
    flat = replace(trial, flat=groups).sent(spec).between
    return f"{sent.between / MIB:.3f} MiB between groups in a round, {flat / MIB:.3f} MiB without groups"


def _personal(config: Config) -> str:
    name = config.personal.name
    return "" if name == "none" else f"{name}: each silo keeps a model of its own, in silo-<number>/"


def _of_fragments(sizes: list[int]) -> list[str]:
    """A sentence on what one round sums, where that is not everything."""
    if len(sizes) == 1:
        return []
    lengths = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else f"{max(sizes)}"
    return [f"a round sums one of {len(sizes)} fragments of {lengths} values; its wire is the longest one's"]


def _memory(silo: Silo, strategy: Strategy, spec: AggregationSpec, *, own_pace: bool) -> int:
    """Bytes of shared and sent vectors, the strategy's state, local and own model, and rows of silos.

    A silo that trains at its `own_pace` has a second model, and what it trains from and brings by itself.
    """
    size, wire = silo.model.size, silo.model.wire_dtype.itemsize
    own = silo.own.method.effect in ("beside", "instead")
    local = (2 + 2 * own + own_pace) * silo.model.vector.element_size()  # and gradients, or copies
    states = len(silo.strategy_state) + (strategy.streaming() is not None)
    vectors = len(strategy.shared) + len(strategy.sends) + 2 * states + 2 * own_pace
    if spec.rows:
        vectors += len(strategy.sends) * (1 + spec.replica_count)
    longest = slice_bounds(size, spec.silos)[1]
    rows = BUFFERS * spec.silos * chunk_width(longest, spec.silos, silo.model.wire_dtype) * wire
    models, samples = (0, 0) if silo.clients is None else silo.clients.stacked_values
    stacked = STACKS * models + samples
    return size * (wire * vectors + local) + rows + stacked * silo.model.vector.element_size()
