"""When silos are excluded and reinstated: by hand, and in simulated federations of 50 rounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from silofl.detection.silo_standing import (
    ExclusionRules,
    Standing,
    Verdict,
    excluded_of,
    filtered,
    judge,
)
from silofl.detection.update_scores import NOT_FINITE, Score, part_of, scores_of

RULES = ExclusionRules(threshold=6.0, strikes=3, window=5, exclusion=4, probation=3, most=2, fewest=5)
SILOS = 8


def seen(**deviations: float) -> dict[int, Score]:
    """Scores of a round in which all are as usual but those named, such as `s3=9.0`."""
    usual = {silo: Score(1.0, 0.9, 1.0, silo + 1, 0.0, "norm") for silo in range(SILOS)}
    return usual | {
        int(name[1:]): NOT_FINITE if value == np.inf else replace(usual[0], deviation=value)
        for name, value in deviations.items()
    }


def course(*rounds: dict[int, Score], rules: ExclusionRules = RULES) -> tuple[Any, list[Verdict]]:
    standings: dict[int, Standing] = {}
    verdicts = []
    for number, scores in enumerate(rounds, 1):
        standings, verdict = judge(standings, scores, number, rules)
        standings = {silo: Standing.from_json(one.to_json()) for silo, one in standings.items()}
        verdicts.append(verdict)
    return standings, verdicts


def changes(verdicts: list[Verdict]) -> list[tuple[int, list[int], list[int]]]:
    """Rounds after which something changed: who was excluded, and who was reinstated."""
    numbered = [(n, [*one.excluded], [*one.reinstated]) for n, one in enumerate(verdicts, 1)]
    return [one for one in numbered if one[1] or one[2]]


BAD, GOOD = seen(s3=9.0), seen()


def test_so_many_of_the_last_rounds_exclude_a_silo() -> None:
    assert changes(course(BAD, BAD, GOOD, GOOD, GOOD, BAD, GOOD)[1]) == []
    assert changes(course(BAD, GOOD, BAD, GOOD, BAD)[1]) == [(5, [3], [])]
    assert (
        "3 of its last 5 updates suspicious, this one for its norm"
        in course(*[BAD, GOOD] * 3)[1][4].excluded[3]
    )


def test_an_exclusion_ends_when_its_rounds_are_over_and_the_last_ones_are_clean() -> None:
    standings, verdicts = course(*[BAD] * 3, *[GOOD] * 4)
    assert changes(verdicts) == [(3, [3], []), (7, [], [3])]
    assert not standings[3].excluded
    assert standings[3].probation_until == 10
    assert changes(course(*[BAD] * 12)[1]) == [(3, [3], [])]
    assert changes(course(*[BAD] * 6, *[GOOD] * 4)[1]) == [(3, [3], []), (9, [], [3])]


def test_on_probation_one_suspicious_update_excludes_again() -> None:
    back = (*[BAD] * 3, *[GOOD] * 4)
    assert changes(course(*back, GOOD, BAD)[1])[-1] == (9, [3], [])
    assert "on probation" in course(*back, GOOD, BAD)[1][8].excluded[3]
    assert changes(course(*back, *[GOOD] * 3, BAD, BAD)[1])[-1] == (7, [], [3])


def test_no_more_are_left_out_than_there_is_room_for() -> None:
    many = seen(s1=7.0, s2=9.0, s3=8.0)
    standings, verdicts = course(many, many, many)
    assert changes(verdicts) == [(3, [2, 3], [])]
    assert excluded_of(standings, range(SILOS), RULES) == (2, 3)
    assert excluded_of(standings, (0, 1, 2, 3, 4, 5), RULES) == (2,)  # five have to stay
    assert excluded_of(standings, (1, 2, 3, 4, 5), RULES) == ()
    assert replace(RULES, most=9, fewest=1).room(8) == 3  # less than half
    assert changes(course(many, many, many, rules=replace(RULES, excludes=False))[1]) == []


def test_a_mean_is_without_suspicious_updates_of_the_round_itself() -> None:
    assert filtered(seen(s1=7.0, s2=9.0, s3=8.0), (), RULES) == (2, 3)
    assert filtered(seen(s1=7.0), (4, 5), RULES) == (4, 5)
    assert filtered(seen(s0=np.inf, s1=np.inf, s2=np.inf), (), RULES) == (0, 1, 2)
    assert filtered(seen(s0=np.inf, s2=9.0), (), replace(RULES, excludes=False)) == (0,)


def test_a_silo_that_was_not_drawn_keeps_its_standing() -> None:
    rest = {silo: score for silo, score in GOOD.items() if silo != 3}
    assert changes(course(BAD, BAD, rest, rest, rest, rest, BAD)[1]) == [(7, [3], [])]


def unlike(rng: Any, size: int, spread: float) -> Any:
    """Honest silos' ways to update: a common direction, one of their own, and a length of their own."""
    common = rng.standard_normal(size)
    own = spread * rng.standard_normal((10, size))
    lengths = rng.uniform(0.6, 1.6, 10)
    return lambda: [
        length * (common + way + 0.5 * rng.standard_normal(size))
        for way, length in zip(own, lengths, strict=True)
    ]


FORGED = {
    "sign_flip": lambda rows, k, rng: -10 * rows[k],
    "gaussian": lambda rows, k, rng: 200 * rng.standard_normal(len(rows[k])),
    "inner_product": lambda rows, k, rng: -10 * np.mean(rows[:7], axis=0),
    "replacement": lambda rows, k, rng: 5 * rows[k],
    "not_a_number": lambda rows, k, rng: np.full(len(rows[k]), np.nan),
}


@pytest.mark.parametrize("attackers", [0, 2, 3])
@pytest.mark.parametrize("spread", [0.0, 1.0], ids=["alike", "unlike"])
@pytest.mark.parametrize("attack", FORGED)
def test_attackers_are_excluded_within_five_rounds_and_at_most_one_other_in_fifty(
    attack: str, spread: float, attackers: int
) -> None:
    rng = np.random.default_rng([len(attack), int(spread), attackers])
    honest, rules = unlike(rng, 150, spread), replace(RULES, exclusion=10, probation=10, most=3)
    standings: dict[int, Standing] = {}
    first: dict[int, int] = {}
    for number in range(1, 51):
        rows = honest()
        rows[10 - attackers :] = [FORGED[attack](rows, k, rng) for k in range(10 - attackers, 10)]
        out = excluded_of(standings, range(10), rules)
        kept = [silo for silo in range(10) if silo not in out]
        scores = scores_of(part_of(rows, kept), kept, rules.most - len(out))
        standings, verdict = judge(standings, dict(enumerate(scores)), number, rules)
        for silo in verdict.excluded:
            first.setdefault(silo, number)
    assert all(first.get(silo, 99) <= 5 for silo in range(10 - attackers, 10))
    assert sum(silo < 10 - attackers for silo in first) <= 1
    assert all(standings[silo].excluded for silo in range(10 - attackers, 10))
