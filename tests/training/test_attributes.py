"""State in attributes of a model, a task or a data set: kept, told, and refused where it has no noise."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from silofl import config as configuration
from silofl.errors import TrainingError
from silofl.federation.local_work import RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.fedavg import FedAvg
from silofl.training.attributes import LARGEST, Attributes


class Holder(nn.Module):
    """A module with one attribute, `kept`."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.kept = kept


def drawn(generator: Any) -> float:
    """The next number of a generator of any library."""
    if isinstance(generator, torch.Generator):
        return float(torch.rand((), generator=generator))
    return float(generator.random() if hasattr(generator, "random") else generator.random_sample())


CHANGES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "truth value": (False, lambda value: True),
    "count": (3, lambda value: value + 1),
    "number": (0.5, lambda value: value / 3),
    "number of NumPy": (np.float32(0.5), lambda value: np.float32(value / 3)),
    "tensor in place": (torch.ones(2, 3), lambda value: value.mul_(2)),
    "another tensor": (torch.ones(2, 3).t(), lambda value: value + 1),
    "longer tensor": (torch.ones(2), lambda value: torch.ones(5)),
    "complex tensor": (torch.ones(2, dtype=torch.complex64), lambda value: value.mul_(1j)),
    "half tensor": (torch.ones(2, dtype=torch.bfloat16), lambda value: value.mul_(1.5)),
    "array": (np.arange(4), lambda value: value + 1),
    "array in place": (np.arange(4), lambda value: np.add(value, 1, out=value)),
    "nothing": (None, lambda value: torch.ones(2)),
    "no more": (torch.ones(2), lambda value: None),
    "of torch": (torch.Generator().manual_seed(3), lambda value: (drawn(value), value)[1]),
    "of NumPy": (np.random.default_rng(3), lambda value: (drawn(value), value)[1]),
    "old of NumPy": (np.random.RandomState(3), lambda value: (drawn(value), value)[1]),
    "of Python": (random.Random(3), lambda value: (drawn(value), value)[1]),
}


def shown(value: Any) -> Any:
    """What tells two values of an attribute apart; of a generator its next number, drawn of a copy."""
    if isinstance(value, torch.Generator):
        return drawn(torch.Generator().set_state(value.get_state()))
    if isinstance(value, (np.random.Generator, np.random.RandomState, random.Random)):
        return drawn(copy.deepcopy(value))
    if isinstance(value, Tensor):
        return value.dtype, value.tolist()
    return type(value), value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("place", ["model", "task"])
def test_what_changed_is_kept_and_what_it_was_comes_back(name: str, place: str) -> None:
    def built() -> tuple[Holder, Attributes]:
        first = CHANGES[name][0]
        value = (
            torch.Generator().manual_seed(3) if isinstance(first, torch.Generator) else copy.deepcopy(first)
        )
        holder = Holder(value)
        wrapped = nn.Sequential(nn.Identity(), holder) if place == "model" else nn.Identity()
        return holder, Attributes(wrapped, **({} if place == "model" else {"task": holder}))

    holder, attributes = built()
    begun = shown(holder.kept)
    assert attributes.state() == {}
    holder.kept = CHANGES[name][1](holder.kept)
    later, state = shown(holder.kept), attributes.state()
    assert len(state) == 1
    assert later != begun
    attributes.load({})
    assert shown(holder.kept) == begun
    other, resumed = built()
    resumed.load(state)
    assert shown(other.kept) == later


def test_what_appears_goes_and_what_is_large_or_the_modules_own_is_not_kept() -> None:
    holder = Holder(torch.zeros(LARGEST + 1))
    attributes = Attributes(holder)
    holder.seen = 1  # type: ignore[assignment]
    holder.kept += 1
    holder.eval()
    assert list(attributes.state()) == ["int:model.seen"]
    attributes.load({})
    assert not hasattr(holder, "seen")
    attributes.load({"int:model.seen": np.array(4)})
    assert holder.seen == 4


def test_what_is_computed_once_has_not_moved() -> None:
    holder = Holder(None)
    attributes = Attributes(holder)
    holder.kept = torch.ones(3)
    assert attributes.moved() == []
    attributes.note()
    assert attributes.moved() == []
    holder.kept = torch.zeros(3)
    assert attributes.moved() == ["kept"]


def test_samples_are_not_kept() -> None:
    holder = Holder(np.ones(3))
    attributes = Attributes(nn.Identity(), train=holder)
    holder.kept += 1
    holder.reads = 2  # type: ignore[assignment]
    assert list(attributes.state()) == ["int:train.reads"]


class Collator:
    """An object of a library: it makes its generator late and knows by its process that it did."""

    def __init__(self) -> None:
        self.rng: Any = None
        self.made_by_pid: int | None = None
        self.buffer, self.place, self.file = np.zeros(3), 0, None

    def draw(self, make: Callable[[], Any]) -> float:
        if self.rng is None or self.made_by_pid != os.getpid():
            self.rng, self.made_by_pid = make(), os.getpid()
        self.place, self.file = self.place + 1, 3  # type: ignore[assignment]
        return drawn(self.rng)


MAKERS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.Generator().manual_seed(3),
    "NumPy": lambda: np.random.default_rng(3),
    "old NumPy": lambda: np.random.RandomState(3),
    "Python": lambda: random.Random(3),
    "Philox": lambda: np.random.Generator(np.random.Philox(3)),
}


@pytest.mark.covering(1)
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("owner", ["task", "train"])
def test_generators_of_a_tasks_own_objects_go_on_in_another_process(
    owner: str, depth: int, make: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built() -> tuple[Collator, Attributes]:
        collator = Collator()
        held: Any = collator
        for _ in range(depth):
            held = SimpleNamespace(part=held)
        return collator, Attributes(nn.Identity(), **{owner: held})

    collator, attributes = built()
    first = collator.draw(MAKERS[make])
    attributes.load({})
    assert (collator.rng, collator.made_by_pid) == (None, None)
    assert (collator.place, collator.file) == (1, 3)  # which may belong to what is not kept
    assert collator.draw(MAKERS[make]) == first
    state = attributes.state()
    later = [collator.draw(MAKERS[make]) for _ in range(3)]
    monkeypatch.setattr(os, "getpid", lambda: 1)
    other, resumed = built()
    resumed.load(state)
    assert [other.draw(MAKERS[make]) for _ in range(3)] == later


class Means(nn.Module):
    """A running mean that is no buffer; with `late` it appears in the second forward pass."""

    def __init__(self, *, late: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)
        self.mean: Tensor | None = None if late else torch.zeros(6)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            now = x.detach().mean(0)
            self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
        return self.linear(x if self.mean is None else x - self.mean.to(x.dtype))  # type: ignore[no-any-return]


class Noisy(Dataset[Any]):
    """Samples with noise from a generator of the data set's own."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(1)

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        x = torch.from_numpy(self.random.standard_normal(6)).float()
        return x + index % 2, index % 2


class Stateful:
    """All the state that an ordinary task may have."""

    late = False

    def __init__(self) -> None:
        self.calls, self.random = 0, torch.Generator().manual_seed(5)

    def model(self) -> nn.Module:
        return Means(late=self.late)

    def data(self, silo: int, silos: int) -> Any:
        return Subset(Noisy(), range(30)), None

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.calls += 1
        x = batch[0] + 0.1 * torch.rand(batch[0].shape, generator=self.random)
        return nn.functional.cross_entropy(model(x), batch[1]) * (1 + self.calls)

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def metrics(self, model: nn.Module, batch: Any) -> Any:
        return {}


def silo(task: Any = None, **sections: Any) -> Silo:
    return Silo(configuration.parse(sections), task or Stateful(), 0, 3, "cpu")


def trained(one: Silo, number: int) -> bytes:
    start = RoundStart({"model": one.initial()}, np.empty(0, np.float32), number, FedAvg())
    begun = one.initial()
    update = one.fit(start).contribution.vectors["update"].tobytes()
    one.model.load(begun)
    return update


def test_a_resumed_silo_trains_on_as_if_it_had_never_stopped() -> None:
    first, second = silo(), silo()
    trained(first, 1)
    state = copy.deepcopy(first.state())
    assert {key.partition(":")[2] for key in state["attributes"]} == {
        "model.mean",
        "task.calls",
        "task.random",
        "train.dataset.random",
    }
    second.restore(state)
    assert trained(first, 2) == trained(second, 2)
    assert trained(silo(), 2) != trained(second, 2)


class Shadowed(Stateful):
    """Means of weights by name, and a count, in dicts: as exponential moving averages are mostly written."""

    def __init__(self) -> None:
        super().__init__()
        self.shadow: dict[str, Tensor] = {}
        self.counts = {"steps": 0}

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.counts["steps"] += model.training
        for name, weight in model.named_parameters():
            self.shadow[name] = 0.5 * (self.shadow.get(name, weight) + weight).detach()
        return super().loss(model, batch) / (1 + self.counts["steps"] + self.shadow["linear.bias"].norm())


def test_what_is_by_name_in_a_dict_is_resumed_too() -> None:
    first, task, fresh = silo(Shadowed()), Shadowed(), Shadowed()
    second = silo(task)
    assert (task.shadow, task.counts) == ({}, {"steps": 0})  # as before the trial
    trained(first, 1)
    second.restore(copy.deepcopy(first.state()))
    assert sorted(task.shadow) == ["linear.bias", "linear.weight"]
    assert task.counts["steps"] > 0
    assert trained(first, 2) == trained(second, 2) != trained(silo(fresh), 2)


def test_dicts_of_samples_are_not_kept() -> None:
    task = SimpleNamespace(large={}, other={3: 0}, many={})
    attributes = Attributes(nn.Identity(), task=task, train=SimpleNamespace(cache={}))
    task.large["a"] = torch.zeros(LARGEST + 1)
    task.other[3] = 1
    task.many |= {str(k): k for k in range(2000)}
    attributes._others["train"].cache["a"] = 1.0
    assert attributes.state() == {}


def test_a_trial_leaves_them_as_they_were_and_tells_of_what_is_no_buffer() -> None:
    task = Stateful()
    one = silo(task)
    assert task.calls == 0
    assert not one.model.module.mean.any()
    assert one.notices() == [
        "training changes mean of the model, an attribute that is no buffer: each silo has its own, and "
        "model.safetensors lacks it; register_buffer() would share it"
    ]


PRIVATE = {
    "privacy": {"unit": "example", "noise_multiplier": 1.0, "clipping": "ghost"},
    "strategy": {"name": "fedsgd"},
}


def test_where_single_examples_are_protected_nothing_is_remembered_of_earlier_ones() -> None:
    with pytest.raises(TrainingError, match="silo 0: local training changed mean, an attribute of the model"):
        silo(**PRIVATE)


def test_what_appears_and_is_then_changed_is_refused_in_the_next_round() -> None:
    class Late(Stateful):
        late = True

    one = silo(Late(), **PRIVATE)
    one.model.module.mean = torch.ones(6)
    one.refuse_moved()
    one.model.module.mean = torch.zeros(6)
    with pytest.raises(TrainingError, match="changed mean, an attribute"):
        one.refuse_moved()
