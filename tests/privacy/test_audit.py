"""An attacker with canaries: what it proves of epsilon stays below the claim, and finds missing noise.

Every coordinate of one silo's vector has a canary, a vector of the clipping norm that is there or not by the
throw of a coin; the rest is zero. Noise is independent from coordinate to coordinate, and so one sum is as
many trials of the worst case as it has coordinates (many canaries in one run: Steinke, Nasr, Jagielski 2023;
the canary along one known direction: Nasr et al. 2021, section 4). Keys and coins are fixed: nothing here
happens by chance twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import beta, norm

from silofl.aggregation.protocols import build
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.transformed import Binding, TransformedSum
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import PrivacyConfig, SecureConfig
from silofl.crypto.noise_keys import NoiseKeys
from silofl.crypto.secret import Secret
from silofl.federation.privacy import pipeline
from silofl.federation.privacy.clip_norm import ClipNorm
from silofl.federation.privacy.pipeline import Pipeline
from silofl.privacy.accountant import epsilon
from silofl.privacy.plan import Plan
from silofl.training.private import StepNoise
from silofl.training.sampling import PoissonSampler
from silofl.types import Contribution
from silofl_kernels import Stream, dequantize, ring_dtype, unrotate

SILOS, CANARIES, DELTA, CLIP, NOISE = 4, 100_000, 1e-5, 0.7, 1.0
ERROR = 0.01
"""Probability, over coins and noise, with which a bound of an honest release may be above the truth."""
HEIGHTS = np.linspace(0, 5, 21)
"""Thresholds that the attacker tries, in standard deviations of the noise promised; fixed beforehand."""
Floats = NDArray[np.float64]
Seen = tuple[Floats, Floats]
"""What the attacker measures of canaries that are there, and of those that are not; in units of the norm."""


class Open:
    """A gate that lets everything pass."""

    def attempt(self, round_number: int) -> int:
        return 0

    def repeats(self, round_number: int, attempt: int, tag: str) -> bool:
        return True

    def authorize(self, round_number: int, attempt: int, tag: str, silos: tuple[int, ...]) -> None:
        pass


def plan(place: str, *, size: int = CANARIES, bits: int = 32, **keys: Any) -> Plan:
    settings = {"unit": "silo", "place": place, "clip_norm": CLIP, "noise_multiplier": NOISE} | keys
    return Plan(PrivacyConfig(**settings), size, bits, SILOS, 400, 1, 1)  # type: ignore[arg-type]


def claim(of: Plan, *, releases: int = 1, silos: int = SILOS) -> float:
    """What the accountant says."""
    return epsilon({of.of_sum(of.grid(NOISE), silos): releases}, DELTA, of.method)


def coins(size: int, round_number: int) -> NDArray[np.bool_]:
    return np.random.default_rng([size, round_number]).random(size) < 0.5


def keys_of(silo: int) -> NoiseKeys:
    return NoiseKeys(Secret(bytes([silo + 1] * 32)), bytes(16), silo, run=bytes(16))


def table_of(of: Plan) -> Any:
    """As `Pipeline` makes it."""
    return pipeline.TABLES[of.config.mechanism](of.grid(NOISE).share)


def split(measured: Floats, there: NDArray[np.bool_]) -> Seen:
    return measured[there] / CLIP, measured[~there] / CLIP


def seen_of_a_step(of: Plan, rounds: int) -> Seen:
    """Of silos that add all noise alone, each in its own steps."""
    noise, results = StepNoise(of.grid(NOISE), table_of(of)), []
    for number in range(rounds):
        there = coins(of.dimensions, number)
        total = torch.from_numpy(CLIP * there)
        noise.add(total, 2.0, keys_of(0), (1, 0, number))
        results.append(split(2.0 * total.numpy(), there))
    return join(results)


def seen_of_steps(of: Plan, steps: int, sampled: float) -> Seen:
    """Of a short training alone: how much likelier its steps are with the canary among the records.

    In place of gradients every record that takes part in a step adds its canary to the sum; `sampled` is the
    sampler's rate, of which the plan may think otherwise.
    """
    size, rate, noise = of.dimensions, of.config.sample_rate, StepNoise(of.grid(NOISE), table_of(of))
    there, sampler = coins(size, 0), PoissonSampler(keys_of(0).stream("sampling", 1, 0), size, sampled)
    evidence = np.zeros(size)
    for step in range(steps):
        drawn = np.zeros(size, bool)
        drawn[sampler.draw(step)] = True
        total = torch.from_numpy(CLIP * (there & drawn))
        noise.add(total, 1.0, keys_of(0), (1, 0, step))
        shift = (total.numpy() / CLIP - 0.5) / NOISE**2
        evidence += np.log1p(rate * np.expm1(shift))
    return evidence[there], evidence[~there]


def seen_of_a_sum(of: Plan, rounds: int, silos: int = SILOS) -> Seen:
    """Of a sum through the whole protocol. The attacker is the last silo, which takes off what it brought."""
    size, grid = of.dimensions, of.grid(NOISE)
    sums = SecureConfig(protocol="secagg" if of.place.needs_private_sum else "plain", bits=of.bits)

    def spec(format: Any) -> AggregationSpec:
        return AggregationSpec(
            (VectorSpec("update", size, format),), np.dtype(np.float32), 1, 0, bytes(32), silos
        )

    def body(comm: Communicator) -> list[Floats]:
        inner, keys = build(ElasticGroup(comm), sums, spec("words")), keys_of(comm.rank)
        silo: Any = None  # clipped vectors come from here
        way = Pipeline(silo, of, grid, keys, ClipNorm(of.config), ("update",)).transforms()
        ring, results = ring_dtype(of.bits), []

        def bind(number: int, attempt: int, words: Any) -> Binding:
            return Binding(keys.fingerprint("sum", number, attempt, words))

        one = TransformedSum(
            inner, spec("scaled"), ring, way, Open(), bind, lambda inner: 1.0, silo=comm.rank
        )
        for number in range(rounds):
            x = CLIP * coins(size, number) if comm.rank == 0 else np.zeros(size)
            one.reduce(Contribution({"update": x.astype(np.float32)}), number, {})
            mean = one.total(comm.rank).mean["update"]
            results.append(mean.astype(np.float64))
            if comm.rank == silos - 1:
                known[number] = brought(one)
        return results

    def brought(one: TransformedSum) -> Floats:
        """What the attacker's silo added to the sum: zeros, rounded and with its noise."""
        values = np.empty(size)
        dequantize(one._words, values, step=grid.step)
        for begin, end in map(one.layout.shards.span, range(silos) if of.rotates else ()):
            unrotate(values[begin:end], Stream("aes-128-ctr", pipeline.ROTATION_KEY))
        return values

    known = np.zeros((rounds, size))
    shown = [np.concatenate(parts) for parts in zip(*run_in_threads(silos, body), strict=True)]
    return join([split(shown[k] - known[k], coins(size, k)) for k in range(rounds)])


def join(results: list[Seen]) -> Seen:
    there, not_there = zip(*results, strict=True)
    return np.concatenate(there), np.concatenate(not_there)


def rates(seen: Seen, error: float) -> tuple[Floats, Floats]:
    """Clopper and Pearson's least rate of hits and largest of false alarms, at every threshold together."""
    part = error / (2 * len(HEIGHTS))
    hits, alarms = ((side[:, None] > NOISE * HEIGHTS).sum(axis=0) for side in seen)
    least = beta.ppf(part, hits, seen[0].size - hits + 1)
    most = beta.ppf(1 - part, alarms + 1, seen[1].size - alarms)
    return np.nan_to_num(least), np.nan_to_num(most, nan=1.0)


def proven(seen: Seen) -> float:
    """Epsilon at DELTA is at least this, for hits <= e^epsilon alarms + DELTA. No noise is assumed."""
    hits, alarms = rates(seen, ERROR)
    return float(np.log(np.maximum(hits - DELTA, 1e-300) / alarms).max())


def part_proven(of: Plan, seen: Seen, silos: int = SILOS) -> float:
    """The norm over the noise's deviation that is proven, as a part of what the accountant is told.

    For an attacker who knows that noise is normal (Dong, Roth, Su 2022, section 2.2), and so proves more.
    """
    hits, alarms = rates(seen, ERROR)
    return (
        float((norm.ppf(hits) - norm.ppf(alarms)).max()) * of.of_sum(of.grid(NOISE), silos).noise_multiplier
    )


PLACES: dict[str, Callable[[Plan, int], Seen]] = {
    "local": seen_of_a_step,
    "distributed": seen_of_a_sum,
    "central": seen_of_a_sum,
}


def halve(monkeypatch: pytest.MonkeyPatch, mechanism: str) -> None:
    """The bug: half the standard deviation, of which grid and accountant know nothing."""
    table = pipeline.TABLES[mechanism]
    monkeypatch.setitem(pipeline.TABLES, mechanism, lambda variance: table(variance / 4))


@pytest.mark.covering(1)
@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_proven_stays_below_the_claim(place: str, mechanism: str) -> None:
    of = plan(place, mechanism=mechanism)
    assert 0.5 * claim(of) < proven(PLACES[place](of, 4)) <= claim(of)


@pytest.mark.covering(1)
@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
@pytest.mark.parametrize("place", PLACES)
def test_half_the_noise_is_found_out(place: str, mechanism: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = plan(place, mechanism=mechanism)
    halve(monkeypatch, mechanism)
    assert proven(PLACES[place](of, 4)) > claim(of)


@pytest.mark.covering(0)
@pytest.mark.parametrize("place", PLACES)
def test_an_attacker_who_knows_the_noise_is_normal_proves_nearly_all_of_the_claim(place: str) -> None:
    of = plan(place)
    assert 0.95 < part_proven(of, PLACES[place](of, 4)) <= 1


def test_noise_that_the_attacker_knows_is_missed_where_it_was_counted() -> None:
    of = plan("distributed", colluding=0)
    assert part_proven(of, seen_of_a_sum(of, 4)) > 1.05


def test_what_is_left_of_the_noise_when_a_silo_is_lost_is_what_was_claimed() -> None:
    of, left = plan("distributed", dropouts=1), SILOS - 1
    seen = seen_of_a_sum(of, 4, left)
    assert 0.5 * claim(of, silos=left) < proven(seen) <= claim(of, silos=left)
    assert 0.95 < part_proven(of, seen, left) <= 1


def test_a_silo_that_is_lost_unprepared_costs_what_is_told() -> None:
    of, left = plan("distributed"), SILOS - 1
    seen = seen_of_a_sum(of, 4, left)
    assert 0.95 < part_proven(of, seen, left) <= 1
    assert part_proven(of, seen, SILOS) > 1.05  # of as much noise as there would have been


@pytest.mark.long
def test_rotated_sums_in_a_small_ring_keep_the_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    of = plan("distributed", size=8192, bits=16)  # rotated noise is nearly normal: as good as independent
    assert of.rotates
    assert 0.5 * claim(of) < proven(seen_of_a_sum(of, 24)) <= claim(of)
    halve(monkeypatch, "discrete-gaussian")
    assert proven(seen_of_a_sum(of, 24)) > claim(of)


def test_sampled_steps_together_keep_the_claim_and_a_sampler_that_takes_all_does_not() -> None:
    of = plan("local", unit="example", sample_rate=0.2, size=400_000)
    told = claim(of, releases=5)
    assert 0.45 * told < proven(seen_of_steps(of, 5, sampled=0.2)) <= told
    assert proven(seen_of_steps(of, 5, sampled=1.0)) > told
