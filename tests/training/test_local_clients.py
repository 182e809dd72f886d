"""Many clients in one silo: what they learn together is what each learns by itself, added up."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.errors import ConfigError, DataError, DivergedError, TrainingError
from silofl.federation.local_work import Fitted, RoundStart
from silofl.federation.silo import Silo
from silofl.federation.silo_clients import describe_clients
from silofl.strategies.registry import build
from silofl.tasks.base import SiloData
from silofl.training.clients import stacked_clients
from silofl.training.clients.client_draws import drawn_clients
from silofl.training.clients.client_split import ClientSplit, alike, unlike
from silofl.training.clients.local_clients import LocalClients
from silofl.training.trainer import FitResult

FEATURES, RECORDS = 3, 23
Array = NDArray[np.float64]


class Lines:
    """Linear regression of some records, of which the last column is the class of."""

    def hidden(self) -> nn.Module:
        return nn.Identity()

    def model(self) -> nn.Module:
        return nn.Sequential(self.hidden(), nn.Linear(FEATURES, 1, bias=False))

    def data(self, silo: int, silos: int) -> SiloData:
        rng = np.random.default_rng(silo)
        x = torch.from_numpy(rng.standard_normal((RECORDS, FEATURES)))
        y = torch.from_numpy(rng.integers(0, 4, RECORDS))
        return SiloData(TensorDataset(x, y), None, rng.integers(0, 6, RECORDS))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return ((model(batch[0]).squeeze(-1) - batch[1]) ** 2).mean()

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


class EachLine(Lines):
    """It tells the loss of every example, so that clients of unequal batches train together."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]).squeeze(-1) - batch[1]) ** 2


def silo_of(task: Any = None, **sections: Any) -> Silo:
    tables = {"train": {"dtype": "float64", "full_batch": True, "steps": 3, "lr": 0.1}, **sections}
    return Silo(configuration.parse(tables), task or EachLine(), 0, 1, "cpu")


def clients_in(silo: Silo) -> LocalClients:
    assert silo.clients is not None
    return silo.clients


def fit(silo: Silo, round_number: int = 1, strategy: str = "fedavg") -> Fitted:
    values = silo.initial()
    start = {"model": np.linspace(-1, 1, silo.model.trainable)}
    tables = {"strategy": {"name": strategy}}
    kind = build(configuration.parse(tables).strategy)
    return silo.fit(RoundStart(start, values[silo.model.trainable :], round_number, kind))


def update(silo: Silo, round_number: int = 1) -> Array:
    return fit(silo, round_number).contribution.vectors["update"].copy()


def naive(silo: Silo, clients: Any, *, steps: int, lr: float, by_samples: bool = True) -> Array:
    """The weighted mean of gradient descent on each client's own records, from the same values."""
    x, y = (one.numpy() for one in EachLine().data(0, 1).train.tensors)  # type: ignore[attr-defined]
    split, first = clients_in(silo)._split, np.linspace(-1, 1, FEATURES)
    changes, weights = [], []
    for client in clients:
        mine, values = split.records(client), first.copy()
        for _ in range(steps):
            values -= lr * 2 / len(mine) * x[mine].T @ (x[mine] @ values - y[mine])
        changes.append(values - first)
        weights.append(len(mine) if by_samples else 1)
    return np.average(changes, axis=0, weights=weights)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("task", "clients"),
    [
        (EachLine, {"per_silo": 5}),
        (Lines, {"per_silo": 5}),
        (EachLine, {"per_silo": 6, "split": "dirichlet", "alpha": 0.3, "per_round": 3}),
        (Lines, {"split": "owner", "per_round": 4}),
    ],
)
def test_the_update_is_the_weighted_mean_of_those_drawn(
    task: type[Lines], clients: dict[str, Any], batched: bool
) -> None:
    silo = silo_of(task(), clients=clients | {"batched": batched})
    assert (clients_in(silo).why_alone == "") == batched
    for number in (1, 2):
        drawn = clients_in(silo).drawn(number)
        assert np.abs(update(silo, number) - naive(silo, drawn, steps=3, lr=0.1)).max() < 1e-10


def test_clients_weigh_alike_where_silos_do() -> None:
    silo = silo_of(clients={"split": "owner"}, strategy={"name": "diloco"})
    found = fit(silo, strategy="diloco").contribution.vectors["update"]
    everyone = range(len(clients_in(silo)))
    expected = naive(silo, everyone, steps=3, lr=0.1, by_samples=False)
    assert np.allclose(np.abs(found), np.abs(expected), atol=1e-10)  # whichever sign the strategy takes


@pytest.mark.parametrize(
    "train",
    [
        {"epochs": 2, "batch_size": 2, "momentum": 0.9, "weight_decay": 0.1},
        {"epochs": 2, "batch_size": 2, "drop_last": True, "clip_norm": 2.0},
        {"steps": 5, "batch_size": 3, "optimizer": "Adam", "lr": 0.01},
        {"steps": 2, "full_batch": True, "schedule": "cosine"},
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("split", ["iid", "dirichlet"])
def test_together_and_by_themselves_clients_learn_the_same(train: dict[str, Any], split: str) -> None:
    def both(batched: bool) -> Fitted:
        clients = {"per_silo": 7, "split": split, "batched": batched}
        return fit(silo_of(clients=clients, train={"dtype": "float64"} | train), 3)

    together, alone = both(True), both(False)
    difference = together.contribution.vectors["update"] - alone.contribution.vectors["update"]
    assert np.abs(difference).max() < 1e-12
    assert together.loss == pytest.approx(alone.loss, rel=1e-12)
    assert together.steps == alone.steps


def test_one_client_is_the_silo_itself() -> None:
    one, whole = silo_of(clients={"per_silo": 1}), silo_of()
    assert np.abs(update(one) - update(whole)).max() < 1e-12


class Dropping(EachLine):
    def hidden(self) -> nn.Module:
        return nn.Dropout(0.5)


class Normalizing(EachLine):
    def hidden(self) -> nn.Module:
        return nn.BatchNorm1d(FEATURES)


class Lying(EachLine):
    """Its examples' losses are not those of which `loss` is the mean."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return 2 * super().losses(model, batch)


@pytest.mark.parametrize(
    ("task", "sections", "why"),
    [
        (Dropping, {}, "torch.func.vmap refuses the task (RuntimeError)"),
        (Normalizing, {}, "the model has buffers that training changes"),
        (Lying, {}, "the task gives clients that train together other numbers"),
        (EachLine, {"strategy": {"name": "fedprox"}}, "the strategy corrects each step's gradient"),
        (EachLine, {"train": {"optimizer": "Adafactor"}}, "Adafactor does not step each value by itself"),
        (EachLine, {"clients": {"per_silo": 5, "batched": False}}, "clients.batched is false"),
    ],
)
def test_what_cannot_be_together_is_one_after_the_other(
    task: type[EachLine], sections: dict[str, Any], why: str
) -> None:
    silo = silo_of(task(), **{"clients": {"per_silo": 5}, **sections})
    assert clients_in(silo).why_alone == why
    tables = {"clients": {"per_silo": 5, "per_round": 2}} | sections
    said = describe_clients(configuration.parse(tables), 2, silo.clients)
    assert said.endswith(f"they train one after the other: {why}")
    assert np.isfinite(fit(silo, strategy=tables.get("strategy", {"name": "fedavg"})["name"]).loss)


def test_buffers_are_the_mean_of_the_clients() -> None:
    silo = silo_of(Normalizing(), clients={"per_silo": 4})
    x = EachLine().data(0, 1).train.tensors[0].numpy()  # type: ignore[attr-defined]
    split = clients_in(silo)._split
    parts = [x[split.records(client)].mean(0) for client in range(4)]
    mean = np.average(parts, axis=0, weights=split.sizes) * (1 - 0.9**3)
    found = fit(silo).contribution.vectors["buffers"]
    assert np.abs(found[:FEATURES] - mean).max() < 1e-10


def test_so_many_are_together_as_memory_is_bounded_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many clients there are; and the same comes out."""
    whole = update(silo_of(clients={"per_silo": 11}))
    monkeypatch.setattr(stacked_clients, "MOST_VALUES", 4 * FEATURES)
    most: list[int] = []
    learnt = stacked_clients.StackedClients.learnt

    def noted(self: Any, jobs: Any, *given: Any, **named: Any) -> Any:
        most.append(len(jobs))
        return learnt(self, jobs, *given, **named)

    monkeypatch.setattr(stacked_clients.StackedClients, "learnt", noted)
    assert np.abs(update(silo_of(clients={"per_silo": 11})) - whole).max() < 1e-12
    assert max(most) == 4
    assert sum(most) == 11 + 4  # and some that are tried


def test_a_draw_is_a_function_of_seed_silo_and_round() -> None:
    everyone = np.arange(50)
    draws = [drawn_clients(1, 2, number, everyone, 10) for number in range(1, 400)]
    assert all(len(set(one.tolist())) == 10 and (np.diff(one) > 0).all() for one in draws)
    times = Counter(client for one in draws for client in one.tolist())
    assert max(abs(times[client] / 399 - 0.2) for client in range(50)) < 0.07
    assert draws[5].tolist() == drawn_clients(1, 2, 6, everyone, 10).tolist()
    assert draws[5].tolist() != drawn_clients(1, 3, 6, everyone, 10).tolist()
    assert drawn_clients(1, 2, 1, everyone, None).tolist() == everyone.tolist()
    assert drawn_clients(7, 0, 1, everyone, 5).tolist() == PINNED  # another version resumes with the same


PINNED = [1, 14, 20, 36, 39]


def test_whose_a_record_is_depends_on_its_own_place_and_class() -> None:
    """More records at the end change nobody's, and other classes of some change those alone."""
    whose = alike(103, 10, 5)
    assert np.ptp(np.bincount(whose)) == 1
    assert (alike(57, 10, 5) == whose[:57]).all()
    labels = np.random.default_rng(0).integers(0, 4, 103)
    skewed = unlike(labels, 10, 0.2, 5)
    assert (unlike(np.append(labels[:57], 3), 10, 0.2, 5)[:57] == skewed[:57]).all()
    others = labels.copy()
    others[:5] = (others[:5] + 1) % 4
    assert (unlike(others, 10, 0.2, 5)[5:] == skewed[5:]).all()
    split = ClientSplit(skewed, 10)
    assert sorted(record for client in range(10) for record in split.records(client)) == list(range(103))
    assert all((skewed[split.records(client)] == client).all() for client in range(10))


class Unclassed(EachLine):
    def data(self, silo: int, silos: int) -> SiloData:
        x, y = super().data(silo, silos).train.tensors  # type: ignore[attr-defined]
        return SiloData(TensorDataset(x, y.double()))


@pytest.mark.parametrize(
    ("task", "clients", "kind", "said"),
    [
        (EachLine, {"per_silo": 24}, ConfigError, "more than the training records of silo 0"),
        (Unclassed, {"split": "owner"}, ConfigError, "set data.owner_column for files, or return SiloData"),
        (EachLine, {"split": "owner", "per_round": 7}, ConfigError, "more than the persons that silo 0 has"),
        (Unclassed, {"per_silo": 3, "split": "dirichlet"}, DataError, 'or set clients.split = "iid"'),
    ],
)
def test_data_that_has_no_such_clients_is_refused(
    task: type[EachLine], clients: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        silo_of(task(), clients=clients)


class Exploding(EachLine):
    """Client 2's losses are not finite."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        found = super().losses(model, batch)
        return found * torch.where(batch[0][:, 0].abs() > 50, torch.inf, 1.0)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.losses(model, batch).mean()

    def data(self, silo: int, silos: int) -> SiloData:
        x, y = super().data(silo, silos).train.tensors  # type: ignore[attr-defined]
        whose = np.arange(RECORDS) % 5
        x[whose == 2, 0] = 100.0
        return SiloData(TensorDataset(x, y), None, whose)


@pytest.mark.parametrize("batched", [True, False])
def test_a_client_that_diverges_is_told_of_or_counts_as_zero(batched: bool) -> None:
    silo = silo_of(Exploding(), clients={"split": "owner", "batched": batched})
    with pytest.raises(DivergedError, match="silo 0, round 1: "):
        fit(silo)
    total, result, refused = summed(silo, [1, 2, 4])
    without, _, none = summed(silo, [1, 4])
    assert (refused, none) == (1, 0)
    assert (total == without).all()
    assert np.isfinite(total).all()
    assert not np.isfinite(result.loss)


def summed(silo: Silo, clients: list[int], norm: float = 0.3) -> tuple[Array, FitResult, int]:
    silo.model.load_parts(np.linspace(-1, 1, silo.model.trainable), np.empty(0))
    return clients_in(silo).clipped_sum(np.array(clients, np.int64), 1, None, norm)  # type: ignore[return-value]


def test_a_client_moves_a_clipped_sum_by_the_norm_at_most() -> None:
    """And by its own update, whoever else is drawn."""
    clients = {"per_silo": 6}
    privacy = {"unit": "client", "noise_multiplier": 1.0, "place": "central", "sample_rate": 0.5}
    silo = silo_of(clients=clients, privacy=privacy)
    alone = {one: summed(silo, [one])[0] for one in range(6)}
    norms = {one: float(np.linalg.norm(alone[one])) for one in alone}
    assert max(norms.values()) <= 0.3
    for one in range(6):
        change = naive(silo, [one], steps=3, lr=0.1)
        assert np.allclose(alone[one], change * min(1, 0.3 / np.linalg.norm(change)), rtol=1e-6)
    assert np.allclose(summed(silo, [0, 2, 3, 5])[0], sum(alone[one] for one in (0, 2, 3, 5)), rtol=1e-12)
    assert not summed(silo, [])[0].any()


class Remembering(EachLine):
    """A model that is told, by an attribute of its own, how many batches it has seen."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = 0.0

        def forward(self, x: Tensor) -> Tensor:
            self.seen += float(len(x)) if self.training else 0.0
            return x * (1 + self.seen)

    def model(self) -> nn.Module:
        return nn.Sequential(self.Counting(), nn.Linear(FEATURES, 1, bias=False))


def test_nothing_of_one_client_is_there_for_the_next_where_clients_are_protected() -> None:
    privacy = {"unit": "client", "noise_multiplier": 1.0, "place": "central", "sample_rate": 0.5}
    silo = silo_of(Remembering(), clients={"per_silo": 6, "batched": False}, privacy=privacy)
    first = summed(silo, [3])[0]
    both = summed(silo, [1, 3])[0]
    assert np.allclose(both - summed(silo, [1])[0], first, rtol=1e-12)


@pytest.mark.parametrize("method", ["fit", "optimizers"])
def test_a_loop_or_optimizers_of_a_whole_silo_are_refused(method: str) -> None:
    task = EachLine()
    setattr(task, method, lambda *given: None)
    with pytest.raises(ConfigError, match=r"which is of a whole silo, and \[clients\] has each client train"):
        silo_of(task, clients={"per_silo": 3}, train={})


def test_training_may_not_change_what_has_to_stay() -> None:
    class Freezing(EachLine):
        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            with torch.no_grad():
                model[0].fixed.add_(1)  # type: ignore[index, union-attr]
            return super().loss(model, batch)

        def model(self) -> nn.Module:
            fixed = nn.Identity()
            fixed.register_parameter("fixed", nn.Parameter(torch.zeros(1), requires_grad=False))
            return nn.Sequential(fixed, nn.Linear(FEATURES, 1, bias=False))

        losses = None  # type: ignore[assignment]

    silo = silo_of(Freezing(), clients={"per_silo": 3, "batched": False})
    with pytest.raises(TrainingError, match="silo 0, round 1"):
        fit(silo)
