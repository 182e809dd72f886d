"""Differential privacy of one rank's part in a run: what its silo shows, and what that costs."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from silofl.aggregation.base import Aggregator
from silofl.aggregation.spec import AggregationSpec
from silofl.aggregation.transformed import TransformedSum
from silofl.comm.collective_errors import allgather_object, allgather_parsed, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.crypto.key_file import silo_key
from silofl.crypto.noise_keys import NoiseKeys, new_nonce
from silofl.errors import LessProtectionError
from silofl.federation.local_work import Fitted, RoundStart
from silofl.federation.privacy import guarantee
from silofl.federation.privacy.budget import PrivacyBudget
from silofl.federation.privacy.clip_norm import ClipNorm
from silofl.federation.privacy.guarantee import LAST_BITS
from silofl.federation.privacy.pipeline import TABLES, Pipeline
from silofl.federation.privacy.release_log import ReleaseLog, log_path
from silofl.federation.silo import Silo
from silofl.privacy.ledger import Ledger
from silofl.privacy.places import PLACES
from silofl.privacy.plan import Plan, method_for
from silofl_kernels import ring_dtype

SPENT = "ledger, with less spent of this silo's data,"


@dataclass
class PrivacyParameters:
    """What a run keeps of its privacy from start to end; JSON, and no secret."""

    nonce: str
    noise_multiplier: float
    clip_norm: float


def _told(state: Any) -> dict[str, Any] | None:
    """Another silo's `PrivacyEngine.state()`; an error for what is none."""
    if state is None:
        return None
    parameters = PrivacyParameters(**state["parameters"])
    if not all(math.isfinite(number) for number in (parameters.noise_multiplier, parameters.clip_norm)):
        raise ValueError("numbers that are none")
    Ledger.from_json(state["ledger"])
    told: dict[str, Any] = state
    return told


class PrivacyEngine:
    """Clips, adds noise, and counts. Made once for a run; `wrap` whenever silos come or go."""

    def __init__(self, group: ElasticGroup, config: Config, silo: Silo, path: Path, run: str) -> None:
        self._group, self._config, self._silo, self._run = group, config, silo, bytes.fromhex(run)
        self._privacy, self._place = config.privacy, PLACES[config.privacy.place]
        self._own = silo_key(config.checkpoint.key_file, group.silo_id)
        log = ReleaseLog(log_path(path, group.silo_id), run)
        self.budget = PrivacyBudget(group, config.privacy, method_for(config.privacy), log)
        self._nonce, self._multiplier = new_nonce().hex(), 0.0
        self._told = False
        """Whether the noise multiplier was not yet held to this silo's own configuration."""
        self._norm = ClipNorm(config.privacy)
        self._plan: Plan
        self._inner: Aggregator
        self._spec: AggregationSpec
        self._silos: int
        self._keys: NoiseKeys
        self._pipeline: Pipeline
        self._shown: tuple[int, ...] = ()
        self._failures = 0
        self._before: tuple[int, dict[str, Any]] | None = None
        """A round that may be taken twice, and what the silo had before it."""
        self._use_nonce()

    def _use_nonce(self) -> None:
        nonce = bytes.fromhex(self._nonce)
        self._keys = NoiseKeys(self._own, nonce, self._group.silo_id, run=self._run)
        self._silo.protect(self._privacy, self._keys)

    def fit(self, start: RoundStart) -> Fitted:
        """As `Silo.fit`, with no more in it than noise covers: see `Pipeline`, which is the whole way."""
        round_number = start.round_number
        if self._group.comm.rank == 0:  # which tells
            self.budget.foresee(round_number)
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
        tag = self._keys.tag(round_number, attempt, whole)
        if not self.budget.repeats_alone(round_number, attempt, tag):
            return False
        self.budget.note(round_number, attempt, tag, self._inner.layout.shards.members)
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
        words = tuple(replace(one, format="words", tensors=(), ends=None) for one in spec.vectors)
        return replace(spec, vectors=words, scalars=())

    def wrap(self, inner: Aggregator, spec: AggregationSpec, silos: int) -> Aggregator:
        """The aggregator whose sums are noisy enough among the silos that there are; collective."""
        self._inner, self._spec, self._silos = inner, spec, silos
        members, model = len(inner.layout.shards.members), self._silo.model
        plan = guarantee.plan_for(self._config, model.size, inner.summed_samples, members, silos)
        self._multiplier = self._multiplier or guarantee.agreed_multiplier(self._group, plan)
        if self._told:  # by others, to a silo that comes back
            guarantee.refuse_weaker(plan, self._multiplier, self._group.silo_id, self._group.members[0])
            self._told = False
        grid = self._grid = plan.grid(self._multiplier)
        covered = tuple(one.name for one in spec.vectors)
        self.budget.price = lambda survivors: plan.of_round(grid, survivors)
        self._plan = plan
        self._pipeline = way = Pipeline(self._silo, plan, grid, self._keys, self._norm, covered)
        transforms, ring = way.transforms(), ring_dtype(plan.bits)
        if not transforms:
            return inner
        return TransformedSum(inner, spec, ring, transforms, self.budget, self._keys.tag, way.divisor)

    def account(self, aggregator: Aggregator, round_number: int) -> None:
        """Count what the round's sum has told; collective."""
        self._shown = self._place.shown(self._inner.layout.shards.members, aggregator.participants)
        self._failures = len(self._group.failures)
        self.budget.record(round_number, self._shown)

    def complete(self, aggregator: Aggregator, round_number: int) -> None:
        """After the round's step; collective. The ranks that serve the sum have added their noise by then.

        Where one of them failed meanwhile and noise is not repeatable, another added other noise to the same
        slice.
        """
        if not self._place.repeatable:
            group = self._group
            again = group.step(lambda: allgather_object(group.comm, len(group.failures) - self._failures))
            for _ in range(max(again)):
                self.budget.add(self.budget.price(len(self._shown)), self._shown)
        if self._norm.follows:
            self._follow(aggregator, round_number)

    def _follow(self, aggregator: Aggregator, round_number: int) -> None:
        """Let the clipping norm follow its quantile; collective.

        A count over fewer silos has less noise: it is counted beside the one that was planned.
        """
        stream = self._keys.stream("count", round_number, self.budget.attempt(round_number))
        table = TABLES[self._privacy.mechanism](self._plan.count_share)
        counted = self._norm.follow(aggregator, table, stream)
        if counted is None:  # some rank may have seen it, over the survivors at least
            counted = len(self._group.agreed_members())
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

    def begin(self, committed: int) -> list[str]:
        """Take up what a killed run may have shown behind round `committed`; notices. Collective."""
        self.budget.begin(committed)
        return guarantee.notes(self._plan, self._multiplier)

    def terms(self) -> dict[str, str]:
        """What bounds and hides contributions, as all silos must have it; 12 digits, for libraries differ."""
        numbers = asdict(self._grid) | {"noise_multiplier": self._multiplier, "clip_norm": self._norm.value}
        return {name: f"{value:.12g}" for name, value in numbers.items()}

    @property
    def description(self) -> str:
        """What is promised, in a few words."""
        return guarantee.describe(self._plan, self._multiplier)

    def state(self) -> dict[str, Any]:
        """For this silo's checkpoint."""
        parameters = PrivacyParameters(self._nonce, self._multiplier, self._norm.value)
        return {"parameters": asdict(parameters), "ledger": self.budget.state()}

    def restore(self, state: dict[str, Any] | None, *, member: bool) -> Aggregator:
        """Take up a `state()` where this silo has one; the aggregator that goes with it. Collective.

        What all share is taken from a silo that was a `member` of the round that was committed.
        """
        if state is not None:
            self._nonce = state["parameters"]["nonce"]
            self._use_nonce()
        mine = state if member else None
        every = self._group.step(lambda: allgather_parsed(self._group.comm, mine, _told, "its privacy"))
        self._share(next(state for state in every if state is not None))
        self._refuse_less_than(mine)
        self._told = self._privacy.target_epsilon is None  # which `refuse_longer` holds the multiplier to
        wrapped = self.wrap(self._inner, self._spec, self._silos)
        guarantee.refuse_longer(self._plan, self._multiplier)
        return wrapped

    def _refuse_less_than(self, own: dict[str, Any] | None) -> None:
        """Raise LessProtectionError, on every rank, where what was taken up protects a silo less; collective.

        `own` is what this silo had on its own disk, as a member of the round that was committed.
        """
        group = self._group

        def check() -> None:
            with raise_on_all_ranks(group.comm):
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
        self._told = True
        self.budget.restore(state["ledger"])

    def rejoin_state(self) -> dict[str, Any]:
        """What a silo that comes back needs of the others; JSON."""
        return self.state() | {"budget": self.budget.rejoin_state()}

    def come_back(self, rejoin_state: dict[str, Any], own: dict[str, Any] | None) -> None:
        """Go on with the others' `rejoin_state()`, and with noise that this silo never had before.

        Raises LessProtectionError, on this rank alone, where less was spent by it than by this silo's `own`
        newest `state()` or by its release log.
        """
        self._share(rejoin_state)
        logged = self.budget.logged()
        self.budget.come_back(rejoin_state["budget"])
        if own is not None:
            self._refuse_forgotten(own, "checkpoint")
        if self.budget.forgets(logged):
            raise self._less(SPENT, "release log")
        self.budget.disown()
