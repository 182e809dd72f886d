"""`silofl check` says beforehand what a round will send: the same bytes as the metrics of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from silofl import config as configuration
from silofl.aggregation.compressed import Compression
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config, SecureConfig
from silofl.federation import traffic
from silofl.federation.dry_run import dry_run
from silofl.federation.loop import train
from silofl.strategies.registry import STRATEGIES
from silofl.topologies.sharded_server import ShardedServer
from tests.campaigns import mostly_long
from tests.federation.threads import CLASSES, FEATURES, Normalized, records


class WithoutBuffers(Normalized):
    """The same data for a model that has parameters alone."""

    def model(self) -> nn.Module:
        return nn.Linear(FEATURES, CLASSES)


class OneParameter(Normalized):
    """A model of a single value."""

    def model(self) -> nn.Module:
        class Scale(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(()))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.scale * x[:, :CLASSES]

        return Scale()


def settings(path: Path, task: type[Normalized], **sections: dict[str, Any]) -> Config:
    tables: dict[str, dict[str, Any]] = {
        "run": {"name": "t", "dir": str(path), "display": "none", "rounds": 3},
        "task": {"factory": f"{task.__module__}:{task.__name__}"},
        "train": {"full_batch": True},
        "failure": {"policy": "shrink"},
        "checkpoint": {"every": 0},
    }
    for name, keys in sections.items():
        tables[name] = tables.get(name, {}) | keys
    return configuration.parse(tables)


def bytes_of_rounds(config: Config, silos: int, path: Path) -> set[int]:
    """What rank 0 sent in each round."""

    def rank(comm: Communicator) -> dict[str, Any]:
        torch.set_num_threads(1)
        return train(config, comm=comm)

    run_in_threads(silos, rank, timeout_s=60)
    return {line["bytes_sent"] for line in records(path)}


PROTOCOLS = [
    *[("plain", silos, {}) for silos in (1, 2, 3, 5)],
    *[("secagg", silos, {"allow_two": True}) for silos in (2, 3, 4, 5)],
    ("secagg", 3, {"range": 0.25}),
    ("secagg", 5, {"bits": 32, "rounding": "stochastic"}),
    *[("additive", silos, {"committee": min(silos, 3)}) for silos in (3, 5)],
]
PRIVATE = {
    "unit": "silo",
    "clip_norm": 1.0,
    "noise_multiplier": 1.0,
    "delta": 1e-3,
    "place": "distributed",
}
STUDENTS: list[tuple[type[Normalized], dict[str, dict[str, Any]]]] = [
    (Normalized, {}),
    (WithoutBuffers, {"strategy": {"name": "scaffold"}}),
    (OneParameter, {"strategy": {"momentum": 0.5}, "failure": {"policy": "abort"}}),
]


@pytest.mark.covering(1)
@pytest.mark.parametrize(("task", "more"), STUDENTS, ids=["buffers", "scaffold", "one parameter"])
@pytest.mark.parametrize(("protocol", "silos", "secure"), mostly_long(PROTOCOLS, 3, 5, 8, 10), ids=str)
def test_a_round_sends_what_check_says(
    tmp_path: Path,
    protocol: str,
    silos: int,
    secure: dict[str, Any],
    task: type[Normalized],
    more: dict[str, Any],
) -> None:
    config = settings(tmp_path, task, secure={"protocol": protocol, **secure}, **more)
    foreseen = dry_run(config, silos).bytes_sent_per_round
    assert bytes_of_rounds(config, silos, tmp_path) == {foreseen}
    assert (foreseen > 0) == (silos > 1)


COMPRESSED = [
    ({"bits": 4, "rotation": True, "error_feedback": True}, {"protocol": "secagg"}, Normalized),
    ({"name": "random_k", "ratio": 0.3}, {"protocol": "plain"}, WithoutBuffers),
    ({"bits": 8}, {"protocol": "additive", "committee": 3}, Normalized),
    ({"name": "powersgd", "rank": 1}, {"protocol": "secagg"}, Normalized),
    ({"name": "qsgd"}, {"protocol": "plain"}, Normalized),
    ({"name": "count_sketch", "error_feedback": True, "bits": 8}, {"protocol": "secagg"}, Normalized),
]


@pytest.mark.covering(0)
@pytest.mark.parametrize(("compress", "secure", "task"), mostly_long(COMPRESSED, 0, 3), ids=str)
def test_a_compressed_round_sends_what_check_says(
    tmp_path: Path, compress: Any, secure: Any, task: type[Normalized]
) -> None:
    config = settings(tmp_path, task, secure=secure, compress=compress)
    assert bytes_of_rounds(config, 4, tmp_path) == {dry_run(config, 4).bytes_sent_per_round}


def test_a_long_update_of_few_bits_sends_as_many_in_both_directions() -> None:
    """Of 2^20 values: three quarters up and three quarters down, and less than 20 kB of keys and ranges."""
    size = 1 << 20
    spec = AggregationSpec((VectorSpec("update", size),), np.dtype(np.float32), 1, 0, bytes(32), 4)
    trial = traffic.TrialRound(
        SecureConfig(), ShardedServer, STRATEGIES["fedavg"](), words=False, tolerant=False
    )
    for bits in (16, 8, 4):
        way = Compression.of(configuration.parse({"compress": {"bits": bits}}).compress)
        sent = replace(trial, compression=way).sent(spec).bytes
        payload = 2 * 3 * size // 4 * bits // 8
        assert payload < sent < payload + 20_000


@pytest.mark.covering(0)
@pytest.mark.parametrize("place", ["distributed", "central", "local"])
def test_a_private_round_sends_what_check_says(tmp_path: Path, place: str) -> None:
    config = settings(
        tmp_path, WithoutBuffers, privacy=PRIVATE | {"place": place}, secure={"protocol": "secagg"}
    )
    assert bytes_of_rounds(config, 4, tmp_path) == {dry_run(config, 4).bytes_sent_per_round}


@pytest.mark.covering(0)
@pytest.mark.parametrize("protocol", ["plain", "secagg", "additive"])
def test_a_long_vector_is_foreseen_within_a_thousandth(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """From two short trials, against a trial at full length: many tensors, buffers, uneven ends."""
    parameters, buffers = 2_234_567, 321
    ends = np.unique(np.append(np.arange(7_001, parameters, 70_003), parameters))
    vectors = (
        VectorSpec("update", parameters, ends=ends),
        VectorSpec("buffers", buffers, "exact"),
    )
    spec = AggregationSpec(vectors, np.dtype(np.float32), 10, 0, bytes(32), 4, 1)
    secure = SecureConfig(protocol=protocol)  # type: ignore[arg-type]

    trial = traffic.TrialRound(
        secure, ShardedServer, STRATEGIES["fedavg"](), words=False, tolerant=protocol != "additive"
    )
    foreseen = trial.sent(spec).bytes
    monkeypatch.setattr(traffic, "_period", lambda secure, silos: parameters)
    assert foreseen == pytest.approx(trial.sent(spec).bytes, rel=1e-3)
