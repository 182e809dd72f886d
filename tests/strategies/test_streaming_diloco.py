"""Streaming DiLoCo: published values, an independent loop, what travels, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import ConfigError, DivergedError
from silofl.federation.dry_run import dry_run
from silofl.federation.local_work import RoundStart
from silofl.federation.loop import train
from silofl.federation.silo import Silo
from silofl.federation.strategy_half import LOCAL
from silofl.strategies.registry import build
from silofl.tasks.base import SiloData, Task
from silofl.training.fragments import fragments_of
from tests.campaigns import mostly_long
from tests.federation.threads import Normalized, records
from tests.strategies import naive
from tests.strategies.naive import Array
from tests.strategies.test_federated import Softmax

SILOS, ROUNDS, LR, STEPS = 4, 12, 0.3, 5
TENSORS = (1, 4, 5, 2, 3)
PARTS = {
    1: [slice(0, 15)],
    2: [slice(0, 5), slice(5, 15)],
    3: [slice(0, 5), slice(5, 10), slice(10, 15)],
    4: [slice(0, 5), slice(5, 10), slice(10, 12), slice(12, 15)],
}
"""How so many fragments are cut out of `TENSORS`."""
ALL = tuple(range(SILOS))


class Pieces(nn.Module):
    """The linear model of `naive` in several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in TENSORS)

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.cat(list(self.pieces)).view(naive.CLASSES, naive.INPUTS).T


class Cut(Softmax):
    """The silos of `naive`, as a task."""

    def model(self) -> nn.Module:
        return Pieces()


def settings(path: Path, strategy: dict[str, Any], rounds: int = ROUNDS, **sections: Any) -> Config:
    return configuration.parse(
        {
            "run": {"name": "f", "dir": str(path), "display": "none", "rounds": rounds},
            "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"},
            "strategy": {"name": "streaming_diloco", **strategy},
            "secure": {"protocol": "plain"},
            **sections,
        }
    )


def federate(
    config: Config, task: Task | None = None, silos: int = SILOS, *, resume: bool = False
) -> list[Any]:
    def rank(comm: Any) -> Any:
        torch.set_num_threads(1)
        return train(config, Cut() if task is None else task, comm=comm, resume=resume)

    return run_in_threads(silos, rank, timeout_s=110)


def model_of(path: Path) -> Array:
    tensors = load_file(path / "model.safetensors")
    return np.concatenate([tensors[f"pieces.{k}"] for k in range(len(TENSORS))])


def reference(strategy: dict[str, Any], present: Any = None, **more: Any) -> Array:
    keys = {"fragments": 2, "delay": 0, "alpha": 0.0, "lr": 0.7, "momentum": 0.9} | strategy
    count, server_lr = keys.pop("fragments"), keys.pop("lr")
    present = [ALL] * ROUNDS if present is None else present
    given = naive.silos(), present, LR, STEPS, PARTS[count]
    return naive.streaming_diloco(*given, server_lr=server_lr, **keys, **more)


class Falling:
    """Scalars from 1.0 that fall by `train.lr` in every step; `seen` has them before each step."""

    def __init__(self, parameters: int) -> None:
        self.parameters, self.seen = parameters, list[list[float]]()

    def model(self) -> nn.Module:
        return nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in range(self.parameters))

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(TensorDataset(torch.zeros(1)))

    def loss(self, model: Any, batch: Any) -> Tensor:
        self.seen.append([float(one.detach()) for one in model])
        return torch.stack(list(model)).sum()

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


PUBLISHED = {
    (0, 0.0): [(-11, -5), (-17, -23), (-35, -29), (-41, -47)],
    (0, 0.5): [(-8, -5), (-14, -17), (-24.5, -23), (-30.5, -32)],
    (1, 0.0): [(-7, -5), (-13, -19), (-27, -25), (-33, -39)],
    (1, 0.5): [(-6, -5), (-12, -15), (-21.5, -21), (-27.5, -29)],
}
"""By delay and alpha, a replica's parameters after 3, 6, 9 and 12 steps in fixtures of torchft's regression
tests: two fragments of a parameter from 1, inner steps of -2, an outer rate of 2, both summed in 6 steps."""


@pytest.mark.covering(0)
@pytest.mark.parametrize(("delay", "alpha"), PUBLISHED)
def test_the_values_of_torchft_s_fixtures(tmp_path: Path, delay: int, alpha: float) -> None:
    """All that a silo trains from in rounds of three steps, with what was summed before taken up."""
    keys = {"delay": delay, "alpha": alpha, "lr": 2.0, "momentum": 0.0}
    sections = {"train": {"full_batch": True, "steps": 3, "lr": 2.0, "dtype": "float64"}}
    tasks = [Falling(2), Falling(2)]
    config = settings(tmp_path, keys, 5, **sections)
    run_in_threads(2, lambda comm: train(config, tasks[comm.rank], comm=comm), timeout_s=60)
    for task in tasks:
        began = task.seen[-15::3]  # behind the trial step
        assert [tuple(one) for one in began] == [(1, 1), *PUBLISHED[delay, alpha]]


CASES: list[dict[str, Any]] = [
    {"fragments": 2},
    {"fragments": 3, "delay": 2, "alpha": 0.5},
    {"fragments": 4, "delay": 4, "alpha": 0.25, "lr": 0.5, "momentum": 0.6},
    {"fragments": 3, "delay": 1, "alpha": 0.0, "momentum": 0.0},
    {"fragments": 1, "delay": 3, "alpha": 0.5},
    {"fragments": 4, "alpha": 0.9},
]


@pytest.mark.covering(0)
@pytest.mark.parametrize("strategy", CASES, ids=str)
@pytest.mark.parametrize("rounds", mostly_long([ROUNDS, 24], 0))
def test_it_is_the_algorithm(tmp_path: Path, strategy: dict[str, Any], rounds: int) -> None:
    federate(settings(tmp_path, strategy, rounds))
    expected = reference(strategy, [ALL] * rounds)
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize(
    ("secure", "bound"),
    mostly_long(
        [
            ({"protocol": "secagg", "bits": 32}, 1e-5),
            ({"protocol": "additive", "bits": 32}, 1e-5),
            ({"protocol": "secagg", "bits": 16}, 1e-2),
        ],
        0,
    ),
    ids=str,
)
def test_masked(tmp_path: Path, secure: dict[str, Any], bound: float) -> None:
    federate(settings(tmp_path, CASES[1], secure=secure))
    np.testing.assert_allclose(model_of(tmp_path), reference(CASES[1]), rtol=0, atol=bound)


@pytest.mark.long
@pytest.mark.parametrize("protocol", mostly_long(["plain", "secagg"], 1))
def test_one_fragment_is_diloco_bit_for_bit(tmp_path: Path, protocol: str) -> None:
    secure = {"protocol": protocol}
    models = []
    for strategy in ({"fragments": 1}, {"name": "diloco"}):
        folder = tmp_path / str(strategy.get("name", "streaming"))
        every = federate(settings(folder, strategy, 6, secure=secure), Normalized())
        assert len({one["model_sha256"] for one in every}) == 1
        tensors = load_file(folder / "model.safetensors")  # metadata tell the strategy
        models.append({name: values.tobytes() for name, values in tensors.items()})
    assert models[0] == models[1]


class Long:
    """Four tensors of one length, and no data to speak of."""

    def model(self) -> nn.Module:
        return nn.ParameterList(nn.Parameter(torch.ones(1 << 15)) for _ in range(4))

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(TensorDataset(torch.zeros(1)))

    def loss(self, model: Any, batch: Any) -> Tensor:
        return torch.stack([(one * one).sum() for one in model]).sum()

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


@pytest.mark.covering(1)
@pytest.mark.parametrize("protocol", ["plain", "secagg", "additive"])
@pytest.mark.parametrize("fragments", [2, 4])
def test_a_round_sends_a_fragment_s_part_of_the_bytes(tmp_path: Path, protocol: str, fragments: int) -> None:
    """By the communicator's count: words, new values and replicas, but for keys and votes."""
    sent = {}
    for name, keys in {"whole": {"name": "diloco"}, "part": {"fragments": fragments}}.items():
        sections = {
            "secure": {"protocol": protocol},
            "train": {"full_batch": True, "steps": 1, "lr": 0.1},
        }
        federate(settings(tmp_path / name, keys, fragments, **sections), Long())
        sent[name] = [line["bytes_sent"] for line in records(tmp_path / name)]
    assert max(sent["part"]) - min(sent["part"]) < 2000
    assert max(sent["part"]) == pytest.approx(sent["whole"][0] / fragments, rel=0.02, abs=12000)


@pytest.mark.covering(0)
@pytest.mark.parametrize("secure", [{"protocol": "plain"}, {"protocol": "secagg"}], ids=str)
def test_a_check_foretells_the_bytes_of_the_longest_fragment(tmp_path: Path, secure: dict[str, Any]) -> None:
    """Of tensors of 60, 60, 600 and 10 values, and of buffers in every round."""
    task = {"factory": f"{Normalized.__module__}:Normalized"}
    config = settings(tmp_path, {"fragments": 2}, 2, secure=secure, task=task)
    run_in_threads(SILOS, lambda comm: train(config, comm=comm), timeout_s=60)
    sent = [line["bytes_sent"] for line in records(tmp_path)]
    found = dry_run(config, SILOS)
    assert found.bytes_sent_per_round == sent[1] > sent[0]
    assert found.notes == [
        "a round sums one of 2 fragments of 120 to 610 values; its wire is the longest one's"
    ]


@pytest.mark.long
def test_buffers_are_averaged_in_every_round_and_begin_it_as_the_shared_ones(tmp_path: Path) -> None:
    """Those of a first layer know no parameter: they are to the bit what they are where all is summed."""
    found = []
    for number, keys in enumerate(({"fragments": 3, "alpha": 0.5, "delay": 2}, {"name": "diloco"})):
        path = tmp_path / str(number)
        federate(settings(path, keys, 5), Normalized())
        found.append(load_file(path / "model.safetensors"))
    assert all((found[0][name] == found[1][name]).all() for name in ("0.running_mean", "0.running_var"))
    assert (found[0]["1.weight"] != found[1]["1.weight"]).any()


def test_a_silo_without_a_model_of_its_own_begins_with_the_shared_one() -> None:
    """As one that is back without its checkpoint does; one of a round before takes up what was summed."""
    train_keys = {"full_batch": True, "steps": 1, "lr": 2.0, "dtype": "float64"}
    table = {"name": "streaming_diloco", "fragments": 3, "alpha": 0.25}
    config, task = configuration.parse({"strategy": table, "train": train_keys}), Falling(3)
    silo, strategy, none = Silo(config, task, 0, 3, "cpu"), build(config.strategy), np.empty(0)
    shared = {"model": np.array([10.0, 20.0, 30.0])}
    silo.accept(silo.fit(RoundStart(shared, none, 7, strategy)))
    assert task.seen[-1] == [10, 20, 30]
    assert silo.strategy_state[LOCAL].tolist() == [8, 18, 28]
    silo.restore(silo.state())
    for number, expected in (
        (8, [9.5, 18, 28]),
        (9, [9.5, 19.5, 28]),
        (10, [9.5, 19.5, 29.5]),
        (7, [8, 18, 28]),
    ):
        silo.fit(RoundStart(shared, none, number, strategy))
        assert task.seen[-1] == expected, number


class Exploding(Falling):
    """Its first tensor is infinite after a step of 10 times its gradient, and no loss tells."""

    def loss(self, model: Any, batch: Any) -> Tensor:
        return super().loss(model, batch) + 1e308 * (model[1] - model[1].detach()).sum()


def test_a_local_model_that_is_not_finite_ends_the_run_in_the_round_that_made_it_so(tmp_path: Path) -> None:
    """Not when its fragment is summed, or its loss tells."""
    config = settings(tmp_path, {}, 2, train={"full_batch": True, "steps": 1, "lr": 10, "dtype": "float64"})
    tasks = [Falling(2), Exploding(2), Falling(2)]
    with pytest.raises(
        DivergedError, match=r"silo 1, round 1: .*its local model has values that are not finite"
    ):
        run_in_threads(3, lambda comm: train(config, tasks[comm.rank], comm=comm), timeout_s=60)


TRAIN = {"steps": 3}
NOISE = {"noise_multiplier": 1.0, "clip_norm": 1.0}


@pytest.mark.parametrize(
    ("strategy", "sections", "told"),
    [
        ({"fragments": 0}, {}, r"strategy\.fragments = 0 is not allowed"),
        ({"delay": -1}, {}, r"strategy\.delay = -1 is not allowed"),
        ({"alpha": 1.0}, {}, r"strategy\.alpha = 1\.0 is not allowed: it should be less than 1"),
        (
            {"delay": 3},
            {"train": TRAIN},
            r"delay = 3 .*, and train\.steps = 3 is no more than that: lower the",
        ),
        ({"delay": 1}, {"train": {"epochs": 2}}, r"train\.steps does not say how many there are: set it"),
        (
            {"delay": 1},
            {"train": TRAIN | {"seconds": 9.0}},
            r"which train\.seconds = 9\.0 leaves open: remove it",
        ),
        (
            {},
            {"privacy": NOISE | {"unit": "silo"}},
            r'strategy\.name = "streaming_diloco" has a local model .* set strategy\.name = "diloco"',
        ),
        (
            {},
            {"privacy": NOISE | {"unit": "example", "place": "local", "sample_rate": 0.1}, "train": TRAIN},
            r'strategy\.name = "streaming_diloco" has a local model go on',
        ),
        (
            {},
            {"personal": {"name": "mrmtl"}},
            r'"mrmtl" has local steps of its own, and so has strategy\.name = "streaming_diloco"',
        ),
    ],
)
def test_what_it_does_not_go_with_is_refused(strategy: Any, sections: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        configuration.parse({"strategy": {"name": "streaming_diloco", **strategy}, **sections})


def test_more_fragments_than_tensors_are_refused_before_a_round(tmp_path: Path) -> None:
    told = r"strategy\.fragments = 6 cuts between whole tensors, .* has 5 tensors to train: lower it"
    with pytest.raises(ConfigError, match=told):
        federate(settings(tmp_path, {"fragments": 6}))


@pytest.mark.parametrize(
    ("ends", "count", "cuts"),
    [
        ([7], 1, [1]),
        ([1, 5, 10, 12, 15], 2, [2, 5]),  # 7.5 is as near to 5 as to 10
        ([1, 5, 10, 12, 15], 4, [2, 3, 4, 5]),
        ([90, 95, 100], 2, [1, 3]),
        ([5, 10, 100], 3, [1, 2, 3]),
        ([5, 10, 100], 2, [2, 3]),
        ([10, 20, 30, 40, 50, 60], 3, [2, 4, 6]),
    ],
)
def test_fragments_are_whole_tensors_of_about_one_length(
    ends: list[int], count: int, cuts: list[int]
) -> None:
    found = fragments_of(np.array(ends), count)
    assert [one.tensors.stop for one in found] == cuts
    assert [one.tensors.start for one in found] == [0, *cuts[:-1]]
    assert [one.values.stop for one in found] == [ends[cut - 1] for cut in cuts]
    assert sum(one.size for one in found) == ends[-1]
