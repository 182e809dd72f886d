"""The ranks of a silo: what goes wrong on one of them, their threads and devices, and what is refused."""

from __future__ import annotations

import math
import os
import threading
from multiprocessing.connection import Connection, Pipe
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.config import Config
from silofl.errors import ConfigError, DivergedError, SiloflError, TrainingError, UserCodeError
from silofl.federation import rank_of_silo, start
from silofl.federation.local_work import RoundStart
from silofl.federation.rank_of_silo import RankOfSilo, failure
from silofl.federation.silo import Silo
from silofl.federation.team import Team, Told, cores_short, threads_of_each
from silofl.launcher import machine
from silofl.strategies.registry import build
from silofl.tasks.base import SiloData
from silofl.tasks.user_code import UserCode
from tests.federation.team_in_threads import (
    SAMPLES,
    Curve,
    InThreads,
    Samples,
    made,
    points,
    settings,
    trained,
)
from tests.training import fake_gpu

pytestmark = pytest.mark.usefixtures("threads_kept")


class Raising(Curve):
    """Raises at a sample of rank 1, in the first round alone, or gives a loss that is no number there."""

    def __init__(self, how: str, where: int) -> None:
        self.how, self.where = how, where

    def data(self, silo: int, silos: int) -> SiloData:
        x, y = points()
        return SiloData(Failing(self.how, self.where) if self.how == "data" else TensorDataset(x, y))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        rank = int(threading.current_thread() is not threading.main_thread())
        if (
            self.how in ("loss", "other", "nan")
            and rank == self.where
            and model.training
            and torch.is_grad_enabled()
        ):
            if ROUND[0] != 1:
                return super().loss(model, batch)
            if self.how == "loss":
                raise ValueError("a value of the data")
            return super().loss(model, batch) * math.nan
        return super().loss(model, batch)


class Failing(Samples):
    def __init__(self, how: str, where: int) -> None:
        self.where = where

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rank = int(threading.current_thread() is not threading.main_thread())
        if ROUND[0] == 1 and rank == self.where:
            raise KeyError("a value of the data")
        return super().__getitem__(index)


ROUND = [0]


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("how", ["loss", "data", "nan"])
def test_what_goes_wrong_on_any_rank_is_told_and_leaves_the_ranks_as_they_were(how: str, where: int) -> None:
    config = settings(2)
    ROUND[0] = 0
    silo, gathered = made(config, Raising(how, where))
    assert gathered is not None
    values, count, strategy = silo.initial(), silo.model.trainable, build(config.strategy)
    start = RoundStart({"model": values[:count]}, values[count:], 1, strategy)
    found = silo.fit(start)
    before, loss = found.contribution.vectors["update"].copy(), found.loss
    ROUND[0] = 1
    with pytest.raises(SiloflError) as caught:
        silo.fit(start)
    assert caught.value.exit_code == 2
    assert caught.value.rank == 0
    told = {"loss": "the task's loss() raised ValueError", "data": "the task's data() raised KeyError"}
    whose = "silo 0, its rank 1: " if where else "silo 0: "
    assert str(caught.value).startswith(whose + told[how] if how in told else "silo 0, round 1: ")
    assert type(caught.value) is (DivergedError if how == "nan" else UserCodeError)
    assert "value of the data" not in str(caught.value)
    ROUND[0] = 2
    found = silo.fit(start)
    np.testing.assert_allclose(found.contribution.vectors["update"], before, rtol=1e-12)
    assert found.loss == pytest.approx(loss, rel=1e-12)
    gathered.close()


class Negative(Curve):
    """One sample, the last, has a logarithm that is no number."""

    def data(self, silo: int, silos: int) -> SiloData:
        x, y = points()
        return SiloData(
            TensorDataset(x, y.abs() * torch.cat([torch.ones(SAMPLES - 1, 1), -torch.ones(1, 1)]))
        )

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return (model(x) - y.log()).square().mean()


def test_the_cause_of_divergence_is_looked_for_in_all_of_a_batch() -> None:
    said = []
    for ranks in (1, 2):
        with pytest.raises(DivergedError) as caught:
            trained(ranks, Negative(), train={"full_batch": True})
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "before the first step of the round" in said[0]


class Local(Curve):
    """What another process cannot be given."""

    def __init__(self) -> None:
        self.scale = lambda x: x


class Unmade(Curve):
    def __setstate__(self, state: dict[str, Any]) -> None:
        raise ImportError("no module named here")

    def __getstate__(self) -> dict[str, Any]:
        return {"some": 1}


class Own(Curve):
    """Another model, or other samples, whenever it is asked."""

    def __init__(self, what: str) -> None:
        self.what = what

    def data(self, silo: int, silos: int) -> SiloData:
        less = self.what == "samples" and threading.current_thread() is not threading.main_thread()
        x, y = points()
        return SiloData(TensorDataset(x[less:], y[less:]))

    def model(self) -> nn.Module:
        other = self.what == "model" and threading.current_thread() is not threading.main_thread()
        return nn.Linear(4, 1, bias=not other)


@pytest.mark.parametrize(
    ("task", "kind", "told"),
    [
        (Local(), ConfigError, "the task Local cannot be given to another process ("),
        (Unmade(), ConfigError, "cannot be made again in another process (ImportError"),
        (
            Own("samples"),
            TrainingError,
            "rank 1 of it has another model or other samples than its first rank",
        ),
        (Own("model"), TrainingError, "rank 1 of it has another model or other samples than its first rank"),
    ],
    ids=["attribute", "module", "samples", "model"],
)
def test_a_task_that_other_ranks_cannot_have(task: Curve, kind: type[SiloflError], told: str) -> None:
    with pytest.raises(kind) as caught:
        made(settings(2), task)
    assert str(caught.value).startswith("silo 0")
    assert told in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_task_of_the_program_that_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Curve, "__module__", "__main__")
    with pytest.raises(ConfigError, match=r"its class is in the program that was started"):
        made(settings(2), Curve())


@pytest.mark.parametrize(
    ("environ", "each"),
    [
        ({"OMP_NUM_THREADS": "6", "SILOFL_PLANNED_THREADS": "6"}, 3),
        ({"OMP_NUM_THREADS": "1", "SILOFL_PLANNED_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "6"}, 6),  # the user's
        ({"OMP_NUM_THREADS": "4", "SILOFL_PLANNED_THREADS": "6"}, 4),
        ({}, 2),
    ],
)
def test_each_rank_has_its_part_of_the_threads(environ: dict[str, str], each: int) -> None:
    torch.set_num_threads(4)
    assert threads_of_each(2, environ) == each


@pytest.mark.parametrize(
    ("ranks", "local", "own", "shared", "told"),
    [
        (2, 1, 2, 2, None),
        (2, 4, 8, 8, None),
        (3, 1, 2, 2, "a silo has 2 cores here, for which its ranks wait in turn: set it to 2"),
        (2, 4, 4, 4, "a silo has 1 core here, for which its ranks wait in turn: set it to 1"),
        (
            4,
            2,
            1,
            8,
            "a silo has 1 core here, for which its ranks wait in turn: start mpirun with --bind-to none",
        ),
    ],
)
def test_fewer_cores_than_ranks_are_noticed(
    monkeypatch: pytest.MonkeyPatch, ranks: int, local: int, own: int, shared: int, told: str | None
) -> None:
    monkeypatch.setattr(machine, "allowed_cores", lambda: own)
    monkeypatch.setattr(machine, "shared_cores", lambda: shared)
    found = cores_short(ranks, local)
    assert found == (None if told is None else f"train.ranks_per_silo = {ranks} and {told}")


def test_gpus_are_dealt_out_among_all_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []

    class Stopped(Exception):
        pass

    def silo(config: Config, task: Any, number: int, silos: int, device: str, **_: Any) -> Silo:
        devices.append(device)
        raise Stopped

    monkeypatch.setattr(start, "Silo", silo)
    monkeypatch.setattr(rank_of_silo, "Silo", silo)
    monkeypatch.setattr(start, "_once", lambda group, work: work())
    told: list[Told] = []

    class Listening(InThreads):
        def _start(self, threads: int) -> Connection:
            told.append(self._told._replace(rank=1 + len(told)))
            return Pipe()[0]

    monkeypatch.setattr(start, "Team", Listening)
    with fake_gpu.gpus(monkeypatch, 8):
        config = settings(3, train={"device": "auto"})
        with pytest.raises(Stopped):
            start.build_silo(cast(Any, None), config, Curve(), UserCode(1), 2, 1)
        for one in told:
            with pytest.raises(Stopped):
                RankOfSilo(Pipe()[0], 0, one)
    assert devices == ["cuda:3", "cuda:4", "cuda:5"]


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"privacy": {"unit": "example", "noise_multiplier": 1.0, "place": "local"}}, "clipped gradients"),
        ({"strategy": {"name": "fedpm"}}, 'strategy.name = "fedpm"'),
        ({"strategy": {"name": "moon", "layer": "0"}}, 'strategy.name = "moon"'),
        *(({"personal": {"name": name}}, f'"{name}"') for name in ("apfl", "mrmtl", "perfedavg", "pfedme")),
        ({"train": {"optimizer": "SparseAdam"}}, "SparseAdam"),
    ],
    ids=str,
)
def test_what_is_not_shared_out_is_refused(sections: dict[str, Any], named: str) -> None:
    tables = {**sections, "train": {**sections.get("train", {})}}
    configuration.parse(tables)
    tables["train"] |= {"ranks_per_silo": 2}
    with pytest.raises(ConfigError) as caught:
        configuration.parse(tables)
    assert str(caught.value).startswith("train.ranks_per_silo = 2 ")
    assert named in str(caught.value)


class Line:
    """What a rank has answered, in order."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def send(self, message: Any) -> None:
        pass

    def recv(self) -> Any:
        return self.answers.pop(0)


def test_an_error_of_one_rank_leaves_no_answer_of_another_on_its_line() -> None:
    added: list[int] = []
    team, lines = Team.__new__(Team), (Line(TrainingError("bad"), 20.0), Line(1.0, 30.0))
    team._silo, team._ranks, team._lines = 0, 3, list(lines)  # type: ignore[assignment]
    team._memory = SimpleNamespace(publish=lambda: None, add_gradients=added.append)  # type: ignore[assignment]
    team._train = SimpleNamespace(share=0.4)  # type: ignore[assignment]
    with pytest.raises(TrainingError, match="bad"):
        team.reduce(lambda share: torch.tensor(5.0), lambda: 1.0)
    assert not added
    assert float(team.reduce(lambda share: torch.tensor(10.0), lambda: 1.0)) == 60.0
    assert added == [1, 2]


def test_an_error_is_told_without_its_text() -> None:
    told = failure(ValueError("patient 4711"), 2, 1)
    assert str(told).startswith("silo 2, its rank 1: ValueError")
    assert "4711" not in str(told)


def test_other_ranks_know_nothing_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that loads MPI would begin it as the silo's rank, and end the job."""
    begun: list[Any] = []
    monkeypatch.setenv("PMIX_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setattr("silofl.federation.team.subprocess.Popen", lambda line, **more: begun.append(more))
    team = Team.__new__(Team)
    team._file = os.open(os.devnull, os.O_RDONLY)
    team._start(1).close()
    os.close(team._file)
    assert begun[0]["env"]["OMP_NUM_THREADS"] == "1"
    assert not [name for name in begun[0]["env"] if name.startswith(("PMIX_", "OMPI_", "SILOFL_"))]
