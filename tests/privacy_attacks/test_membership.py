"""Membership inferences against the papers in plain loops, and what their scores are worth."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from silofl.privacy_attacks.candidate_weights import candidate_weights
from silofl.privacy_attacks.membership.base import Evidence, train_shadows
from silofl.privacy_attacks.membership.likelihood_ratio import log_odds
from silofl.privacy_attacks.membership.registry import INFERENCES
from silofl.privacy_attacks.membership.trajectory import Trajectory
from silofl.privacy_attacks.roc import worth

M, K, ROUNDS = 7, 6, 3


def evidence(seed: int = 0) -> Evidence:
    rng = np.random.default_rng(seed)
    members = np.zeros((K, M), np.bool_)
    for column in members.T:
        column[rng.permutation(K)[: K // 2]] = True
    losses = rng.exponential(1, M)
    return Evidence(losses, rng.exponential(1, (K, M)), members, rng.standard_normal((ROUNDS, M)))


def by_threshold(one: Evidence) -> list[float]:
    return [-float(loss) for loss in one.losses]


def by_difficulty(one: Evidence) -> list[float]:
    found = []
    for j in range(M):
        without = [one.shadow_losses[k, j] for k in range(K) if not one.shadow_members[k, j]]
        found.append(sum(without) / len(without) - one.losses[j])
    return found


def by_ratio(one: Evidence) -> list[float]:
    def odds(loss: float) -> float:
        p = math.exp(-loss)
        return math.log(p / (1 - p))

    sides: dict[bool, list[list[float]]] = {side: [] for side in (True, False)}
    for side, j in product(sides, range(M)):
        sides[side].append(
            [odds(one.shadow_losses[k, j]) for k in range(K) if one.shadow_members[k, j] == side]
        )
    logs = {}
    for side, every in sides.items():
        means = [sum(group) / len(group) for group in every]
        squares = [(v - mean) ** 2 for group, mean in zip(every, means, strict=True) for v in group]
        deviation = math.sqrt(sum(squares) / len(squares))
        logs[side] = [
            norm.logpdf(odds(loss), mean, deviation) for loss, mean in zip(one.losses, means, strict=True)
        ]
    return [inside - outside for inside, outside in zip(logs[True], logs[False], strict=True)]


def by_rounds(one: Evidence) -> list[float]:
    return [math.fsum(one.round_weights[t, j] for t in range(ROUNDS)) for j in range(M)]


REFERENCES: dict[str, Any] = {
    "loss_threshold": by_threshold,
    "calibrated_loss": by_difficulty,
    "likelihood_ratio": by_ratio,
    "trajectory": by_rounds,
}


def test_every_inference_has_a_reference() -> None:
    assert REFERENCES.keys() == INFERENCES.keys()


@pytest.mark.parametrize("name", INFERENCES)
def test_scores_are_those_of_the_paper_whatever_the_order_of_records(name: str) -> None:
    attack, one = INFERENCES[name](), evidence()
    scores = attack.scores(one)
    np.testing.assert_allclose(scores, REFERENCES[name](one), rtol=1e-10, atol=1e-10)
    order = np.random.default_rng(5).permutation(M)
    columns = (every[:, order] for every in (one.shadow_losses, one.shadow_members, one.round_weights))
    other = Evidence(one.losses[order], *columns)
    np.testing.assert_allclose(attack.scores(other), scores[order], rtol=1e-10)


@pytest.mark.parametrize("name", [name for name, kind in INFERENCES.items() if kind.shadows])
def test_a_record_without_both_kinds_of_shadows_is_refused(name: str) -> None:
    one = evidence()
    one.shadow_members[:, 3] = True
    for spoiled in (one, Evidence(one.losses)):
        with pytest.raises(ValueError, match="in no shadow model, or in all"):
            INFERENCES[name]().scores(spoiled)


def test_steps_without_a_weight_for_each_record_are_refused() -> None:
    one = evidence()
    for spoiled in (Evidence(one.losses), replace(one, round_weights=one.round_weights[:, :-1])):
        with pytest.raises(ValueError, match="no weight of each record in each round's step"):
            Trajectory().scores(spoiled)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_steps_of_many_rounds_show_members_that_one_round_hides(noise: float) -> None:
    rng, members = np.random.default_rng(0), np.arange(60) < 30
    rounds = []
    for _ in range(40):  # each round a part of the members, as DP-SGD draws them
        rows = rng.standard_normal((60, 80)) / 9
        total = (members & (rng.random(60) < 0.5)) @ rows + noise * rng.standard_normal(80)
        rounds.append(candidate_weights(rows, total, 0.25, noise))
    area = worth(Trajectory().scores(Evidence(np.ones(60), round_weights=np.stack(rounds))), members).auc
    assert area == 1.0 if noise == 0 else 0.75 < area < 1.0
    assert worth(rounds[0], members).auc < area


def test_log_odds_of_losses_that_are_almost_zero_are_finite() -> None:
    losses = np.array([0.0, 1e-9, math.log(2), 3.0, 50.0])
    found = log_odds(losses)
    assert np.isfinite(found).all()
    assert np.all(np.diff(found) < 0)
    np.testing.assert_allclose(found[2:], [0.0, -math.log(math.e**3 - 1), -50.0], atol=1e-10)


def test_shadows_come_in_pairs_and_each_record_is_in_half_of_them() -> None:
    asked: list[Any] = []

    def train(mask: Any) -> Any:
        asked.append(mask)
        return mask.astype(float)

    losses, members = train_shadows(train, 10, 6, np.random.default_rng(0))
    assert losses.shape == members.shape == (6, 10)
    np.testing.assert_array_equal(members, np.stack(asked))
    assert (members.sum(axis=0) == 3).all()
    assert len({mask.tobytes() for mask in asked}) == 6
    with pytest.raises(ValueError, match="no pairs"):
        train_shadows(train, 10, 3, np.random.default_rng(0))


@pytest.mark.parametrize("decimals", [1, 12], ids=["ties", "no ties"])
def test_area_bounds_and_rates_are_those_of_all_pairs(decimals: int) -> None:
    rng = np.random.default_rng(2)
    members = np.arange(240) < 80
    scores = np.round(rng.standard_normal(240) + 0.7 * members, decimals)
    found = worth(scores, members, (0.05, 0.001))
    inside, outside = scores[members], scores[~members]
    wins = np.array([[(a > b) + (a == b) / 2 for b in outside] for a in inside])
    assert found.auc == pytest.approx(wins.mean(), abs=1e-12)
    error = math.sqrt(wins.mean(1).var(ddof=1) / 80 + wins.mean(0).var(ddof=1) / 160)
    assert (found.low, found.high) == pytest.approx(
        (found.auc - 1.959964 * error, found.auc + 1.959964 * error), abs=1e-6
    )
    rates = [(np.mean(inside >= cut), np.mean(outside >= cut)) for cut in scores]
    assert found.advantage == pytest.approx(max(true - false for true, false in rates), abs=1e-12)
    [low] = found.detected  # for 0.001 there are too few others
    assert low.rate == max(true for true, false in rates if false <= 0.05)
    assert low.low < low.rate < low.high


def test_bounds_of_none_found_are_those_of_clopper_and_pearson() -> None:
    members = np.arange(110) < 10
    [none] = worth(-members.astype(float), members, (0.01,)).detected
    assert (none.found, none.low) == (0, 0.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert worth(members.astype(float), members).auc == 1.0


@pytest.mark.parametrize("spoil", ["one member", "undefined"])
def test_scores_that_tell_nothing_are_refused(spoil: str) -> None:
    members, scores = np.arange(6) < (1 if spoil == "one member" else 3), np.arange(6.0)
    if spoil == "undefined":
        scores[2] = np.nan
    with pytest.raises(ValueError, match="take two of each at least, with scores"):
        worth(scores, members)
