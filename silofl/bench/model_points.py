"""`silofl bench model`: sums and rounds as this machine's rates predict them, beside what they took."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich.table import Table

from silofl.aggregation.secure_sum import SecureAggregator
from silofl.bench.machine_rates import rates
from silofl.bench.measure import Call, machine
from silofl.bench.measure_ranks import interleaved_over_ranks
from silofl.bench.performance_model import NETWORKS, Layout, Network, Rates, secure_round, secure_sum
from silofl.bench.round import run as measure_rounds
from silofl.comm.protocol import Communicator
from silofl.config import SecureConfig

LENGTHS = (1 << 18, 1 << 20, 1 << 22, 1 << 24)
ROUND_LENGTH = 10_000_000
SILOS = (2, 8, 32, 128, 1024)
VALUES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000)


@dataclass(frozen=True)
class Point:
    """A sum or a round of `silos` ranks and `values` values: seconds as predicted and as measured."""

    what: str
    silos: int
    values: int
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """How far off the prediction is, of what was measured."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Prediction:
    """Seconds of a sum and of a round of silos on hosts of their own."""

    network: str
    silos: int
    values: int
    sum: float
    round: float


def run(comm: Communicator, *, repeats: int) -> tuple[Rates, list[Point]]:
    """This machine's rates, and sums and a round of as many ranks as there are, all here; collective."""
    known = rates(comm, repeats)
    points = [_sum_point(comm, known, values, repeats) for values in LENGTHS]
    measured = [row.seconds for row in measure_rounds(comm, parameters=ROUND_LENGTH, repeats=repeats)]
    if comm.size > 2:
        predicted = secure_round(known, Layout(comm.size, ROUND_LENGTH, comm.size)).total
        points.append(Point("round", comm.size, ROUND_LENGTH, predicted, measured[-1]))
    return known, points


def _sum_point(comm: Communicator, known: Rates, values: int, repeats: int) -> Point:
    x = np.random.default_rng(comm.rank).standard_normal(values).astype(np.float32)
    out = np.empty_like(x)
    with SecureAggregator(comm, values, config=SecureConfig(allow_two=True)) as aggregator:
        calls: dict[str, Call] = {"sum": lambda: aggregator.sum(x, out=out)}
        times = interleaved_over_ranks(comm, calls, repeats)["sum"]
    predicted = secure_sum(known, Layout(comm.size, values, comm.size)).total
    return Point("sum", comm.size, values, predicted, statistics.median(times))


def predict(known: Rates, networks: Sequence[Network] = NETWORKS) -> list[Prediction]:
    """What is to be expected of silos on hosts of their own, like this machine."""
    layouts = [
        Layout(silos, values, 1, network) for network in networks for values in VALUES for silos in SILOS
    ]
    return [
        Prediction(
            one.network.name if one.network else "",
            one.silos,
            one.values,
            secure_sum(known, one).total,
            secure_round(known, one).total,
        )
        for one in layouts
    ]


def points_table(points: Sequence[Point]) -> Table:
    """The points for a person to read."""
    out = Table(title="predicted by this machine's rates, and measured", title_justify="left")
    out.add_column("what")
    for heading in ("silos", "values", "predicted, ms", "measured, ms", "off by"):
        out.add_column(heading, justify="right")
    for one in points:
        out.add_row(
            one.what, str(one.silos), f"{one.values:,}",
            f"{1e3 * one.predicted:.1f}", f"{1e3 * one.measured:.1f}", f"{100 * one.error:+.0f} %",
        )  # fmt: skip
    return out


def predictions_table(predictions: Sequence[Prediction]) -> Table:
    """Predicted rounds for a person to read."""
    title = "seconds of a round beside its training, predicted, of silos on hosts of their own"
    out = Table(title=title, title_justify="left")
    out.add_column("network")
    out.add_column("values", justify="right")
    for silos in SILOS:
        out.add_column(f"{silos} silos", justify="right")
    found = {(one.network, one.values, one.silos): one.round for one in predictions}
    for network in dict.fromkeys(one.network for one in predictions):
        for values in VALUES:
            seconds = [f"{found[network, values, silos]:.3g}" for silos in SILOS]
            out.add_row(network if values == VALUES[0] else "", f"{values:,}", *seconds)
    return out


def to_json(known: Rates, points: Sequence[Point], predictions: Sequence[Prediction]) -> str:
    """All of it and the machine for a program to read."""
    content = {
        "benchmark": "performance model",
        "machine": machine(),
        "rates": asdict(known),
        "points": [asdict(one) for one in points],
        "predictions": [asdict(one) for one in predictions],
    }
    return json.dumps(content, indent=1)
