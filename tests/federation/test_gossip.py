"""Gossip among silos: each ends with the model that a matrix of all models gives in one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.compression.base import Draw
from silofl.compression.registry import build
from silofl.config import Config
from silofl.crypto.kdf import digest
from silofl.errors import EXIT_RESUMABLE, SiloflError, StoppedError
from silofl.federation.consensus import BUCKETS, sketch
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.loop import train
from silofl.federation.rundir import OWN_MODEL, stem
from silofl.mixing.graphs.registry import GRAPHS
from silofl.mixing.mixing_matrices import column_stochastic, doubly_stochastic
from silofl.tasks.base import SiloData
from tests.campaigns import mostly_long
from tests.federation import rejoining
from tests.mixing import naive

SIZE, LR = 5, 0.1
RNG = np.random.default_rng(1)
CURVES, MINIMA = RNG.uniform(0.5, 2, (8, SIZE)), 3 * RNG.standard_normal((8, SIZE))
START = np.linspace(-1, 1, SIZE)


class Bowl(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.from_numpy(START.copy()))


class Bowls:
    """A quadratic for each silo, with a minimum of its own."""

    def model(self) -> nn.Module:
        return Bowl()

    def data(self, silo: int, silos: int) -> SiloData:
        data = TensorDataset(*(torch.from_numpy(one[silo : silo + 1]) for one in (CURVES, MINIMA)))
        return SiloData(data, data)

    def loss(self, model: Any, batch: Any) -> Tensor:
        curve, minimum = batch
        return (0.5 * curve * (model.place - minimum) ** 2).sum()

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


def settings(path: Path, **sections: dict[str, Any]) -> Config:
    tables: dict[str, dict[str, Any]] = {
        "run": {"name": "gossip", "dir": str(path), "display": "none", "rounds": 6},
        "train": {"full_batch": True, "steps": 1, "lr": LR, "dtype": "float64"},
        "topology": {"name": "gossip"},
        "failure": {"policy": "shrink"},
    }
    for name, keys in sections.items():
        tables[name] = tables.get(name, {}) | keys
    return configuration.parse(tables)


def federate(config: Config, silos: int, *, resume: bool = False) -> list[Any]:
    """What every silo has in the end: its summary, its error, or None where it died."""

    def rank(comm: Any) -> Any:
        torch.set_num_threads(1)
        try:
            return train(config, Bowls(), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(silos, rank, timeout_s=60)


def model_of(path: Path, silo: int) -> np.ndarray:
    """A silo's own in the end, (d,)."""
    return load_file(path / stem(silo) / OWN_MODEL)["place"]


def models(path: Path, silos: int) -> np.ndarray:
    """Each silo's own in the end, (n, d)."""
    return np.array([model_of(path, silo) for silo in range(silos)])


def gradient(x: np.ndarray) -> np.ndarray:
    return CURVES[: len(x)] * (x - MINIMA[: len(x)])


def expected(algorithm: str, weights: Callable[[int], np.ndarray], silos: int, rounds: int) -> np.ndarray:
    return getattr(naive, algorithm)(np.tile(START, (silos, 1)), weights, gradient, LR, rounds)


CASES = [
    ("dpsgd", "ring", "secagg"),
    ("dpsgd", "ring", "plain"),
    ("gradient_tracking", "torus", "secagg"),
    ("gradient_tracking", "exponential", "plain"),
    ("push_sum", "exponential", "secagg"),
    ("push_sum", "one_peer_exponential", "plain"),
    ("dpsgd", "one_peer_exponential", "plain"),
    ("dpsgd", "complete", "secagg"),
]


@pytest.mark.parametrize(("algorithm", "graph", "protocol"), mostly_long(CASES, 0, 3, 5))
def test_silos_have_what_a_matrix_gives(tmp_path: Path, algorithm: str, graph: str, protocol: str) -> None:
    silos, topology = 6, {"algorithm": algorithm, "graph": graph}
    config = settings(tmp_path, topology=topology, secure={"protocol": protocol})
    summaries = federate(config, silos)
    assert all(isinstance(one, dict) for one in summaries), summaries
    kind = column_stochastic if algorithm == "push_sum" else doubly_stochastic
    edges = GRAPHS[graph]()
    want = expected(algorithm, lambda t: kind(edges.edges(tuple(range(silos)), t, 0)), silos, 6)
    found = models(tmp_path, silos)
    np.testing.assert_allclose(found, want, atol=1e-10, rtol=0)
    told, second = summaries[0]["metrics"], {"ring": 2 / 3, "complete": 0.0}.get(graph)
    if second is not None:
        assert summaries[0]["spectral_gap"] == pytest.approx(1 - second, abs=1e-12)
    if algorithm == "dpsgd":
        x = expected(algorithm, lambda t: kind(edges.edges(tuple(range(silos)), t, 0)), silos, 5)
        trained = x - LR * gradient(x)
        moved = np.sqrt(((want - trained) ** 2).sum(axis=1).mean())
        assert told["neighbour_disagreement"] == pytest.approx(moved, rel=1e-8, abs=1e-9)
    if protocol == "secagg":  # nothing linear in models is opened over all silos
        assert "consensus_distance" not in told
        assert not (tmp_path / "model.safetensors").exists()
        return
    mean = load_file(tmp_path / "model.safetensors")["place"]
    np.testing.assert_allclose(mean, want.mean(axis=0), atol=1e-10)
    away = np.sqrt(((want - want.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert told["consensus_distance"] == pytest.approx(away, rel=1e-8, abs=1e-9)
    assert {one["model_sha256"] for one in summaries} == {summaries[0]["model_sha256"]}


RING = doubly_stochastic(GRAPHS["ring"]().edges((0, 1, 2, 3), 0, 0))


CODECS = [("random_k", "secagg"), ("random_k", "plain"), ("top_k", "plain")]


@pytest.mark.parametrize(("name", "protocol"), mostly_long(CODECS, 0, 2))
def test_choco_with_a_codec(tmp_path: Path, name: str, protocol: str) -> None:
    """Masked, on values that all silos draw alike; and packets of each silo's own, in the clear."""
    config = settings(
        tmp_path,
        run={"evaluate_every": 6},
        topology={"algorithm": "choco", "consensus_rate": 0.4},
        compress={"name": name, "ratio": 0.4},
        secure={"protocol": protocol},
    )
    codec: Any = build(config.compress)

    def compress(row: np.ndarray, step: int) -> np.ndarray:
        """As a silo's neighbours have it in round step + 1."""
        key = digest("neighbours' codec", bytes(8), (step + 1).to_bytes(8))
        draw = Draw(key[:16], keeps_error=True)
        if name == "top_k":
            return codec.unpack(codec.pack(row, draw), SIZE, row.dtype)
        return codec.decode(codec.encode(row, draw), draw, SIZE)

    summaries = federate(config, 4)
    want = naive.choco(np.tile(START, (4, 1)), RING, gradient, LR, 6, 0.4, compress)
    np.testing.assert_allclose(models(tmp_path, 4), want, atol=1e-10, rtol=0)
    assert summaries[0]["bytes_sent_per_round"] < {"secagg": 10**4, "plain": 500}[protocol]


@pytest.mark.parametrize("size", [7, 100_000])
def test_sketches_tell_distances(size: int) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, size))
    short = sketch(one, 3, 5) - sketch(other, 3, 5)
    exact = np.linalg.norm(one - other)
    assert np.linalg.norm(short) == pytest.approx(exact, rel=1e-12 if size < BUCKETS else 0.1)
    assert len(short) <= BUCKETS
    np.testing.assert_allclose(sketch(one + other, 3, 5), sketch(one, 3, 5) + sketch(other, 3, 5), atol=1e-9)


@pytest.mark.long
def test_gradient_tracking_ends_at_the_minimum_of_all(tmp_path: Path) -> None:
    minimum = (CURVES[:4] * MINIMA[:4]).sum(axis=0) / CURVES[:4].sum(axis=0)
    found = {}
    for algorithm in ("gradient_tracking", "dpsgd"):
        config = settings(
            tmp_path / algorithm,
            run={"rounds": 120, "evaluate_every": 120},
            train={"steps": 3},
            topology={"algorithm": algorithm},
            checkpoint={"every": 0},
            secure={"protocol": "plain"},
        )
        federate(config, 4)
        found[algorithm] = np.abs(models(tmp_path / algorithm, 4) - minimum).max()
    assert found["gradient_tracking"] < 1e-9
    assert found["dpsgd"] > 0.05


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    def die() -> None:
        raise SimulatedCrash

    monkeypatch.setitem(FaultInjector.__init__.__kwdefaults__, "die", die)  # type: ignore[misc]


STEPS = ["train", "collect first", "reveal", "agree", "step", "evaluate", "checkpoint agree"]


@pytest.mark.covering(0)
@pytest.mark.parametrize("step", mostly_long(STEPS, 1, 2, 4))
@pytest.mark.parametrize("algorithm", mostly_long(["dpsgd", "gradient_tracking", "push_sum"], 0))
def test_a_neighbour_dies(tmp_path: Path, deaths: None, step: str, algorithm: str) -> None:
    """The others' rounds go on, over the ring that is left; here in the rounds behind, by the matrix."""
    config = settings(
        tmp_path, topology={"algorithm": algorithm}, failure={"inject": [f"kill silo 2 round 3 at {step}"]}
    )
    results = federate(config, 6)
    assert [silo for silo, one in enumerate(results) if one is None] == [2]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["survivors"] == [0, 1, 3, 4, 5]
    assert all(np.isfinite(line["neighbour_disagreement"]) for line in lines if not line["failed"])


def test_metrics_are_of_the_silos_that_were_there_at_the_opening_or_void(
    tmp_path: Path, deaths: None
) -> None:
    """A run that is resumed may show them over all: over the others, too, the difference would be one's."""
    federate(settings(tmp_path, failure={"inject": ["kill silo 2 round 3 at evaluate"]}), 5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    shown = [line["metrics"] for line in lines]
    assert set(shown[2].values()) == {None}, shown[2]
    assert all(None not in one.values() for one in [*shown[:2], *shown[3:]])


def test_a_round_is_not_opened_again_with_other_weights(tmp_path: Path, deaths: None) -> None:
    """Two sums of the same messages are two equations for the same models."""
    edges = tmp_path / "edges.csv"
    edges.write_text("0,1\n0,2\n1,2\n2,3\n3,4\n4,2\n")
    sections = {
        "topology": {"graph": "edge_list", "edges_file": str(edges)},
        "failure": {"policy": "abort", "inject": ["kill silo 1 round 3 at step"]},
    }
    federate(settings(tmp_path / "run", **sections), 5)
    edges.write_text("0,1\n0,2\n1,2\n2,3\n3,4\n4,2\n1,4\n")
    ends = federate(settings(tmp_path / "run", **sections), 5, resume=True)
    assert all("may have been opened with other weights between silos" in str(one) for one in ends)
    edges.write_text("0,1\n0,2\n1,2\n2,3\n3,4\n4,2\n")
    assert all(
        isinstance(one, dict) for one in federate(settings(tmp_path / "run", **sections), 5, resume=True)
    )


def test_a_neighbour_that_dies_before_words_are_exchanged_is_as_if_never_there(
    tmp_path: Path, deaths: None
) -> None:
    config = settings(tmp_path, failure={"inject": ["kill silo 2 round 3 at train"]})
    federate(config, 6)
    left = [0, 1, 3, 4, 5]
    x = np.tile(START, (6, 1))
    ring = {n: doubly_stochastic(GRAPHS["ring"]().edges(tuple(range(n)), 0, 0)) for n in (5, 6)}
    for _ in range(2):
        x = ring[6] @ (x - LR * gradient(x))
    x = x[left]
    for _ in range(4):
        x = ring[5] @ (x - LR * CURVES[left] * (x - MINIMA[left]))
    found = [model_of(tmp_path, silo) for silo in left]
    np.testing.assert_allclose(found, x, atol=1e-10)


STOPS = [
    *(("gradient_tracking", step) for step in ("collect first", "reveal", "step")),
    *((algorithm, "step") for algorithm in ("choco", "dpsgd", "push_sum")),
]


@pytest.mark.covering(0)
@pytest.mark.parametrize(("algorithm", "step"), mostly_long(STOPS, 2), ids=str)
def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path, deaths: None, algorithm: str, step: str) -> None:
    """Also where some have opened their sums of the round already: they open the same again."""
    sections: dict[str, Any] = {"topology": {"algorithm": algorithm}}
    if algorithm == "choco":
        sections["compress"] = {"name": "random_k", "ratio": 0.5}
    whole = federate(settings(tmp_path / "whole", **sections), 4)
    fails = {"policy": "abort", "inject": [f"kill silo 1 round 4 at {step}"]}
    stopped = federate(settings(tmp_path / "stopped", **sections, failure=fails), 4)
    assert {type(one) for one in stopped if one is not None} == {StoppedError}
    assert {one.exit_code for one in stopped if one is not None} == {EXIT_RESUMABLE}
    resumed = federate(settings(tmp_path / "stopped", **sections, failure=fails), 4, resume=True)
    np.testing.assert_array_equal(models(tmp_path / "stopped", 4), models(tmp_path / "whole", 4))
    assert resumed[0]["metrics"] == whole[0]["metrics"]


def test_too_few_for_a_masked_sum_stop_resumably(tmp_path: Path, deaths: None) -> None:
    """Of three on a ring, one is lost: each other would read its only neighbour's model."""
    results = federate(settings(tmp_path, failure={"inject": ["kill silo 0 round 2 at collect first"]}), 3)
    assert results[0] is None
    assert {one.exit_code for one in results[1:]} == {EXIT_RESUMABLE}


@pytest.mark.covering(0)
@pytest.mark.parametrize("algorithm", mostly_long(["dpsgd", "gradient_tracking", "push_sum"], 0))
def test_a_silo_that_rejoins_takes_up_its_own_model(
    tmp_path: Path, deaths: None, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """It failed in round 3 and is there from round 5 on, with what it has of round 1 or 2."""
    config = settings(
        tmp_path,
        topology={"algorithm": algorithm},
        failure={"policy": "respawn", "inject": ["kill silo 2 round 3 at train"]},
    )
    results = rejoining.federate(monkeypatch, config, Bowls, 5, 2, after=4)
    assert all(one["survivors"] == [0, 1, 2, 3, 4] for one in results)
    assert np.isfinite(models(tmp_path, 5)).all()
    if algorithm != "dpsgd":
        return
    ring = {n: doubly_stochastic(GRAPHS["ring"]().edges(tuple(range(n)), 0, 0)) for n in (4, 5)}
    left, x, own = [0, 1, 3, 4], np.tile(START, (5, 1)), []
    for _ in range(2):
        x = ring[5] @ (x - LR * gradient(x))
        own.append(x[2])
    for _ in range(2):
        x[left] = ring[4] @ (x[left] - LR * CURVES[left] * (x[left] - MINIMA[left]))
    ends = []
    for committed in own:
        y = x.copy()
        y[2] = committed
        for _ in range(2):
            y = ring[5] @ (y - LR * gradient(y))
        ends.append(y)
    away = [float(np.abs(models(tmp_path, 5) - end).max()) for end in ends]
    assert min(away) < 1e-10
