"""Optimizers of a task's own: as in plain torch, bit for bit, and slips in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from silofl.config import TrainConfig
from silofl.errors import ConfigError, UserCodeError
from silofl.tasks.base import Optimizers, Task
from silofl.training.batches import Batches
from silofl.training.flat import FlatModel
from silofl.training.seeding import derive
from silofl.training.trainer import LocalTrainer
from tests.federation.own_scripts import Plain

Make = Callable[[nn.Module], Any]
CPU = torch.device("cpu")


class Scripted(Plain):
    def __init__(self, make: Make) -> None:
        super().__init__()
        self.optimizers = make


def trainer(make: Make, *, keep: bool) -> tuple[LocalTrainer, FlatModel, nn.Module]:
    torch.manual_seed(5)
    task: Task = Scripted(make)
    module = task.model()
    model = FlatModel(module, torch.float32, CPU)
    batches = Batches(task.data(0, 1)[0], torch.float32, CPU)
    config = TrainConfig(batch_size=16, keep_optimizer=keep)
    return LocalTrainer(task, model, batches, config, seed=0, silo=0), model, module


def groups(model: Any) -> torch.optim.Optimizer:
    weights = {"params": [model[0].weight, model[2].weight], "weight_decay": 0.1, "lr": 0.05}
    return torch.optim.AdamW([weights, {"params": [model[0].bias, model[2].bias]}], lr=0.01)


def over_steps(model: Any) -> Optimizers:
    optimizer = groups(model)
    cycle = lr_scheduler.OneCycleLR(optimizer, max_lr=[0.1, 0.02], total_steps=20)
    return Optimizers(optimizer, cycle, over="steps")


def over_rounds(model: Any) -> Any:
    first, second = torch.optim.SGD(model[0].parameters(), 0.1, 0.9), torch.optim.Adam(model[2].parameters())
    return [first, second], [lr_scheduler.StepLR(first, 1, 0.5), lr_scheduler.ExponentialLR(second, 0.9)]


def by_hand(make: Make, rounds: int, *, keep: bool) -> torch.Tensor:
    """The same in plain torch, whose schedulers go on from round to round."""
    task = Plain()
    torch.manual_seed(5)
    model = task.model()
    data = task.data(0, 1).train
    made: Any = make(model)
    if isinstance(made, Optimizers):
        optimizers, schedulers, steps = [made.optimizers], [made.schedulers], made.over == "steps"
    else:
        (optimizers, schedulers), steps = made, False
    for number in range(1, rounds + 1):
        if not keep:
            for one in optimizers:
                one.state.clear()  # type: ignore[union-attr]
        order = torch.randperm(40, generator=torch.Generator().manual_seed(derive(0, 0, number)))
        for indices in order.split(16):
            for one in optimizers:
                one.zero_grad()
            task.loss(model, data[indices]).backward()
            for one in optimizers:
                one.step()
            for one in schedulers if steps else ():
                one.step()
        for one in () if steps else schedulers:
            one.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def whole_and_restored(make: Make, *, keep: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The model after four rounds, and after the last two of them by a trainer that was restored."""
    first, model, _ = trainer(make, keep=keep)
    for number in (1, 2):
        first.fit(number)
    again, other, _ = trainer(make, keep=keep)
    again.load_state(deepcopy(first.optimizer.state()), {})
    other.vector.copy_(model.vector)
    for one in (first, again):
        for number in (3, 4):
            one.fit(number)
    return model.vector, other.vector


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("make", [over_steps, over_rounds])
def test_rounds_are_those_of_plain_torch_also_after_a_restore(make: Make, keep: bool) -> None:
    whole, restored = whole_and_restored(make, keep=keep)
    expected = by_hand(make, 4, keep=keep)
    assert torch.equal(whole, expected)
    assert torch.equal(restored, expected)


class Counting(torch.optim.SGD):
    """Whose groups have something of their own, as some optimizers have an estimate of the rate."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["taken"] = group.get("taken", 0) + 1
            group["lr"] = 0.1 / group["taken"]
        super().step(closure)


@pytest.mark.parametrize("keep", [False, True])
def test_what_groups_have_of_their_own_is_restored(keep: bool) -> None:
    def counting(model: nn.Module) -> torch.optim.Optimizer:
        return Counting(model.parameters(), lr=0.1)

    assert torch.equal(*whole_and_restored(counting, keep=keep))


def test_schedulers_over_rounds_go_by_the_number_of_the_round() -> None:
    one, *_ = trainer(over_rounds, keep=True)
    one.fit(4)  # the silo was away before
    optimizer: Any = one.optimizer.current
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == pytest.approx([0.1 / 8, 1e-3 * 0.9**3])


class Chosen(lr_scheduler.LRScheduler):
    def get_lr(self) -> list[float | torch.Tensor]:
        raise KeyError("a value of somebody's")


def of_another(model: Any) -> Any:
    return torch.optim.SGD([torch.zeros(2, requires_grad=True)], 0.1)


def sgd(model: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda model: None, "returned no optimizer"),
        (lambda model: 3, "returned a int: return a torch optimizer"),
        (lambda model: [sgd(model), "x"], "returned a str: return a torch optimizer"),
        (of_another, r"has a parameter (2,) that is no trained one of the model"),
        (lambda model: [sgd(model), sgd(model)], "has one parameter in two optimizers"),
        (lambda model: (sgd(model), 0.5), "has a float for a scheduler"),
        (lambda model: (sgd(model), lr_scheduler.StepLR(sgd(model), 1)), "a StepLR of another optimizer"),
        (
            lambda model: (one := sgd(model), lr_scheduler.ReduceLROnPlateau(one)),
            "has a ReduceLROnPlateau, which waits for a metric",
        ),
        (
            lambda model: Optimizers(sgd(model), over="epochs"),  # type: ignore[arg-type]
            "has schedulers over 'epochs'",
        ),
        (lambda model: torch.optim.LBFGS(model.parameters()), "has a LBFGS, which evaluates the loss"),
    ],
)
def test_what_is_no_optimizer_of_the_model_is_one_sentence(make: Make, sentence: str) -> None:
    one, *_ = trainer(make, keep=False)
    with pytest.raises(ConfigError) as error:
        one.fit(1)
    assert str(error.value).startswith("silo 0: the task's optimizers(model) ")
    assert sentence in str(error.value)


def test_a_scheduler_that_ends_too_soon_is_named_by_its_line() -> None:
    def make(model: Any) -> Optimizers:
        optimizer = sgd(model)
        return Optimizers(optimizer, lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4), over="steps")

    one, *_ = trainer(make, keep=False)
    one.fit(1)
    with pytest.raises(UserCodeError, match=r"the task's optimizers\(\) raised ValueError"):
        one.fit(2)
