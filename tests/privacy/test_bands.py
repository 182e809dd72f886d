"""The matrix of correlated noise, and what it costs: against dense matrices and dp-accounting."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from scipy.stats import norm

from silofl.config import PrivacyConfig
from silofl.errors import ConfigError
from silofl.privacy.accountant import epsilon
from silofl.privacy.band_choice import better, errors_of
from silofl.privacy.bands import INDEPENDENT, BandMatrix, matrix_for
from silofl.privacy.ledger import Ledger
from silofl.privacy.plan import Plan
from silofl.privacy.releases import Release
from silofl.types import RingBits
from tests.campaigns import mostly_long

BANDS, ROUNDS, SILOS = 4, 10, 5


def dense(matrix: BandMatrix, rounds: int) -> np.ndarray:
    """C (rounds, rounds)."""
    return sum(one / 64 * np.eye(rounds, k=-j) for j, one in enumerate(matrix.coefficients))  # type: ignore[return-value]


def plan(bands: int = BANDS, rounds: int = ROUNDS, **keys: object) -> Plan:
    config = PrivacyConfig(unit="example", noise_multiplier=1.0, sample_rate=0.1, bands=bands, **keys)
    return Plan(config, 1000, 32, SILOS, 500.0, rounds, 1, matrix_for(bands, rounds))


@pytest.mark.covering(0)
@pytest.mark.parametrize(("bands", "rounds"), [(2, 30), (8, 200)])
def test_the_matrix_is_the_best_of_its_bands(bands: int, rounds: int) -> None:
    """By dense matrices: no coefficient moved by a 64th makes it better, and the error is what is said."""

    def error(coefficients: tuple[int, ...]) -> float:
        matrix = dense(BandMatrix(coefficients), rounds)
        prefix = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(matrix)
        return float(np.linalg.norm(prefix) * np.linalg.norm(matrix[:, 0])) / math.sqrt(rounds)

    best = matrix_for(bands, rounds)
    assert best.bands == bands
    assert best.error(rounds) == pytest.approx(error(best.coefficients), rel=1e-9)
    assert best.spread == pytest.approx(np.linalg.norm(np.linalg.inv(dense(best, 500))[-1]), rel=1e-9)
    assert best.error(rounds) < 0.8 * INDEPENDENT.error(rounds)
    for j in range(1, bands):
        for by in (-1, 1):
            moved = [one + by * (at == j) for at, one in enumerate(best.coefficients)]
            assert error(tuple(moved)) > error(best.coefficients) * (1 - 1e-8)


def test_independent_noise_is_what_it_was() -> None:
    assert matrix_for(1, 50) == INDEPENDENT
    assert (INDEPENDENT.column_norm, INDEPENDENT.spread) == (1.0, 1.0)
    alone = plan(bands=1)
    assert alone.grid(1.0) == replace(alone, matrix=INDEPENDENT).grid(1.0)
    assert alone.of_rounds(1.0, 7) == {alone.of_sum(alone.grid(1.0), SILOS): 7}


@pytest.mark.parametrize("bad", [(), (63,), (64, 65), (64, 1.0), (64,) * 129])
def test_what_is_no_matrix_is_refused(bad: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no coefficients"):
        BandMatrix(bad)


@pytest.mark.parametrize("rate", mostly_long([0.05, 0.25], 0))
def test_a_run_costs_what_dp_accounting_says_of_the_matrix(rate: float) -> None:
    """Of one group's blocks: Gaussians of the column's sensitivity, sampled at `bands` times the rate."""
    of, noise = plan(rounds=202), 1.5
    of = replace(of, config=of.config.model_copy(update={"sample_rate": rate}))
    grid, column = of.grid(noise), np.linalg.norm(dense(of.matrix, 50)[:, 3])
    deviation = math.sqrt((SILOS - 1) * grid.share)  # of the noise that counts, `colluding` = 1
    event: dp_event.DpEvent = dp_event.GaussianDpEvent(
        deviation / (column * grid.sensitivity / of.matrix.column_norm)
    )
    if rate * BANDS < 1:
        event = dp_event.PoissonSampledDpEvent(rate * BANDS, event)
    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(dp_event.SelfComposedDpEvent(event, 51))
    assert of.spent_after(noise, 202) == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)


def test_the_ring_holds_the_noise_of_the_inverse() -> None:
    of = plan()
    grid, alone = of.grid(1.0), replace(of, matrix=INDEPENDENT).grid(1.0)
    room = (1 << 31) - 1 - grid.limit * SILOS
    assert room >= 9 * math.sqrt(grid.share * SILOS) * of.matrix.spread > 9 * math.sqrt(alone.share * SILOS)
    assert grid.sensitivity == pytest.approx(of.matrix.column_norm * alone.sensitivity, rel=1e-6)


def correlated(number: int, process: int, shares: int = 4) -> Release:
    of = plan()
    return replace(of.of_sum(of.grid(1.0), shares + 1), process=process, group=number % BANDS)


def test_a_record_pays_for_its_group_alone() -> None:
    ledger = Ledger()
    for number in range(1, 11):  # groups 1 and 2 have three rounds, 3 and 0 two
        ledger.record(correlated(number, 1), range(SILOS))
    three = epsilon({plan().of_sum(plan().grid(1.0), SILOS): 3}, 1e-5, "pld")
    assert ledger.epsilon(1e-5, "pld") == three
    assert plan().spent_after(1.0, 10) == three
    assert Ledger.from_json(ledger.to_json()) == ledger


def test_a_silo_that_missed_one_round_lent_its_noise_to_none_of_the_process() -> None:
    """Of its process all rounds lose it, also for records that were in none of the later rounds."""
    ledger, of = Ledger(), plan()
    for number in (1, 2, 3):
        ledger.record(correlated(number, 1), range(SILOS))
    before = ledger.epsilon(1e-5, "pld")
    ledger.record(correlated(4, 1, shares=3), range(SILOS - 1))
    ledger.record(correlated(5, 5, shares=4), range(SILOS))  # another process: its noise counts again
    less, enough = of.of_sum(of.grid(1.0), SILOS - 1), of.of_sum(of.grid(1.0), SILOS)
    assert ledger.epsilon(1e-5, "pld") == pytest.approx(epsilon({less: 1, enough: 1}, 1e-5, "pld"), rel=1e-9)
    alone = ledger.epsilon_per_silo(1e-5, "pld")
    assert alone[SILOS - 1] == pytest.approx(epsilon({less: 1, enough: 1}, 1e-5, "pld"), rel=1e-9)
    assert ledger.epsilon(1e-5, "pld") > before
    four = ledger.epsilon_against(4, 1e-5, "pld")
    assert math.isinf(four), "four of five, of whom one was missing, know all the noise of round 4"


def test_two_neighbouring_runs_are_no_further_apart_than_counted() -> None:
    """An adversary who has C y of both runs: a record in every 4th round, as adversarial as it can be.

    What it brings depends on all that was shown before; C y moves by the column's norm for each round that it
    is in, and nothing else does: the best test of the two is as good as one of that many Gaussians.
    """
    of, rng, trials, dimensions = plan(), np.random.default_rng(3), 40_000, 3
    matrix, deviation, rounds = dense(of.matrix, 9), 4.0, 9
    noise = np.linalg.solve(matrix, rng.normal(0, deviation, (rounds, trials * dimensions)))
    noise = noise.reshape(rounds, trials, dimensions)
    shown, brought = np.zeros_like(noise), np.zeros_like(noise)
    for number in range(rounds):
        others = np.sin(shown[:number].sum(0))  # of what was shown before
        if number % BANDS == 1:
            towards = shown[:number].sum(0) + 1e-9
            brought[number] = towards / np.linalg.norm(towards, axis=1, keepdims=True)
        shown[number] = others + brought[number] + noise[number]
    moved = np.tensordot(matrix, brought, 1)
    squared = (moved**2).sum((0, 2))
    column = [float(np.linalg.norm(matrix[:, at])) for at in (1, 5)]
    np.testing.assert_allclose(squared, sum(one**2 for one in column), rtol=1e-9)
    # the likelihood ratio of the two runs, from what was shown alone
    white = np.tensordot(matrix, noise, 1)
    losses = ((white + moved) ** 2 - white**2).sum((0, 2)) / (2 * deviation**2)
    apart = math.sqrt(sum(one**2 for one in column)) / deviation
    assert losses.mean() == pytest.approx(apart**2 / 2, abs=5 * apart / math.sqrt(trials))
    for at in (0.0, 0.5, 1.0):
        seen = np.maximum(1 - np.exp(at - losses), 0).mean()
        exact = norm.cdf(apart / 2 - at / apart) - math.exp(at) * norm.cdf(-apart / 2 - at / apart)
        assert seen == pytest.approx(exact, abs=5 / math.sqrt(trials))


def test_a_target_that_bands_reach_is_kept() -> None:
    of = plan(rounds=200)
    config = of.config.model_copy(update={"noise_multiplier": None, "target_epsilon": 2.0})
    found = replace(of, config=config).noise_multiplier()
    assert of.spent_after(found, 200) <= 2.0
    with pytest.raises(ConfigError, match="too small a ring"):
        replace(of, bits=8).grid(found)


def target(epsilon_: float, rate: float, bands: int = 1, rounds: int = 200, bits: RingBits = 32) -> Plan:
    config = PrivacyConfig(unit="example", target_epsilon=epsilon_, sample_rate=rate, bands=bands)
    return Plan(config, 1000, bits, SILOS, 500.0, rounds, 1, matrix_for(bands, rounds))


@pytest.mark.long
def test_the_bands_that_are_advised_leave_the_error_that_is_said() -> None:
    """Of noise of dense matrices at the noise multipliers that each number of bands needs."""
    of = target(4.0, 0.02)
    found = better(of)
    assert found is not None
    bands, part = found
    assert bands == 8
    sums = np.tril(np.ones((200, 200)))

    def deviation(of: Plan) -> float:
        grid, inverse = of.grid(of.noise_multiplier()), np.linalg.inv(dense(of.matrix, 200))
        return float(grid.step * math.sqrt(grid.share) * np.linalg.norm(sums @ inverse))

    assert part == pytest.approx(deviation(target(4.0, 0.02, bands)) / deviation(of), rel=0.01)
    assert part < 0.75
    assert better(target(4.0, 0.02, bands)) is None


@pytest.mark.long
def test_bands_that_are_no_better_are_not_advised() -> None:
    """Records that take part often gain nothing, and noise that is correlated in vain is told so."""
    assert better(target(1.0, 0.25)) is None
    found = better(target(1.0, 0.25, bands=4))
    assert found is not None
    assert found[0] == 1
    found = better(target(8.0, 0.05))
    assert found is not None
    assert found[0] == 4, "8 bands leave less by a twenty-fifth alone"
    assert errors_of(target(4.0, 0.25, bits=8), (4,)) == {}, "so small a ring has no room for it"
