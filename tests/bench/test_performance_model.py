"""The performance model: what it is made of, and what follows from that."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from silofl.bench.model_points import (
    SILOS,
    VALUES,
    Point,
    points_table,
    predict,
    predictions_table,
    to_json,
)
from silofl.bench.performance_model import (
    NETWORKS,
    STEPS,
    Layout,
    Network,
    Rates,
    secure_round,
    secure_sum,
    through,
)

RATES = Rates(
    cores=2,
    encode=1e-9,
    mask=2e-10,
    fold=3e-10,
    decode=4e-10,
    copy=5e-10,
    scan=1e-10,
    protocol=(1e-3, 1e-4, 1e-5),
    calls=2e-3,
    step=1e-4,
    ranks=4,
)
LINK = Network("a link", latency=0.01, bandwidth=1e6)


def test_a_sum_on_one_host_by_hand() -> None:
    """Four silos on two cores: every pass takes twice as long, and steps what they took four ranks."""
    found = secure_sum(RATES, Layout(4, 1000, 4))
    assert found.masking == pytest.approx(2 * 1000 * (1e-10 + 1e-9 + 4 * 2e-10 + 3e-10))
    assert found.opening == pytest.approx(2 * 1000 * (2e-10 + 5e-10 / 2 + 4e-10))
    assert found.protocol == pytest.approx(2 * (2e-3 + 1e-3 + 4 * 1e-4 + 16 * 1e-5))
    assert found.waiting == pytest.approx(STEPS * 1e-4)
    assert (found.wire, found.rest) == (0, 0)
    parts = found.masking + found.opening + found.protocol + found.waiting
    assert found.total == pytest.approx(parts)


def test_what_crosses_a_slow_link_is_hidden_behind_nothing() -> None:
    """Two bytes a value, of which half stay, in and out again; with 10 ms for each of the steps."""
    values = 10_000_000
    found = secure_sum(RATES, Layout(2, values, 1, LINK))
    assert found.wire + found.masking + found.opening == pytest.approx(2 * values / 1e6)
    assert found.waiting > STEPS * 0.01
    fast = secure_sum(RATES, Layout(2, values, 1, replace(LINK, bandwidth=1e15)))
    assert fast.wire == 0


def test_many_silos_have_masks_with_few_others() -> None:
    assert Layout(20, 1, 1).neighbours == 19
    assert Layout(1024, 1, 1).neighbours < 200
    with pytest.raises(ValueError, match="1 or more"):
        Layout(0, 1, 1)


def test_more_is_never_faster() -> None:
    for network in NETWORKS:
        for silos in SILOS:
            times = [secure_round(RATES, Layout(silos, values, 1, network)).total for values in VALUES]
            assert times == sorted(times)
            assert times[0] > secure_sum(RATES, Layout(silos, VALUES[0], 1, network)).total


def test_coefficients_are_found_and_none_is_below_zero() -> None:
    points = [(float(n), 3 + 0.5 * n) for n in (3, 6, 12, 24)]
    assert through(points, (0, 1, 2)) == pytest.approx([3, 0.5, 0], abs=1e-9)
    assert min(through([(1.0, 5.0), (2.0, 4.0), (3.0, 3.0)], (0, 1))) >= 0


def test_people_and_programs_read_the_same() -> None:
    point = Point("sum", 4, 1 << 20, predicted=0.012, measured=0.010)
    assert point.error == pytest.approx(0.2)
    predictions = predict(RATES, NETWORKS[:1])
    console = Console(width=120, file=StringIO())
    console.print(points_table([point]), predictions_table(predictions))
    assert isinstance(console.file, StringIO)
    told = console.file.getvalue()
    assert "+20 %" in told
    content = json.loads(to_json(RATES, [point], predictions))
    assert len(content["predictions"]) == len(SILOS) * len(VALUES)
    assert content["rates"]["cores"] == 2
    assert all(f"{one['round']:.3g}" in told for one in content["predictions"])
