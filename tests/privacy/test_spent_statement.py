"""What is stated can be worked out by dp-accounting alone, from the text that the statement has for it."""

from __future__ import annotations

import json
import math
from typing import Any

import dp_accounting
import pytest

from silofl.config import PrivacyConfig
from silofl.privacy.accountant import epsilon
from silofl.privacy.dp_events import RELATIONS, event_of, python_of
from silofl.privacy.ledger import Ledger
from silofl.privacy.releases import Release
from silofl.privacy.spent_statement import DELTAS, Statement

SHARES: dict[str, Any] = {"shares": 3, "known": 1}


def released(mechanism: Any = "discrete-gaussian", **keys: Any) -> Release:
    return Release(mechanism, 1.5, variance=400.0, **keys).as_drawn()


SAMPLED = {"sample_rate": 0.1, "slack": 1e-13, "dimensions": 1000}
WHOLE = {"sampler": "none"}
CASES: dict[str, tuple[dict[Release, int], Any]] = {
    "sampled": ({released(**SAMPLED): 40}, "pld"),
    "all records": ({released(**WHOLE): 3}, "pld"),
    "several": ({released(**SAMPLED): 20, released(**WHOLE): 1, Release("gaussian", 4.0, **WHOLE): 2}, "pld"),
    "add-remove": ({released(**SAMPLED, neighbours="add-remove"): 40}, "pld"),
    "replace-one": ({released(**SAMPLED, neighbours="replace-one"): 40}, "pld"),
    "replace-one, all": ({released(**WHOLE, neighbours="replace-one"): 2}, "pld"),
    "orders": ({released(**SAMPLED): 40, released(**WHOLE): 1}, "rdp"),
    "orders of replaced": ({released(**WHOLE, neighbours="replace-one"): 2}, "rdp"),
    "skellam": ({released("skellam", **SAMPLED): 40}, "rdp"),
    "institutions": ({released(**SAMPLED, institutions=3): 40}, "pld"),
    "institutions, all": ({released(**WHOLE, institutions=3, neighbours="replace-one"): 2}, "pld"),
    "nothing": ({}, "pld"),
}
SLOW = {"institutions", "sampled", "replace-one", "replace-one, all", "orders"}
"""What others hold a part of."""


@pytest.mark.covering(0)
@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.long] * (c in SLOW)) for c in CASES])
def test_the_text_pasted_into_python_gives_what_is_stated(case: str) -> None:
    spent, method = CASES[case]
    stated, there = epsilon(spent, 1e-6, method), dict[str, Any]()
    exec(python_of(spent, 1e-6, method, "found"), there)  # as a reader would
    assert math.isclose(stated, there["found"], rel_tol=0.01)
    assert stated >= there["found"] * (1 - 1e-6)


@pytest.mark.long
def test_the_tree_is_that_of_dp_accounting() -> None:
    def built(tree: Any) -> Any:
        fields = {key: value for key, value in tree.items() if key != "class"}
        if "events" in fields:
            fields["events"] = [built(one) for one in fields["events"]]
        if "event" in fields:
            fields["event"] = built(fields["event"])
        return getattr(dp_accounting.dp_event, tree["class"])(**fields)

    spent, method = CASES["several"]
    there: dict[str, Any] = {}
    exec(python_of(spent, 1e-6, method, "found"), there)
    assert built(json.loads(json.dumps(event_of(spent, method)))) == there["event"]
    assert all(name in dp_accounting.NeighboringRelation.__members__ for name in RELATIONS.values())


def statement(ledger: Ledger, **keys: Any) -> Statement:
    privacy = PrivacyConfig(**{"unit": "example", "noise_multiplier": 1.5} | keys)
    return Statement("a run", "1", privacy, ledger)


def test_each_adversary_has_an_epsilon_at_every_delta_and_silos_that_differ_their_own() -> None:
    ledger = Ledger()
    ledger.record(released(**SAMPLED, **SHARES), [0, 1, 2], 20)
    ledger.record(released(**SAMPLED, **SHARES), [1], 5)
    found = statement(ledger).to_json()
    for key, known in (("observer", 0), ("silos", 1)):
        told = found["against"][key]
        assert [one["silos"] for one in told["silos"]] == [[1], [0, 2]]
        assert [delta for delta, _ in told["curve"]] == list(DELTAS)
        assert dict(map(tuple, told["curve"]))[1e-5] == told["epsilon"]
        assert told["epsilon"] == ledger.epsilon_against(known, 1e-5, "pld")
    assert found["against"]["observer"]["epsilon"] < found["against"]["silos"]["epsilon"]
    text = statement(ledger).text("again")
    assert "  by silo" in text
    assert "recompute         again" in text


@pytest.mark.parametrize(
    ("place", "who", "trusted"),
    [
        ("local", ["observer", "silos"], "no rank"),
        ("distributed", ["observer", "silos"], "collude"),
        ("central", ["observer"], "every rank"),
    ],
)
def test_each_place_says_whom_it_holds_against_and_who_is_trusted(
    place: str, who: list[str], trusted: str
) -> None:
    ledger = Ledger()
    ledger.record(released(**SAMPLED), [0])
    said = statement(ledger, place=place)
    assert list(said.to_json()["against"]) == who
    assert trusted in said.trusted
    assert ("nothing bounds what it sees" in said.text("")) == (place == "central")


def test_what_is_said_for_people_is_not_below_what_was_spent() -> None:
    ledger = Ledger()
    ledger.record(released(**SAMPLED), [0], 7)
    one = statement(ledger).adversaries[0]
    said = float(one.python().partition("stated as epsilon ")[2].split()[0])
    assert one.epsilon <= said <= one.epsilon * 1.001


def test_a_sum_in_which_no_noise_is_left_has_no_epsilon() -> None:
    ledger = Ledger()
    ledger.record(released(**SAMPLED, shares=1, known=0), [0])
    told = statement(ledger, colluding=2).to_json()["against"]["silos"]
    assert told["epsilon"] is None
    assert "no epsilon that can be told" in statement(ledger, colluding=2).text("")
