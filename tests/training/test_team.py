"""A silo of several ranks trains as one of one rank: here its other ranks are threads of one process."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from multiprocessing.connection import Connection, Pipe
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from silofl import config as configuration
from silofl.config import Config, TrainConfig
from silofl.errors import ConfigError, DataError, DivergedError, SiloflError, TrainingError, UserCodeError
from silofl.federation import rank_of_silo, start
from silofl.federation.local_work import RoundStart
from silofl.federation.rank_of_silo import RankOfSilo, failure
from silofl.federation.silo import Silo
from silofl.federation.team import Team, Told, cores_short, threads_of_each
from silofl.launcher import machine
from silofl.strategies.registry import build
from silofl.tasks.base import SiloData
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Part
from silofl.training.seeding import derive
from tests.training import fake_gpu

SAMPLES = 23


def points(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 4, dtype=torch.float64, generator=generator)
    return x.to(dtype), (x.sum(1, keepdim=True) + 1).to(dtype)


class Curve:
    """Least squares with a small network; a parameter has no part in it."""

    def model(self) -> nn.Module:
        made = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        made.register_parameter("idle", nn.Parameter(torch.ones(2)))
        return made

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(TensorDataset(*points()))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return (model(x) - y).square().mean()

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": self.loss(model, batch)}


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """What is no TensorDataset."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = points()
        return x[index], y[index]


class Mapped(Curve):
    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(Samples())

    def collate(self, samples: list[Any]) -> Any:
        assert samples, "a rank without samples makes no batch"
        return [torch.stack(column) for column in zip(*samples, strict=True)]


class Words(Curve):
    """Sparse gradients."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1))

    def data(self, silo: int, silos: int) -> SiloData:
        words = torch.arange(2 * SAMPLES).view(-1, 2) ** 2 % 9
        return SiloData(TensorDataset(words, points()[1]))


class Turned(nn.Module):
    """Complex parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), 0.5 + 0.5j, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(1, keepdim=True)


class Complex(Curve):
    def model(self) -> nn.Module:
        return Turned()

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return (model(x) - y).abs().square().mean()


class Alternating(Curve):
    """Which of two layers a batch trains is in its samples: one rank may have no gradient for either."""

    def model(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        assert isinstance(model, nn.ModuleList)
        total = x.new_zeros(())
        for layer, some in zip(model, (x[:, 0] > 1.2, x[:, 0] <= 1.2), strict=True):
            if some.any():
                total = total + (layer(x[some]) - y[some]).square().sum()
        return total / len(x)


class Normed(Curve):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))


class Dropping(Curve):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 50), nn.Dropout(), nn.Linear(50, 1))


class InThreads(Team):
    """Its ranks are threads; `readings` counts what they were asked to read."""

    readings = 0

    def reading(self, config: TrainConfig, name: str, seed: int) -> AbstractContextManager[None]:
        InThreads.readings += 1
        return super().reading(config, name, seed)

    def _start(self, threads: int) -> Connection:
        here, there = Pipe()
        threading.Thread(target=served, args=(there, os.dup(self._file)), daemon=True).start()
        return here

    def close(self) -> None:
        for line in self._lines:
            line.close()
        os.close(self._file)


def served(line: Connection, file: int) -> None:
    with suppress(EOFError, OSError):
        told = line.recv()
        try:
            RankOfSilo(line, file, told).serve()
        except SiloflError as error:
            line.send(failure(error, told.silo, told.rank))
            line.recv()


@pytest.fixture(autouse=True)
def threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def settings(ranks: int, **sections: Any) -> Config:
    train = {"dtype": "float64", "batch_size": 6, "lr": 0.05, **sections.pop("train", {})}
    return configuration.parse({"train": {**train, "ranks_per_silo": ranks}, **sections})


def made(config: Config, task: Any) -> tuple[Silo, InThreads | None]:
    code, ranks = UserCode(0), config.train.ranks_per_silo
    gathered = None if ranks == 1 else InThreads(config, task, code, 1, 0)
    silo = Silo(config, task, 0, 1, "cpu", code=code)
    if gathered is not None:
        gathered.gather(silo.model, silo.train)
        silo.trainer.team = gathered
    return silo, gathered


def trained(ranks: int, task: Any, rounds: int = 2, **sections: Any) -> tuple[list[np.ndarray], list[float]]:
    """What each round sends, vector by vector, and its loss; the model goes on from its update alone."""
    config = settings(ranks, **sections)
    strategy = build(config.strategy)
    silo, gathered = made(config, task)
    values, sent, losses = silo.initial(), [], []
    count = silo.model.trainable
    for number in range(1, rounds + 1):
        shared = {name: np.zeros(count) for name in strategy.shared} | {"model": values[:count]}
        found = silo.fit(RoundStart(shared, values[count:], number, strategy))
        silo.accept(found)
        vectors = found.contribution.vectors
        sent += [vectors[name].copy() for name in sorted(vectors)]
        if "update" in vectors:
            values = values + np.concatenate([vectors["update"], vectors.get("buffers", values[:0])])
        losses.append(found.loss)
    if gathered is not None:
        gathered.close()
    return sent, losses


def assert_equal(ranks: int, task: Any, **options: Any) -> None:
    one, several = trained(1, task, **options), trained(ranks, task, **options)
    assert len(one[0]) == len(several[0])
    for expected, found in zip(one[0], several[0], strict=True):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(several[1], one[1], rtol=1e-12)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"epochs": 2}},
        {"train": {"steps": 5, "momentum": 0.9, "keep_optimizer": True}},
        {"train": {"full_batch": True, "steps": 3, "clip_norm": 0.5}},
        {"train": {"batch_size": 11, "optimizer": "AdamW", "drop_last": True}},
        {"strategy": {"name": "fedsgd"}},
        {"strategy": {"name": "fedsgd"}, "train": {"full_batch": True, "clip_norm": 0.1}},
        {"strategy": {"name": "scaffold"}, "train": {"clip_norm": 0.5}},
        {"strategy": {"name": "qfedavg"}},
    ],
    ids=str,
)
def test_several_ranks_send_what_one_does(ranks: int, sections: dict[str, Any]) -> None:
    """The last batch has 5 samples, or 1, in parts."""
    assert_equal(ranks, Curve(), **sections)


@pytest.mark.parametrize("task", [Mapped(), Words(), Alternating()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("full_batch", [False, True])
def test_whatever_the_samples_and_parameters_are(task: Curve, full_batch: bool) -> None:
    assert_equal(3, task, train={"momentum": 0.9, "batch_size": 11, "full_batch": full_batch})


def test_complex_parameters() -> None:
    one, several = (trained(ranks, Complex(), train={"dtype": "float32"})[0] for ranks in (1, 2))
    for expected, found in zip(one, several, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_batch_smaller_than_the_ranks_leaves_some_without() -> None:
    assert_equal(4, Mapped(), rounds=1, train={"batch_size": 7})  # the last has 2


def test_pruned_weights_have_no_part_in_the_norm_of_gradients() -> None:
    config = settings(2, train={"clip_norm": 0.01})
    silo, gathered = made(config, Curve())
    assert gathered is not None
    values, count = silo.initial(), silo.model.trainable
    kept = np.arange(count) % 2 == 0
    values[:count][~kept] = 0
    start = RoundStart({"model": values[:count]}, values[count:], 1, build(config.strategy), kept=kept)
    update = silo.fit(start).contribution.vectors["update"]
    gathered.close()
    alone, _ = made(settings(1, train={"clip_norm": 0.01}), Curve())
    np.testing.assert_allclose(update, alone.fit(start).contribution.vectors["update"], rtol=1e-10)


@pytest.mark.parametrize("name", ["finetune", "ditto", "fedrep", "fedper"])
def test_personal_methods_that_take_the_steps_of_the_trainer(name: str) -> None:
    """Also those that they take for a silo alone."""
    layers = {"layers": ["2.*"]} if name in ("fedrep", "fedper") else {}
    before = InThreads.readings
    assert_equal(2, Curve(), personal={"name": name, **layers}, train={"clip_norm": 0.1})
    assert InThreads.readings - before == 2 * (1 + (name in ("ditto", "fedrep")))


def test_batch_norm_has_the_statistics_of_the_first_ranks_parts() -> None:
    """Its parts alone, as in torch's DistributedDataParallel: they are no mean over ranks."""
    sent, _ = trained(2, Normed(), rounds=1, train={"batch_size": SAMPLES, "lr": 1e-30})
    silo, _ = made(settings(1), Normed())
    with torch.no_grad():
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(round_seed()))
        part = points()[0][order[: Part(0, 2).of(SAMPLES)[1]]]
        values = silo.model.module[0](part)  # type: ignore[index, operator]
    change = sent[sorted(["update", "buffers"]).index("buffers")]
    np.testing.assert_allclose(change[:5], 0.1 * values.mean(0).numpy(), rtol=1e-10)


def round_seed() -> int:
    return derive(settings(1).run.seed, 0, 1)


def test_dropout_draws_on_every_rank_and_repeats_itself() -> None:
    first, second = trained(2, Dropping()), trained(2, Dropping())
    assert np.isfinite(first[0][0]).all()
    assert len(first[0]) == len(second[0])  # threads share torch's generator; processes do not


def test_a_model_of_batch_norm_takes_no_part_of_one_sample() -> None:
    with pytest.raises(DataError, match=r"the last has one for a rank of train.ranks_per_silo = 2"):
        made(settings(2, train={"batch_size": 20}), Normed())  # the last has 3


def test_seconds_are_counted_by_the_first_rank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    main, clock = threading.current_thread(), itertools.count()

    def monotonic() -> float:
        return float(next(clock)) if threading.current_thread() is main else 1e9 * time.perf_counter()

    monkeypatch.setattr("silofl.training.local_batches.time", SimpleNamespace(monotonic=monotonic))
    for seconds in ({"seconds": 6.0}, {"seconds": 6.0, "steps": 4}, {"seconds": 3.0, "epochs": 3}):
        assert_equal(3, Curve(), train=seconds)


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
