"""Robust rules: against the papers in plain NumPy, in any order, and with as many attackers as they bear."""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from typing import Any

import numpy as np
import pytest

from silofl.robust import base
from silofl.robust.base import ResilientRule, aggregate
from silofl.robust.registry import RULES
from tests.robust import naive

KINDS: dict[str, Any] = {name: kind for name, kind in RULES.items() if name != "none"}
EVERY = pytest.mark.parametrize("name", KINDS)
MOVED = ("norm_bounding", "centered_clipping", "root_trust")
"""Rules that attackers move, by a bounded way: none promises to leave equal updates as they are."""
BEFORE: list[dict[str, Any]] = [{}, {"mix": True}, {"clip": True}, {"clip": True, "mix": True}]


def updates(silos: int = 11, size: int = 7, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((silos, size)) + 0.7
    found[1:3] *= 3.0
    return found


def applies(name: str, before: dict[str, Any]) -> bool:
    """Mixing would mix the update that is trusted."""
    return not (name == "root_trust" and before.get("mix"))


APPLIED = [(name, before) for name in KINDS for before in BEFORE if applies(name, before)]


@pytest.mark.parametrize(("name", "before"), APPLIED, ids=str)
def test_a_rule_is_that_of_its_paper(name: str, before: dict[str, Any]) -> None:
    x, reference = updates(), getattr(naive, name)
    given = naive.clip(x, 2) if before.get("clip") else x
    given = naive.mix(given, 2) if before.get("mix") else given
    found = aggregate(KINDS[name](f=2, **before), x)
    more = {"sent": x} if name == "distance_filter" else {}
    np.testing.assert_allclose(found, reference(given, 2, **more), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["median", "geometric_median"])
def test_buckets_are_means_of_drawn_updates(name: str) -> None:
    x = updates(10)
    given = naive.bucket(x, 2, np.random.default_rng(3))
    found = aggregate(KINDS[name](f=2, bucket=2), x, seed=3)
    np.testing.assert_allclose(found, getattr(naive, name)(given, 2), rtol=0, atol=1e-10)


@EVERY
def test_the_order_of_silos_does_not_matter(name: str) -> None:
    x, order = updates(), [0, *range(10, 0, -1)]  # the first is trusted
    found = [aggregate(KINDS[name](f=2), given) for given in (x, x[order])]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-12)


@EVERY
def test_inputs_stay_as_they_are_in_float32_too(name: str) -> None:
    x = updates().astype(np.float32)
    before = x.copy()
    x.flags.writeable = False
    found = aggregate(KINDS[name](f=2), x)
    assert np.array_equal(x, before)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, aggregate(KINDS[name](f=2), x.astype(np.float64)), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in MOVED])
@pytest.mark.parametrize("before", BEFORE, ids=str)
@pytest.mark.parametrize("length", [1.0, 1e4, 1e12, 1e30])
def test_equal_updates_come_out_as_they_are(name: str, before: dict[str, Any], length: float) -> None:
    x = np.repeat(updates(1), 11, axis=0)
    x[[3, 8]] = length * np.random.default_rng(0).standard_normal((2, 7))
    np.testing.assert_allclose(aggregate(KINDS[name](f=2, **before), x), x[0], rtol=0, atol=1e-12)


@EVERY
def test_attackers_move_it_no_further_however_far_they_are(name: str) -> None:
    """The breakdown point: f of the fewest silos, which go to infinity together."""
    silos = KINDS[name](f=2).fewest(2)
    honest, ways = updates(silos, seed=4), np.ones(7)
    found = []
    for length in (1e3, 1e6, 1e12, 1e30, *([1e200] if silos > 4 else [])):
        x = honest.copy()
        x[-2:] = length * ways
        found.append(np.abs(aggregate(KINDS[name](f=2), x)).max())
    assert max(found) < 10


FAR = [
    *product(["krum", "geometric_median", "caf", "centered_clipping"], [{}, {"clip": True}, {"mix": True}]),
    ("centered_clipping", {"iterations": 4}),
]


@pytest.mark.parametrize(("name", "before"), FAR, ids=str)
def test_what_is_far_does_not_drown_what_is_near(name: str, before: Any) -> None:
    """As at a million times the others' distances, but for the direction, which rounding loses."""
    honest, ways = updates(seed=4), np.random.default_rng(5).standard_normal((2, 7))
    found = []
    for length in (1e6, 1e13):
        x = honest.copy()
        x[-2:] = length * ways
        found.append(aggregate(KINDS[name](f=2, **before), x))
    np.testing.assert_allclose(*found, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in (*MOVED, "distance_filter")])
def test_more_than_half_move_it_anywhere(name: str) -> None:
    silos = KINDS[name](f=1).fewest(1)
    x = updates(silos)
    x[: silos // 2 + 1] = 1e9
    assert np.abs(aggregate(KINDS[name](f=1), x)).max() > 1e3


@EVERY
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_left_out_and_named(name: str, bad: float) -> None:
    x = updates(12)
    x[5, 3] = bad
    rule: ResilientRule = KINDS[name](f=2)
    rows, center, out = list(x), np.zeros(7), np.empty(7)
    known = base.measure(rule, rows, center)
    numbers, rng = tuple(range(20, 32)), np.random.default_rng(0)
    if name == "root_trust":
        rule = KINDS[name](f=2, root=20)
    assert base.apply(rule, rows, known, numbers, rng, center=center, out=out) == (25,)
    np.testing.assert_allclose(out, aggregate(KINDS[name](f=1), np.delete(x, 5, axis=0)), atol=1e-9)


@EVERY
def test_slices_make_what_whole_vectors_do(name: str) -> None:
    x, rule, center = updates(11, 300), KINDS[name](f=2, clip=True), np.zeros(300)
    slices = [slice(0, 64), slice(64, 256), slice(256, 300)]
    known = sum(base.measure(rule, [row[one] for row in x], center[one]) for one in slices)
    out, silos = np.empty(300), tuple(range(11))
    for one in slices:
        rows, to = [row[one] for row in x], {"center": center[one], "out": out[one]}
        base.apply(rule, rows, known, silos, np.random.default_rng(0), **to)
    np.testing.assert_allclose(out, aggregate(rule, x), rtol=0, atol=1e-12)


@EVERY
def test_too_many_attackers_for_the_silos_are_refused(name: str) -> None:
    rule: ResilientRule = KINDS[name](f=2)
    fewest = rule.fewest(2)
    assert rule.refusal(fewest) is None
    said = rule.refusal(fewest - 1)
    assert said is not None
    assert said.startswith(f"robust.f = 2 is too large for {fewest - 1} silos")
    assert rule.fewest_silos == fewest
    with pytest.raises(ValueError, match=r"^robust\.f = 2 is too large"):
        aggregate(rule, updates(fewest - 1))


def column(*values: float) -> Any:
    return np.array(values, np.float64)[:, None]


def test_examples_of_papers_and_libraries() -> None:
    assert aggregate(KINDS["multi_krum"](f=1, m=2, neighbours=1), column(0.2, 0.5, 1)) == [0.35]
    assert aggregate(KINDS["mean_around_median"](f=1), column(1, 2, 0.5)) == [0.75]
    assert aggregate(KINDS["trimmed_mean"](beta=0.25), column(0.5, 1, 2, 100)) == [1.5]
    found = aggregate(KINDS["geometric_median"](), np.arange(1.0, 10).reshape(3, 3))
    np.testing.assert_allclose(found, [4, 5, 6], rtol=0, atol=1e-12)


def test_the_geometric_median_is_found_where_it_is_an_update_or_almost_one() -> None:
    rule, cross = KINDS["geometric_median"](f=0), np.array([[0.0, 0], [1, 0], [-1, 0], [0, 1]])
    np.testing.assert_allclose(aggregate(rule, cross), [0, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(aggregate(rule, column(10, 0, 2, 1)), [1.5], rtol=0, atol=1e-12)
    np.testing.assert_allclose(aggregate(rule, column(1, 0)), [0.5], rtol=0, atol=1e-12)
    for away in (1e-2, 1e-4):  # the pull on the first is a little more than its weight
        x = np.array([[0.0, 0], [1, away], [-1, away], [0, 1]])
        ways = aggregate(rule, x) - x
        pull = (ways / np.linalg.norm(ways, axis=1)[:, None]).sum(axis=0)
        np.testing.assert_allclose(pull, [0, 0], rtol=0, atol=1e-8)


def test_krum_without_a_neighbour_is_refused_where_none_is_named() -> None:
    said = KINDS["krum"](f=1).refusal(4)
    assert said is not None
    assert "for the rule needs 5: set it to 0" in said
    assert KINDS["krum"](f=1, neighbours=1).refusal(4) is None


def test_centered_clipping_goes_on_from_the_round_before() -> None:
    x, center = updates(), np.full(7, 0.5)
    found = aggregate(KINDS["centered_clipping"](f=2, radius=1.0), x, center=center)
    np.testing.assert_allclose(
        found, center + np.mean([(a - center) / max(1, np.linalg.norm(a - center)) for a in x], axis=0)
    )


def test_a_beta_that_leaves_what_attackers_sent_is_refused() -> None:
    said = KINDS["trimmed_mean"](f=2, beta=0.1).refusal(10)
    assert said is not None
    assert said.startswith("robust.beta = 0.1 cuts 1 of 10 values off at each end")


def test_a_beta_cuts_off_what_its_product_says_and_at_least_f() -> None:
    x = np.arange(100.0)[:, None] ** 2
    found = aggregate(KINDS["trimmed_mean"](f=1, beta=0.29), x)  # 0.29 * 100 is a little less than 29
    np.testing.assert_allclose(found, x[29:71].mean(axis=0))
    said = KINDS["trimmed_mean"](f=1, beta=0.3).refusal(3)
    assert said is not None
    assert "raise it to 0.334 or more" in said
    rule, rows, out = KINDS["trimmed_mean"](f=1, beta=0.1), list(column(*range(8), 1e9)), np.empty(1)
    known = base.measure(rule, rows, None)  # of nine, one silo of ten having failed
    base.apply(rule, rows, known, tuple(range(9)), np.random.default_rng(0), center=None, out=out)
    assert out == [4]


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].whole])
def test_lengths_that_float64_cannot_square_are_refused_and_small_ones_are_not(name: str) -> None:
    x = updates()
    found = [aggregate(KINDS[name](f=2), x * scale) / scale for scale in (1.0, 1e-150, 1e150)]
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"of 11 updates have values that are not finite, or too large"):
        aggregate(KINDS[name](f=2), x * 1e160)


def test_updates_that_are_none_are_said_by_name_with_a_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"those of silos 0, 1, 2: .* lower train\.lr or set train\.clip_norm"
    ):
        aggregate(KINDS["median"](f=1), np.full((3, 4), np.nan))


def test_choices_that_take_too_long_are_refused() -> None:
    said = KINDS["mda"](f=10).refusal(40)
    assert said is not None
    assert 'robust.name = "caf"' in said


def test_the_trusted_silo_has_to_be_there() -> None:
    said = KINDS["root_trust"](root=5).refusal(5)
    assert said == "robust.root = 5 and the silos are 0 to 4: name one of them"
    x = updates(5)
    x[0] = np.nan
    with pytest.raises(ValueError, match=r"^silo 0, which robust\.root trusts, has no update"):
        aggregate(KINDS["root_trust"](), x)


@EVERY
def test_a_rule_says_what_its_keys_are(name: str) -> None:
    from silofl.config.listing import docs_of

    assert KINDS[name].paper
    assert all(docs_of(KINDS[name])[one.name] for one in fields(KINDS[name]))
