"""What a task may report, what is refused with its name, and what is left out of a metric."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from silofl.errors import DataError, UserCodeError
from silofl.tasks.metrics import Ratio, SumState
from silofl.tasks.user_code import UserCode
from silofl.training.metric_states import LARGEST_STATE, Evaluation

NAN = float("nan")


def evaluated(*batches: tuple[dict[Any, Any], int]) -> Evaluation:
    found = Evaluation()
    for metrics, count in batches:
        found.add(metrics, count, 1)
    found.finish(UserCode(1))
    return found


@pytest.mark.parametrize(
    "value",
    [2, 2.0, Decimal(2), Fraction(4, 2), np.float32(2), np.int64(2), np.array([[2.0]]),
     torch.tensor(2), torch.tensor([2.0]),
     torch.tensor(2.0, requires_grad=True), torch.tensor(2.0, dtype=torch.bfloat16)],
)  # fmt: skip
def test_any_single_number_is_a_mean(value: Any) -> None:
    assert evaluated(({"m": value}, 3), ({"m": 4.0}, 1)).own == {"m": 2.5}


def test_any_name_is_a_name() -> None:
    names = ["round", "loss", "silo", "epsilon", "metrics", "per_silo", "name with spaces", "précision"]
    assert evaluated((dict.fromkeys(names, True), 3)).own == dict.fromkeys(names, 1.0)


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"accuracy": "high"}, "'accuracy' is a str: return a number"),
        ({"accuracy": b"7"}, "'accuracy' is a bytes"),
        ({"accuracy": np.str_("7")}, "'accuracy' is a str_"),
        ({"accuracy": None}, "'accuracy' is None"),
        ({"accuracy": 1j}, "'accuracy' is a complex"),
        ({"accuracy": torch.tensor(1j)}, "'accuracy' is a Tensor"),
        ({"accuracy": {"a": 1.0}}, "'accuracy' is a dict"),
        ({"accuracy": [1.0]}, "'accuracy' is a list"),
        ({"m": torch.zeros(2, 3)}, r"'m' has values of shape \(2, 3\): return one number, or .*SumState"),
        ({"m": np.zeros(4)}, r"'m' has values of shape \(4,\)"),
        ({"m": torch.zeros(0)}, r"'m' has values of shape \(0,\)"),
        ({"m": Ratio(1.0, torch.zeros(3))}, r"'m' has denominator values of shape \(3,\)"),
        ({"m": Ratio("a", 1)}, "'m' is numerator a str"),
        ({"m": SumState("a", float)}, "'m' has a state that is no real tensor"),  # type: ignore[arg-type]
        ({"m": SumState(torch.zeros(LARGEST_STATE + 1), float)}, f"'m' has a state of {LARGEST_STATE + 1}"),
        ({3: 1.0}, "3 has no name"),
        ({"": 1.0}, "'' has no name"),
        ({"a\nb": 1.0}, "has no name: use text"),
        ({"x" * 101: 1.0}, "str has no name"),
        ([("a", 1.0)], "s are a list: return a dict"),
        (None, "s are a NoneType: return a dict"),
    ],
)  # fmt: skip
def test_what_is_no_metric_is_refused_by_name(metrics: Any, told: str) -> None:
    with pytest.raises(DataError, match=f"^silo 1: the task's metric.*{told}"):
        evaluated((metrics, 3))


def test_a_metric_is_the_same_kind_in_every_batch() -> None:
    with pytest.raises(DataError, match="'m' is a Ratio in one batch and a number in another"):
        evaluated(({"m": 1.0}, 3), ({"m": Ratio(1, 2)}, 3))
    with pytest.raises(
        DataError, match=r"SumState of shape \(3,\) in one batch and SumState of shape \(2,\)"
    ):
        evaluated(
            ({"m": SumState(torch.ones(2), torch.sum)}, 1), ({"m": SumState(torch.ones(3), torch.sum)}, 1)
        )


def test_a_batch_in_which_a_metric_is_no_number_is_left_out_and_counted() -> None:
    found = evaluated(({"m": 1.0, "r": Ratio(1, 2)}, 1), ({"m": NAN, "r": Ratio(NAN, 2)}, 5), ({"m": 3.0}, 3))
    assert found.own == {"m": 2.5, "r": 0.5}
    assert [found.states[name].undefined for name in "mr"] == [1, 1]
    for beyond in (float("inf"), 10**400, -(10**400)):
        assert evaluated(({"m": beyond}, 2)).own == {"m": None}
    assert evaluated(({"m": 10**30}, 2)).own == {"m": 1e30}


def test_sums_are_finished_once_and_tensors_stay_out_of_a_silos_own() -> None:
    def finish(total: torch.Tensor) -> dict[str, Any]:
        assert total.dtype == torch.float64
        return {"sum": total.sum(), "all": total, "none": NAN}

    found = evaluated(*[({"m": SumState(torch.tensor([[1, 2]]), finish), "n": Ratio(1, 0)}, 2)] * 2)
    assert found.own == {"m/sum": 6.0, "m/none": None, "n": None}
    assert evaluated(({"m": SumState(torch.ones(1), lambda total: 1 / 0)}, 1)).own == {"m": None}
    with pytest.raises(UserCodeError, match=r"metrics\(\) raised KeyError"):
        evaluated(({"m": SumState(torch.ones(1), lambda total: {}["x"])}, 1))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_a_state_has_any_shape(shape: tuple[int, ...]) -> None:
    def finish(total: torch.Tensor) -> float:
        assert total.shape == shape
        assert total.dtype == torch.float64
        return float(total.sum())

    batch = {"m": SumState(torch.ones(shape), finish)}, 2
    assert evaluated(batch, batch).own == {"m": 2.0 * torch.ones(shape).numel()}


def test_two_metrics_of_one_name_are_refused() -> None:
    parts = SumState(torch.ones(1), lambda total: {"all": total[0]})
    with pytest.raises(DataError, match="silo 1: the task reports two metrics by the name 'm/all', one of"):
        evaluated(({"m": parts, "m/all": 1.0}, 1))


@pytest.mark.parametrize("made", ["high", None, 1j, {"a": {"b": 1}}, [1, "2 of 3"], torch.tensor([1j])])
def test_what_a_state_is_finished_as_is_numbers(made: Any) -> None:
    kind = "None" if made is None else f"a {type(made).__name__}"
    with pytest.raises(
        DataError, match=rf"metric 'm' has a SumState whose finish\(total\) returned {kind}, of"
    ):
        evaluated(({"m": SumState(torch.ones(1), lambda total: made)}, 1))
