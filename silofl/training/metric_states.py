"""What a silo's held-out samples say of each metric: sums over samples, and how a metric is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silofl.errors import DataError
from silofl.tasks.metrics import LARGEST_CELLS as LARGEST_STATE
from silofl.tasks.metrics import Finished, Ratio, SumState
from silofl.tasks.user_code import UserCode
from silofl.types import MetricValue

Kind = Literal["mean", "ratio", "state"]
LONGEST_NAME = 100
LOSS = "loss"
"""The name of what the task's `loss` gives, among metrics."""


@dataclass
class MetricState:
    """One metric of one silo.

    Attributes:
        kind: a mean over samples, a quotient of two sums, or a state with a function that finishes it.
        shape: of the sums; (2,) but for "state".
        total: float64 of that shape, over the batches in which it is finite.
        finish: see `SumState`; None but for "state".
        batches: in which it is finite.
        undefined: in which it is not, and which are left out.
    """

    kind: Kind
    shape: tuple[int, ...]
    total: NDArray[np.float64]
    finish: Callable[[Tensor], Finished] | None = None
    batches: int = 0
    undefined: int = 0

    @property
    def layout(self) -> list[Any]:
        """What has to be equal at all silos, as JSON."""
        return [self.kind, *self.shape]


@dataclass
class Evaluation:
    """The global model on one silo's held-out samples.

    Attributes:
        states: by metric.
        count: samples.
        own: what the states make of this silo alone, by name: single numbers, None for one that is none.
    """

    states: dict[str, MetricState] = field(default_factory=dict)
    count: int = 0
    own: dict[str, float | None] = field(default_factory=dict)

    def add(self, metrics: Any, count: int, silo: int) -> None:
        """Take in what a task reports of `count` samples. Raises DataError for what is no metric."""
        if not isinstance(metrics, Mapping):
            raise DataError(
                f"silo {silo}: the task's metrics are a {type(metrics).__name__}: return a dict of names "
                "and numbers",
                rank=silo,
            )
        self.count += count
        for name, metric in metrics.items():
            where = f"silo {silo}: the task's metric {_shown(name)}"
            if not _is_name(name):
                raise DataError(
                    f"{where} has no name: use text of 1 to {LONGEST_NAME} printable characters", rank=silo
                )
            try:
                self._add(name, *_sums(metric, count))
            except _Unfit as error:
                raise DataError(f"{where} {error}", rank=silo) from None

    def _add(
        self, name: str, kind: Kind, values: NDArray[np.float64], finish: Callable[[Tensor], Finished] | None
    ) -> None:
        fresh = MetricState(kind, values.shape, np.zeros(values.shape), finish)
        state = self.states.setdefault(name, fresh)
        if state.layout != fresh.layout:
            raise _Unfit(
                f"is {describe_layout(fresh.layout)} in one batch and {describe_layout(state.layout)} in "
                "another: report the same in each"
            )
        if np.isfinite(values).all():
            state.total += values  # in place: a sum of 0-d arrays is none
            state.batches += 1
        else:
            state.undefined += 1

    def include(self, group: str, other: Evaluation) -> None:
        """Take in the states of another model's evaluation, under names that begin with `group`/."""
        self.states |= {f"{group}/{name}": state for name, state in other.states.items()}

    def finish(self, code: UserCode) -> None:
        """Make this silo's own metrics of its states; see `finished`.

        Raises DataError, too, where a result has the name of another metric.
        """
        names: set[str] = set()
        for one, state in self.states.items():
            found = finished(one, state, code)
            twice = sorted(names & found.keys())
            if twice:
                raise DataError(
                    f"silo {code.silo}: the task reports two metrics by the name {twice[0]!r}, one of which "
                    "is a part of a SumState's result: give one another name",
                    rank=code.silo,
                )
            names |= found.keys()
            self.own |= {name: value for name, value in found.items() if not isinstance(value, list)}


def beside(taken: Iterable[str], metrics: Mapping[Any, Any]) -> dict[Any, Any]:
    """Metrics, of which those that have a name that is taken are called `metrics/name`: none is lost."""
    known = {*taken, *metrics}
    found = dict(metrics)
    for name in taken:
        if name in found:
            other = f"metrics/{name}"
            while other in known:
                other = f"metrics/{other}"
            found[other] = found.pop(name)
    return found


def finished(name: str, state: MetricState, code: UserCode) -> dict[str, MetricValue]:
    """The results that a metric's sums make, by name: the metric's own, or several as `name/key`.

    None where there is no number: no batch, or a division by zero. Raises UserCodeError for what else the
    task's function raises.
    """
    if not state.batches:
        return {name: None}
    if state.finish is None:
        numerator, denominator = map(float, state.total)
        return {name: _finite(numerator / denominator) if denominator else None}
    with code.calling("metrics", state.finish):
        try:
            found = state.finish(torch.from_numpy(state.total.copy()))
        except ArithmeticError:
            return {name: None}
    several = None
    if isinstance(found, Mapping):
        several = {name if key == "" else f"{name}/{key}": value for key, value in found.items()}
        _refuse_nameless(name, [str(key) for key in found if key != ""], code)
    try:
        return {key: _listed(value) for key, value in ({name: found} if several is None else several).items()}
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            f"silo {code.silo}: the task's metric {_shown(name)} has a SumState whose finish(total) returned "
            f"{'None' if found is None else f'a {type(found).__name__}'}, of which no numbers can be made: "
            "return a number, a tensor or list of real ones, or a dict of those",
            rank=code.silo,
        ) from None


def _refuse_nameless(name: str, keys: list[str], code: UserCode) -> None:
    """Raise DataError where a part of a metric's result has no name that can be shown."""
    nameless = [key for key in keys if not _is_name(key)]
    if nameless:
        raise DataError(
            f"silo {code.silo}: the task's metric {name!r} has a result {_shown(nameless[0])} "
            f"without a name: use text of 1 to {LONGEST_NAME} printable characters",
            rank=code.silo,
        )


def describe_layout(layout: list[Any]) -> str:
    """A layout in words."""
    kind, *shape = layout
    return {"mean": "a number", "ratio": "a Ratio"}.get(kind, f"SumState of shape {tuple(shape)}")


def checked_names(names: Iterable[Any]) -> None:
    """ValueError for what another silo may not call a metric, or one of its results."""
    if not all(
        isinstance(name, str) and 1 <= len(name) <= 2 * LONGEST_NAME + 1 and name.isprintable()
        for name in names
    ):
        raise ValueError("no name of a metric")


def checked_value(value: Any) -> MetricValue:
    """A result that another silo made; ValueError or TypeError for what is none."""
    if isinstance(value, list):
        return [checked_value(one) for one in value]
    if value is not None and (isinstance(value, bool) or not math.isfinite(value)):
        raise ValueError("no metric")
    found: float | None = value
    return found


def parse_layouts(told: Any) -> dict[str, list[Any]]:
    """The layouts of another silo's metrics, by name; an error for what no silo has."""
    checked_names(told)
    for kind, *shape in told.values():
        fits = shape == [2] if kind in ("mean", "ratio") else kind == "state"
        whole = all(type(size) is int and size >= 1 for size in shape)
        if not (fits and whole and math.prod(shape) <= LARGEST_STATE):
            raise ValueError("no layout")
    found: dict[str, list[Any]] = told
    return found


class _Unfit(Exception):
    """Why something is no metric, behind its name in a sentence."""


def _sums(metric: Any, count: int) -> tuple[Kind, NDArray[np.float64], Callable[[Tensor], Finished] | None]:
    """The kind of a metric, and what is added up of it."""
    if isinstance(metric, Ratio):
        parts = [_number(metric.numerator, "numerator "), _number(metric.denominator, "denominator ")]
        return "ratio", np.array(parts), None
    if isinstance(metric, SumState):
        return "state", _state(metric.state), metric.finish
    value = _number(metric, "")
    return "mean", np.array([value * count, count]), None


def _number(value: Any, which: str) -> float:
    if isinstance(value, (bool, int, float, Fraction, Decimal)) and not isinstance(value, np.float64):
        return _finite_or_not(value)
    if isinstance(value, np.generic) and not isinstance(value, (np.str_, np.bytes_)):
        value = np.asarray(value)
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    if isinstance(value, (Tensor, np.ndarray)):
        many = math.prod(value.shape)
        if many != 1:
            raise _Unfit(
                f"has {which}values of shape {tuple(value.shape)}: return one number, or add states up with "
                "silofl.tasks.metrics.SumState"
            )
        if isinstance(value, Tensor) and not value.is_complex():
            return float(value.double())
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return float(value.reshape(()))
    kind = "None" if value is None else f"a {type(value).__name__}"
    raise _Unfit(f"is {which}{kind}: return a number, or a Ratio or SumState of silofl.tasks.metrics")


def _finite_or_not(value: float | Fraction | Decimal) -> float:
    """A number of Python's, infinite where it is beyond float64."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _state(state: Any) -> NDArray[np.float64]:
    if isinstance(state, (list, tuple, int, float, np.generic, np.ndarray)):
        try:
            state = torch.as_tensor(state)
        except (TypeError, ValueError, RuntimeError):
            raise _Unfit("has a state that is no tensor: give SumState a tensor of numbers") from None
    if not isinstance(state, Tensor) or state.is_complex():
        raise _Unfit("has a state that is no real tensor: give SumState a tensor of numbers")
    if not 1 <= state.numel() <= LARGEST_STATE:
        raise _Unfit(f"has a state of {state.numel()} numbers: 1 to {LARGEST_STATE} can be added up")
    values: NDArray[np.float64] = state.detach().cpu().to_dense().double().numpy().copy()
    return values


def _listed(value: Any) -> MetricValue:
    """A result as JSON has it."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_listed(one) for one in value]
    return _finite(float(value))


def _finite(value: float) -> float | None:
    """None for what JSON has no word for."""
    return value if math.isfinite(value) else None


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= LONGEST_NAME and name.isprintable()


def _shown(name: Any) -> str:
    return (
        repr(name)
        if isinstance(name, (str, int)) and len(repr(name)) <= LONGEST_NAME
        else type(name).__name__
    )
