"""The ledger: per silo and for the federation, equal to the last bit after JSON, and cheap to ask."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.errors import ConfigError
from silofl.privacy.accountant import epsilon
from silofl.privacy.ledger import Ledger
from silofl.privacy.releases import MECHANISMS, Release
from tests.campaigns import mostly_long

STEP = Release("discrete-gaussian", 1.1, 5e6, 0.05, slack=1e-30)
NORMS = Release("gaussian", 12.0, sampler="none")

releases = st.builds(
    Release,
    st.sampled_from(MECHANISMS),
    st.floats(0.3, 100),
    st.floats(16, 1e12),
    st.floats(0.001, 1),
    slack=st.floats(0, 1e-9),
)
records = st.lists(
    st.tuples(releases, st.sets(st.integers(0, 5), min_size=1), st.integers(1, 50)), min_size=1, max_size=5
)


def ledger_of(entries) -> Ledger:
    ledger = Ledger()
    for release, silos, count in entries:
        ledger.record(release, silos, count)
    return ledger


def test_a_ledger_of_before_ratios_is_read():
    ledger = Ledger()
    ledger.record(Release("gaussian", 1.0), [0, 2], 3)
    older = json.loads(ledger.to_json())
    for release in older["releases"]:
        for newer in ("dimensions", "tail", "ratio"):
            del release[newer]
    assert Ledger.from_json(json.dumps(older)) == ledger


@settings(max_examples=100, deadline=None)
@given(releases)
def test_a_release_survives_json(release):
    assert Release.from_json(release.to_json()) == release


@pytest.mark.parametrize("examples", mostly_long([4, 12, 200], 0))
def test_a_ledger_survives_json_bit_for_bit(examples):
    @settings(max_examples=examples, deadline=None)
    @given(records, st.randoms())
    def check(entries, random):
        survives_json(entries, random)

    check()


def survives_json(entries, random):
    ledger = ledger_of(entries)
    again = Ledger.from_json(ledger.to_json())
    assert again == ledger
    assert again.to_json() == ledger.to_json()
    assert again.epsilon_per_silo(1e-5, "rdp") == ledger.epsilon_per_silo(1e-5, "rdp")
    random.shuffle(entries)
    assert ledger_of(entries).to_json() == ledger.to_json()


def test_a_resume_in_the_middle_ends_with_the_same_bits():
    whole, part = Ledger(), Ledger()
    for step in range(20):
        if step == 11:
            part = Ledger.from_json(part.to_json())
        for ledger in (whole, part):
            ledger.record(STEP, range(4 if step < 7 else 3), 5)
            ledger.record(NORMS, [0, 2])
            ledger.epsilon(1e-5, "pld")
    assert part == whole
    assert part.to_json() == whole.to_json()
    assert part.epsilon_per_silo(1e-5, "pld") == whole.epsilon_per_silo(1e-5, "pld")


def test_silos_compose_in_parallel_and_the_largest_counts():
    ledger = ledger_of([(STEP, range(3), 100), (STEP, [1], 50), (NORMS, [2], 4)])
    expected = {
        0: epsilon({STEP: 100}, 1e-5, "pld"),
        1: epsilon({STEP: 150}, 1e-5, "pld"),
        2: epsilon({STEP: 100, NORMS: 4}, 1e-5, "pld"),
    }
    assert ledger.epsilon_per_silo(1e-5, "pld") == expected
    assert ledger.epsilon(1e-5, "pld") == max(expected.values()) > expected[0]
    assert ledger.spent_by(1) == {STEP: 150}
    assert ledger.spent_by(9) == {}


def test_nothing_costs_nothing():
    assert Ledger().epsilon(1e-5, "pld") == 0.0
    assert Ledger().epsilon_per_silo(1e-5, "pld") == {}
    assert Ledger.from_json(Ledger().to_json()) == Ledger()


def test_a_copy_goes_its_own_way():
    ledger = ledger_of([(STEP, [0, 1], 3)])
    other = ledger.copy()
    assert other == ledger
    other.record(STEP, [0])
    assert ledger.spent_by(0) == {STEP: 3}
    assert other.spent_by(0) == {STEP: 4}
    assert other != ledger
    spent = ledger.spent_by(0)
    spent[STEP] = 99  # type: ignore[index]
    assert ledger.spent_by(0) == {STEP: 3}


def test_silos_with_equal_counts_are_asked_for_once(monkeypatch):
    asked = []
    monkeypatch.setattr("silofl.privacy.ledger.epsilon", lambda *what: asked.append(what) or 1.0)
    ledger = ledger_of([(STEP, range(64), 2), (NORMS, [5], 1)])
    assert ledger.epsilon(1e-5, "pld") == 1.0
    assert len(asked) == 2


def test_what_cannot_be_accounted_for_is_not_recorded():
    ledger = ledger_of([(STEP, [0], 1)])
    before = ledger.to_json()
    for release, count in (
        (Release("gaussian", 1.0, sampler="shuffle"), 1),
        (Release("gaussian", math.nan), 1),
        (Release("binomial", 1.0), 1),  # type: ignore[arg-type]
        (STEP, -1),
        (STEP, 1.5),
    ):
        with pytest.raises(ConfigError):
            ledger.record(release, [0, 1], count)
    ledger.record(NORMS, [0, 7], 0)
    assert ledger.to_json() == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mechanism": "binomial"}, "unknown mechanism 'binomial'"),
        ({"mechanism": ["gaussian"]}, "unknown mechanism"),
        ({"colour": 1}, "a release has the keys"),
        ({"noise_multiplier": "2"}, "noise_multiplier is '2'; it must be a finite number"),
        ({"variance": True}, "variance is True"),
        ({"slack": math.inf}, "slack is inf"),
        ({"sampler": 3}, "sampler is 3; it must be a name"),
    ],
)
def test_another_release_in_json_is_refused(change, sentence):
    entry = {**json.loads(STEP.to_json()), **change}
    with pytest.raises(ConfigError, match=sentence):
        Release.from_json(json.dumps(entry))
    text = json.dumps({"releases": [entry], "silos": {}})
    with pytest.raises(ConfigError, match=sentence):
        Ledger.from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"silos": {}}',
        '{"releases": [], "silos": {"0": [[0, 1]]}}',
        '{"releases": [], "silos": {"x": []}, "more": 1}',
        '{"releases": [], "silos": {"0": [1]}}',
        '{"releases": [], "silos": []}',
    ],
)
def test_a_damaged_ledger_is_refused(text):
    with pytest.raises(ConfigError, match="ledger of what was spent is damaged"):
        Ledger.from_json(text)


def test_impossible_counts_in_json_are_refused():
    whole = json.loads(ledger_of([(STEP, [0], 1)]).to_json())
    for row in ([[0, -1]], [[0, 1.5]], [[-1, 1]], [[0, 0]], [[0, 1], [0, 1]]):
        with pytest.raises(ConfigError):
            Ledger.from_json(json.dumps({**whole, "silos": {"0": row}}))


@pytest.mark.parametrize(("factor", "forgets"), [(1 + 1e-9, False), (1 - 1e-9, False), (1 - 1e-4, True)])
def test_releases_that_differ_in_the_last_bits_are_not_forgotten(factor: float, forgets: bool) -> None:
    other = Release(
        STEP.mechanism, STEP.noise_multiplier * factor, STEP.variance, STEP.sample_rate, slack=1e-30
    )
    assert ledger_of([(other, [1], 3)]).forgets(ledger_of([(STEP, [1], 3)]), 1) == forgets
    assert ledger_of([(other, [1], 2)]).forgets(ledger_of([(STEP, [1], 3)]), 1)
    assert not ledger_of([(STEP, [1], 3)]).forgets(ledger_of([(STEP, [2], 3)]), 1)
