"""Differential privacy of one rank's part in a run: what its silo shows, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from silofl.aggregation.base import Aggregator
from silofl.aggregation.compressed import CompressedSum
from silofl.aggregation.spec import AggregationSpec
from silofl.aggregation.transformed import Binding, TransformedSum
from silofl.comm.collective_errors import allgather_object, allgather_parsed, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.crypto.key_file import silo_key
from silofl.crypto.noise_keys import NONCE_BYTES, NoiseKeys, new_nonce
from silofl.errors import LessProtectionError
from silofl.federation.local_work import Fitted, RoundStart
from silofl.federation.own_log import note
from silofl.federation.privacy import compressed_noise, guarantee
from silofl.federation.privacy.budget import PrivacyBudget
from silofl.federation.privacy.clip_norm import ClipNorm
from silofl.federation.privacy.data_budget import budget_of
from silofl.federation.privacy.guarantee import LAST_BITS
from silofl.federation.privacy.noise_binding import NoiseBinding
from silofl.federation.privacy.parameters import PrivacyParameters, refuse_other_bands, told_state
from silofl.federation.privacy.pipeline import TABLES, Pipeline
from silofl.federation.privacy.release_log import ReleaseLog, log_path
from silofl.federation.privacy.sampled_steps import sampled_steps
from silofl.federation.silo import Silo
from silofl.privacy.bands import BandMatrix
from silofl.privacy.claim import Epsilons, fellows
from silofl.privacy.ledger import Ledger
from silofl.privacy.places import PLACES
from silofl.privacy.plan import Plan, method_for
from silofl.privacy.releases import Release
from silofl.topologies.arrangements.registry import coordinators
from silofl.training.private import PrivateSteps
from silofl.transforms.correlated import NoiseProcess
from silofl.transforms.noise import identity
from silofl.types import Contribution
from silofl_kernels import ring_dtype
from silofl_kernels.ring import Words

SPENT = "ledger, with less spent of this silo's data,"


class PrivacyEngine:
    """Clips, adds noise, and counts. Made once for a run; `wrap` whenever silos come or go."""

    def __init__(
        self, group: ElasticGroup, config: Config, silo: Silo, silos: int, path: Path, run: str, spent: Ledger
    ) -> None:
        self._group, self._config, self._silo, self._run = group, config, silo, bytes.fromhex(run)
        self._privacy, self._place = config.privacy, PLACES[config.privacy.place]
        self._way = compressed_noise.way_of(config)
        self._values = compressed_noise.sent_values(config, silo.model)
        self._own = silo_key(config.checkpoint.key_file, group.silo_id)
        self._path = path
        log = ReleaseLog(log_path(path, group.silo_id), run)
        method, data = method_for(config.privacy), budget_of(config, silo, group.silo_id, path, run)
        without = coordinators(config.topology, silos)
        self.budget = PrivacyBudget(group, config.privacy, method, log, data, self._note, spent, without)
        self._nonce, self._multiplier = new_nonce().hex(), 0.0
        self._told = False
        """Whether the noise multiplier was not yet held to this silo's own configuration."""
        self._norm = ClipNorm(config.privacy)
        self._matrix: BandMatrix | None = None
        """The one that the run began with."""
        self._process: NoiseProcess | None = None
        """Of this silo's noise, where that is correlated from round to round."""
        self._binding = NoiseBinding(group.silo_id, without)
        self._plan: Plan
        self._inner: Aggregator
        self._sum: TransformedSum | CompressedSum | None = None
        """Where noise is added to sums, and not by each silo to what it shows."""
        self._keys: NoiseKeys
        self._pipeline: Pipeline
        self._shown: tuple[int, ...] = ()
        self._failures = 0
        self._before: tuple[int, dict[str, Any]] | None = None
        """A round that may be taken twice, and what the silo had before it."""
        self._steps: PrivateSteps | None = None
        """Steps on single examples, under this nonce's keys; None where silos are protected as a whole."""
        self._data = silo.data_digest()
        self._use_nonce()

    def _use_nonce(self) -> None:
        nonce = bytes.fromhex(self._nonce)
        self._keys = NoiseKeys(self._own, nonce, self._group.silo_id, run=self._run)
        if not (self._privacy.samples and self._silo.samples):
            return
        if self._steps is not None:
            self._steps.close()
        whole_run = NoiseKeys(self._own, bytes(NONCE_BYTES), self._group.silo_id, run=self._run)
        self._steps = sampled_steps(self._silo, self._privacy, self._keys, whole_run)

    def follow_data(self) -> None:
        """Sample, from now on, all records that the silo has now; not collective."""
        if self._data != self._silo.data_digest():
            self._data = self._silo.data_digest()
            self._use_nonce()
            self._pipeline.follow(self._steps)

    def _note(self, text: str) -> None:
        note(self._path, self._group.silo_id, text)

    def fit(self, start: RoundStart) -> Fitted:
        """As `Silo.fit`, with no more in it than noise covers: see `Pipeline`, which is the whole way."""
        round_number = start.round_number
        while True:
            self._begin_afresh(round_number)
            attempt = self.budget.attempt(round_number)
            fitted = self._pipeline.fit(start, attempt)
            if not self._place.alone or self._may_show(fitted, round_number, attempt):
                return fitted
            self.budget.retake(round_number)

    def _may_show(self, fitted: Fitted, round_number: int, attempt: int) -> bool:
        """Whether noisy values are those that a killed run may have shown; they are counted then."""
        whole = np.concatenate([*fitted.contribution.vectors.values()])
        tag = self._keys.fingerprint("shown", round_number, attempt, whole, *self._pipeline.context).hex()
        if not self.budget.repeats_alone(round_number, attempt, tag):
            return False
        self.budget.note(round_number, attempt, tag, self._made_for)
        return True

    def _begin_afresh(self, round_number: int) -> None:
        """Give the silo back what it had before a round that it takes again.

        What an optimizer keeps of steps that are not shown has noise that was shown with other steps.
        """
        if self._before is not None and self._before[0] == round_number:
            self._silo.restore(deepcopy(self._before[1]))
        elif self.budget.was_begun(round_number):
            self._before = round_number, deepcopy(self._silo.state())

    def inner_spec(self, spec: AggregationSpec) -> AggregationSpec:
        """What is added up inside: ring integers, unless silos bring noisy values. No scalar has noise."""
        if self._place.alone:
            return replace(spec, scalars=())
        return compressed_noise.words_spec(spec, self._way)

    def wrap(self, inner: Aggregator, spec: AggregationSpec) -> Aggregator:
        """The aggregator whose sums are noisy enough among the silos that there are; collective."""
        self._inner, self._spec, self._made_for = inner, spec, spec.bringing(inner.layout.shards.members)
        who = inner.summed_samples, len(self._made_for), spec.silos, self._matrix
        plan = guarantee.plan_for(self._config, self._values, *who, self.budget.before.most_often())
        self._matrix = plan.matrix
        self._multiplier = self._multiplier or guarantee.agreed_multiplier(self._group, plan)
        if self._told:  # by others, to a silo that comes back
            guarantee.refuse_weaker(plan, self._multiplier, self._group.silo_id, self._group.members[0])
            self._told = False
        grid = self._grid = plan.grid(self._multiplier)
        covered = tuple(one.name for one in spec.vectors)
        self._plan, process = plan, self._correlated(plan)
        self.budget.price = self._price
        self._pipeline = way = Pipeline(
            self._silo, plan, grid, self._keys, self._norm, covered, self._steps, self._note, process
        )
        if process is not None:
            process.use(identity(way.table))
        made_of = ring_dtype(plan.bits), way.transforms(), self.budget, self._bind, way.divisor
        made = partial(compressed_noise.noisy_sum, inner, spec, self._way, self._group.silo_id)
        self._sum = None if self._place.alone else made(*made_of)
        return self._sum or inner

    def _correlated(self, plan: Plan) -> NoiseProcess | None:
        """The process of this silo's noise, once there is one."""
        if plan.matrix.bands > 1 and self._process is None:
            self._process = NoiseProcess(plan.matrix.coefficients[1:], self._silo.model.size)
        return self._process

    def _price(self, survivors: int, round_number: int) -> Mapping[Release, int]:
        """See `budget.Price`."""
        price = self._plan.of_round(self._grid, survivors)
        if self._process is None:
            return price
        first = self._process.process_of(round_number, self.budget.silos)
        group = round_number % self._plan.matrix.bands
        return {replace(one, process=first, group=group): count for one, count in price.items()}

    def tell(self, contribution: Contribution, round_number: int) -> bytes:
        """What the others have to `hear` of a contribution before it is added up; not collective."""
        if self._sum is None or not self._noise_of_shares:
            return b""
        words = self._sum.round_off(contribution, round_number)
        at = round_number, self.budget.attempt(round_number)
        return self._binding.tell(self._fingerprint(at, words), self._process)

    def hear(self, silos: tuple[int, ...], told: list[bytes]) -> None:
        """What `silos` told in one step of the round, the same on all of them, before its sum."""
        self._binding.hear(silos, told)

    @property
    def _noise_of_shares(self) -> bool:
        return self._place.sources(self._spec.silos) > 1

    def _fingerprint(self, at: tuple[int, int], words: Words) -> bytes:
        return self._keys.fingerprint("sum", *at, words, *self._pipeline.context)

    def _bind(self, round_number: int, attempt: int, words: Words) -> Binding:
        """See `TransformedSum`."""
        if self._noise_of_shares:
            return self._binding.of_shares((round_number, attempt), self._process)
        return Binding(self._fingerprint((round_number, attempt), words))

    def account(self, aggregator: Aggregator, round_number: int) -> None:
        """Count what the round's sum has told; collective."""
        self._shown = self._place.shown(self._made_for, aggregator.participants)
        self._failures = len(self._group.failures)
        self.budget.record(round_number, self._shown)
        if self._process is not None:
            self._process.close(self._pipeline.table, self._keys, self._binding.common, self._shown)

    def complete(self, aggregator: Aggregator, round_number: int) -> None:
        """After the round's step; collective. The ranks that serve the sum have added their noise by then.

        Where one of them failed meanwhile and noise is not repeatable, another added other noise to the same
        slice.
        """
        if not self._place.repeatable:
            group = self._group
            again = group.step(lambda: allgather_object(group.comm, len(group.failures) - self._failures))
            for _ in range(max(again)):
                self.budget.add(self.budget.price(len(self._shown), round_number), self._shown)
        if self._norm.follows:
            self._follow(aggregator, round_number)

    def _follow(self, aggregator: Aggregator, round_number: int) -> None:
        """Let the clipping norm follow its quantile; collective.

        A count over fewer silos has less noise: it is counted beside the one that was planned.
        """
        at = round_number, self.budget.attempt(round_number)
        table = TABLES[self._privacy.mechanism](self._plan.count_share)
        own = self._keys.fingerprint("count", *at, np.array([self._norm.own_count]), identity(table))
        binding = self._binding.exchanged(own, self._group) if self._noise_of_shares else Binding(own)
        stream = self._keys.stream("count", *at, binding.fingerprint)
        counted = self._norm.follow(aggregator, table, stream if self._silo.samples else None)
        if counted is None:  # some rank may have seen it, over the survivors at least
            counted = len(self._spec.bringing(self._group.agreed_members()))
            self.budget.add({self._plan.of_count(counted): 1}, self._shown)
        elif counted < len(self._shown):
            self.budget.add({self._plan.of_count(counted): 1}, self._shown)

    @property
    def clip_norm(self) -> float | None:
        """The clipping norm of the next round, where it changes from round to round."""
        return self._norm.value if self._norm.follows else None

    def affordable(self) -> int:
        """How many more rounds stay within `privacy.max_epsilon`, up to 2."""
        return next((rounds for rounds in (2, 1) if self.budget.affords(rounds)), 0)

    def refuse_unaffordable(self) -> None:
        """Raise the ConfigError of a run that has no room for its first round."""
        self.budget.refuse_first()
        if not self.affordable():
            raise guarantee.over_budget(self._privacy.max_epsilon)

    def begin(self, committed: int) -> list[str]:
        """Take up what a killed run may have shown behind round `committed`; notices. Collective."""
        self.budget.begin(committed)
        told = compressed_noise.notes(self._way, self._plan, self._multiplier)
        return [*guarantee.notes(self._plan, self._multiplier), *told]

    def terms(self) -> dict[str, str]:
        """What bounds and hides contributions, as all silos must have it; 12 digits, for libraries differ."""
        own = {"noise_multiplier": self._multiplier, "clip_norm": self._norm.value}
        terms = {name: f"{value:.12g}" for name, value in (asdict(self._grid) | own).items()}
        if self._process is not None:
            terms["bands"] = " ".join(map(str, self._plan.matrix.coefficients))
        return terms

    @property
    def description(self) -> str:
        """What is promised, in a few words."""
        return guarantee.describe(self._plan, self._multiplier)

    def spent(self) -> Epsilons:
        """What each observer may have learnt so far."""
        among, against = self._place.holds_against_silos, self.budget.epsilon_against
        return Epsilons(against(0), against(fellows(self._privacy)) if among else None)

    def claim(self, rounds: int) -> str:
        """What holds after so many rounds, by what was spent."""
        return guarantee.describe_spent(self._plan, self._multiplier, self.spent(), rounds)

    def state(self) -> dict[str, Any]:
        """For this silo's checkpoint."""
        own = {} if self._process is None else {"process": self._process.state()}
        return self._shared_state() | own

    def _shared_state(self) -> dict[str, Any]:
        """What of the state others may be told."""
        parameters = PrivacyParameters(self._nonce, self._multiplier, self._norm.value)
        if self._matrix is not None:
            parameters.coefficients = list(self._matrix.coefficients)
        return {"parameters": asdict(parameters), "ledger": self.budget.state()}

    def restore(self, state: dict[str, Any] | None, *, member: bool) -> Aggregator:
        """Take up a `state()` where this silo has one; the aggregator that goes with it. Collective.

        What all share is taken from a silo that was a `member` of the round that was committed.
        """
        if state is not None:
            self._nonce = state["parameters"]["nonce"]
            self._use_nonce()
        mine = {key: state[key] for key in ("parameters", "ledger")} if state is not None and member else None
        every = self._group.step(lambda: allgather_parsed(self._group.comm, mine, told_state, "its privacy"))
        self._share(next(state for state in every if state is not None))
        self._refuse_less_than(mine, state)
        self._told = self._privacy.target_epsilon is None  # which `refuse_longer` holds the multiplier to
        if self._process is not None and state and "process" in state:
            self._process.restore(state["process"])
        wrapped = self.wrap(self._inner, self._spec)
        guarantee.refuse_longer(self._plan, self._multiplier)
        return wrapped

    def _refuse_less_than(self, own: dict[str, Any] | None, state: dict[str, Any] | None) -> None:
        """Raise LessProtectionError, on every rank, where what was taken up protects a silo less; collective.

        `state` is what this silo had on its disk, and `own` what of it as a member of the round committed.
        """
        group = self._group

        def check() -> None:
            with raise_on_all_ranks(group.comm):
                self.budget.refuse_unknown_data(state)
                if own is not None:
                    self._refuse_forgotten(own, "checkpoint")
                    norms = (self._norm.value, PrivacyParameters(**own["parameters"]).clip_norm)
                    if not math.isclose(*norms, rel_tol=LAST_BITS):
                        raise self._less("clipping norm", "checkpoint")

        group.step(check)

    def _refuse_forgotten(self, own: dict[str, Any], where: str) -> None:
        """Raise LessProtectionError where others forget what it spent, or have less noise than it had."""
        if self.budget.forgets(Ledger.from_json(own["ledger"])):
            raise self._less(SPENT, where)
        if self._multiplier * (1 + LAST_BITS) < PrivacyParameters(**own["parameters"]).noise_multiplier:
            raise self._less("noise multiplier", where)

    def _less(self, what: str, where: str) -> LessProtectionError:
        leader = self._group.members[0]
        return LessProtectionError(
            f"silo {leader} hands out another {what} than silo {self._group.silo_id} has in its own {where}: "
            "the run does not go on with less protection than it had",
            sender=leader,
        )

    def _share(self, state: dict[str, Any]) -> None:
        """Take up all of another silo's `state()` but what is that silo's own."""
        parameters = PrivacyParameters(**state["parameters"])
        if not 0 < parameters.noise_multiplier <= guarantee.MOST_NOISE:
            raise self._less("noise multiplier", "checkpoint")
        self._multiplier, self._norm.value = parameters.noise_multiplier, parameters.clip_norm
        self._share_matrix(BandMatrix(tuple(parameters.coefficients)))
        self._told = True
        self.budget.restore(state["ledger"])

    def _share_matrix(self, matrix: BandMatrix) -> None:
        """Go on with the matrix that the run began with; noise of another one ends."""
        refuse_other_bands(matrix, self._privacy.bands)
        if matrix != self._matrix:
            self._matrix, self._process = matrix, None

    def rejoin_state(self) -> dict[str, Any]:
        """What a silo that comes back needs of the others; JSON."""
        return self._shared_state() | {"budget": self.budget.rejoin_state()}

    def come_back(self, rejoin_state: dict[str, Any], own: dict[str, Any] | None) -> None:
        """Go on with the others' `rejoin_state()`, and with noise that this silo never had before.

        Raises LessProtectionError, on this rank alone, where less was spent by it than by this silo's `own`
        newest `state()` or by its release log.
        """
        self._share(rejoin_state)
        logged = self.budget.logged()
        self.budget.come_back(rejoin_state["budget"])
        self.budget.refuse_unknown_data(own)
        if own is not None:
            self._refuse_forgotten(own, "checkpoint")
        if self.budget.forgets(logged):
            raise self._less(SPENT, "release log")
        self.budget.disown()
        if self._process is not None:
            self._process.reset()
