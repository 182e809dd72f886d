"""A silo whose values are so large that the others' round to zero says so by name; a false claim is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.aggregation.ranges import encode_exponents
from silofl.aggregation.wire_format import WireFormat
from silofl.types import Contribution
from tests.aggregation.harness import Case, VectorSpec, outcomes

PROTOCOLS = pytest.mark.parametrize("protocol", ["secagg", "additive"])


def of(scales: list[float], samples: list[int] | None = None, **more: Any) -> Case:
    """A vector a silo, of one shape and these magnitudes."""
    given = [
        Contribution({"x": (np.random.default_rng(k).uniform(-1, 1, 200) * scale).astype(np.float32)})
        for k, scale in enumerate(scales)
    ]
    return Case((VectorSpec("x", 200),), given, samples or [10] * len(scales), **more)


def told(case: Case, protocol: str) -> tuple[Any, list[tuple[str, ...]]]:
    """At how many silos tensors were lost, and what each rank says of its own."""
    qualities = [one.quality for one in outcomes(case, protocol)]
    assert all(one == qualities[0] for one in qualities)
    return qualities[0].lost, [one.widest for one in qualities]


@PROTOCOLS
def test_the_silo_that_asked_for_the_range_knows_it_and_no_other(protocol: str) -> None:
    assert told(of([1.0, 0.5, 1e25, 0.3]), protocol) == ({"x": 3}, [(), (), ("x",), ()])


@PROTOCOLS
@pytest.mark.parametrize(
    "case",
    [
        of([1.0, 0.5, 20.0, 0.3]),
        of([1.0] * 4, [1, 10, 10**7, 10**7]),  # lost, too, but to small shares of the samples
        of([1.0, 0.5, 1e25, 0.3], config={"range": 1e25}),  # by the configuration's word, no silo's
    ],
    ids=["alike", "unlike shares", "configured"],
)
def test_nothing_is_told_where_no_silo_asked_for_too_much(protocol: str, case: Case) -> None:
    assert told(case, protocol)[1] == [()] * 4


def test_one_wide_silo_among_many_that_are_small_does_not_hide_behind_a_silent_tensor() -> None:
    """A silo without values has lost none: most of the others is enough."""
    assert told(of([1.0, 0.0, 1e25, 0.3, 1.0]), "secagg") == ({"x": 3}, [(), (), ("x",), (), ()])


def test_a_false_claim_is_seen_though_not_whose(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = WireFormat.exponents

    def lie(wire: WireFormat, magnitudes: Any, weight: float) -> Any:
        if wire.spec.samples == 13:
            return encode_exponents(np.array([1e25]), wire._words)
        return stated(wire, magnitudes, weight)

    monkeypatch.setattr(WireFormat, "exponents", lie)
    assert told(of([1.0, 0.5, 0.4, 0.3], [10, 10, 13, 10]), "secagg") == ({"x": 4}, [()] * 4)
