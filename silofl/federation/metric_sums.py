"""From every silo's sums to the federation's metrics: added up as privately as updates, then finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Aggregator
from silofl.aggregation.exact_numbers import MAGNITUDE
from silofl.comm.collective_errors import Result, allgather_parsed, capture
from silofl.comm.elastic_group import ElasticGroup
from silofl.errors import MismatchError
from silofl.tasks.user_code import UserCode
from silofl.training.metric_states import (
    Evaluation,
    MetricState,
    checked_names,
    checked_value,
    describe_layout,
    finished,
    parse_layouts,
)
from silofl.types import MetricValue, Vector

Layouts = dict[str, list[Any]]
"""By metric, in the order of names: its kind and the shape of its sums."""


@dataclass(frozen=True)
class FederationMetrics:
    """Metrics over the held-out samples of all silos, the same on every rank.

    Attributes:
        values: by name; None where a metric is no number at any silo.
        undefined: metrics that are no number on some samples, which are left out, and at how many silos.
        withheld: metrics of so few silos that their sum would be those silos' own.
    """

    values: Mapping[str, MetricValue] = field(default_factory=dict)
    undefined: Mapping[str, int] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()


def agree_on_metrics(group: ElasticGroup, evaluated: Result[Evaluation]) -> Layouts:
    """Which metrics there are at any silo, and the shapes of their sums; collective.

    Raises, on every rank, what a silo's evaluation raised, and MismatchError where silos report different
    things by one name.
    """

    def tell() -> tuple[list[Any], tuple[int, ...]]:
        error = evaluated.error(group.comm.rank)
        own = {} if error else {name: state.layout for name, state in evaluated.value().states.items()}
        return allgather_parsed(group.comm, own, parse_layouts, "its metrics", error), group.members

    every, members = group.step(tell)
    found: dict[str, tuple[int, list[Any]]] = {}
    for silo, told in zip(members, every, strict=True):
        for name, layout in told.items():
            first, other = found.setdefault(name, (silo, layout))
            if layout != other:
                raise MismatchError(
                    f"the metric {name!r} is {describe_layout(other)} at silo {first} and "
                    f"{describe_layout(layout)} at silo {silo}: report the same by one name everywhere",
                    rank=0,
                )
    return {name: found[name][1] for name in sorted(found)}


class MetricSums:
    """Sums of metrics over silos; collective.

    Args:
        group: the ranks.
        aggregator: what added up the round's updates.
        fewest: of how many silos a metric has to be. From 2 on it is known how many have each before any of
            them tells a number.
        code: calls the task.
    """

    def __init__(self, group: ElasticGroup, aggregator: Aggregator, fewest: int, code: UserCode) -> None:
        self._group, self._aggregator, self._fewest, self._code = group, aggregator, fewest, code

    def total(self, own: Evaluation, layouts: Layouts, model: Vector) -> FederationMetrics:
        """The federation's metrics of one `model` (d,). Empty where a silo failed while they were added up.

        A metric that only some silos have is over those.
        """
        if not layouts:
            return FederationMetrics()
        brought = {name: _brought(own.states.get(name)) for name in layouts}
        withheld: tuple[str, ...] = ()
        if self._fewest > 1:
            flags = np.array([float(has) for has, _ in brought.values()])
            counts = self._aggregator.sum_scalars(flags, (model,))
            if np.isnan(counts).any():
                return FederationMetrics()
            withheld = tuple(name for name, n in zip(layouts, counts, strict=True) if 0 < n < self._fewest)
        shown = {name: layout for name, layout in layouts.items() if name not in withheld}
        if not shown:
            return FederationMetrics(withheld=withheld)
        parts = [_numbers(brought[name], own.states.get(name), layout) for name, layout in shown.items()]
        sums = self._aggregator.sum_scalars(np.concatenate(parts), (model,))
        if np.isnan(sums).any():
            return FederationMetrics()
        totals = dict(zip(shown, np.split(sums, np.cumsum([len(part) for part in parts])[:-1]), strict=True))
        undefined = {name: int(total[1]) for name, total in totals.items() if total[1]}
        return FederationMetrics(self._finish(own, shown, totals), undefined, withheld)

    def _finish(
        self, own: Evaluation, layouts: Layouts, totals: Mapping[str, NDArray[np.float64]]
    ) -> dict[str, MetricValue]:
        """The metrics by name. A function of the task is called where it was reported; all take the first."""

        def finish() -> dict[str, dict[str, MetricValue]]:
            return {
                name: finished(name, state, self._code)
                for name, layout in layouts.items()
                if (state := _total_state(own, name, layout, totals[name])) is not None
            }

        made: Result[dict[str, dict[str, MetricValue]]] = capture(finish)
        every: list[Any]
        if any(kind == "state" for kind, *_ in layouts.values()):

            def tell() -> list[Any]:
                error = made.error(self._group.comm.rank)
                results = {} if error else made.value()
                return allgather_parsed(self._group.comm, results, _parse_results, "its metrics", error)

            every = self._group.step(tell)
        else:
            every = [made.value()]
        results: dict[str, MetricValue] = {}
        for name in layouts:
            results |= next((told[name] for told in every if name in told), {name: None})
        return results


def _parse_results(told: Any) -> dict[str, dict[str, MetricValue]]:
    """What `finished` made, by metric, of another silo."""
    found: dict[str, dict[str, MetricValue]] = {}
    for name, results in told.items():
        checked_names(results)
        found[name] = {key: checked_value(value) for key, value in results.items()}
    return found


def _brought(state: MetricState | None) -> tuple[bool, bool]:
    """Whether a silo adds its sums of a metric, and whether samples are left out of them."""
    if state is None:
        return False, False
    fits = bool((np.abs(state.total) < MAGNITUDE).all())
    return bool(state.batches) and fits, bool(state.undefined) or not fits


def _numbers(brought: tuple[bool, bool], state: MetricState | None, layout: list[Any]) -> NDArray[np.float64]:
    """What a silo adds for a metric: whether it has it, whether in part, and its sums."""
    has, undefined = brought
    size = int(np.prod(layout[1:], dtype=np.int64))
    sums = state.total.reshape(-1) if has and state is not None else np.zeros(size)
    return np.concatenate([[has, undefined], sums])


def _total_state(
    own: Evaluation, name: str, layout: list[Any], total: NDArray[np.float64]
) -> MetricState | None:
    """The total as a state; None where this silo does not report the metric, and cannot finish it."""
    kind, *shape = layout
    finish = own.states[name].finish if name in own.states else None
    if kind == "state" and finish is None:
        return None
    return MetricState(kind, tuple(shape), total[2:].reshape(shape), finish, batches=int(total[0]))
