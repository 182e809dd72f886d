"""A trial before round 1 finds what cannot work, and leaves nothing behind."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.errors import ConfigError, DataError, SiloflError, UserCodeError
from silofl.federation.silo import Silo


class Plain:
    """Two classes of eight features."""

    samples = 33

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))

    def data(self, silo: int, silos: int) -> Any:
        data = TensorDataset(torch.randn(self.samples, 8), torch.arange(self.samples) % 2)
        return data, data

    def loss(self, model: nn.Module, batch: Any) -> Any:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> Any:
        return {}


class Tokens(Plain):
    """An embedding with sparse gradients, through which all else is reached."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(8, 5, sparse=True), nn.Linear(5, 2))

    def data(self, silo: int, silos: int) -> Any:
        data = TensorDataset(torch.arange(240).view(40, 6) % 8, torch.arange(40) % 2)
        return data, data


def silo(task: Any, strategy: str = "fedavg", **train: Any) -> Silo:
    tables = {"train": {"batch_size": 16} | train, "strategy": {"name": strategy}}
    return Silo(configuration.parse(tables), task, 1, 3, "cpu")


def told(task: Any, kind: type[SiloflError] = DataError, **train: Any) -> str:
    with pytest.raises(kind) as caught:
        silo(task, **train)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_nothing_of_a_trial_stays() -> None:
    class Counting(Plain):
        calls = 0

        def loss(self, model: nn.Module, batch: Any) -> Any:
            Counting.calls += 1
            assert len(batch[1]) <= 16
            return super().loss(model, batch)

    from silofl.training.seeding import INITIAL_MODEL, derive, seed_everything

    seed_everything(derive(0, INITIAL_MODEL, 0))
    expected = Plain().model()
    one = silo(Counting(), drop_last=True, lr=1.0)
    assert Counting.calls == 2  # a step, and an evaluation
    for name, value in expected.state_dict().items():
        assert torch.equal(one.model.module.state_dict()[name], value), name
    assert all(p.grad is None for p in one.model.module.parameters())
    assert one.trainer.optimizer.state() == {}


class InPlace(Plain):
    """A model that begins in place, as many do: on samples that are used again it would add up."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.LeakyReLU(0.5, inplace=True), nn.Linear(8, 2))


@pytest.mark.parametrize("task", [InPlace, Plain])
def test_all_samples_stay_what_they_are_where_a_model_works_in_place(task: type[Plain]) -> None:
    one = silo(task(), full_batch=True, steps=3)
    before = one.train.take(torch.arange(33))[0]
    one.trainer.fit(1)
    assert torch.equal(one.train.take(torch.arange(33))[0], before)
    first, second = one.train.all()[0], one.train.all()[0]
    copied = first.data_ptr() != second.data_ptr()
    assert copied == (task is InPlace)


class Rebuilt(nn.Module):
    """A layer that a forward pass normalizes the weights of, once."""

    def __init__(self, *, hooks: str = "") -> None:
        super().__init__()
        self.layer, self.hooks, self.installed = nn.Linear(8, 2), hooks, False

    def forward(self, x: Tensor) -> Tensor:
        if self.hooks == "forward":
            self.layer.register_forward_hook(lambda module, given, made: 2 * made)
        elif self.hooks == "gradient":
            self.layer.weight.register_hook(lambda gradient: 2 * gradient)
        elif self.hooks == "once":
            if not self.installed:
                self.layer.register_forward_hook(lambda module, given, made: 2 * made)
            self.installed = True
        elif self.hooks == "removed":
            handle = self.layer.register_forward_hook(lambda module, given, made: 2 * made)
            made = self.layer(x)
            handle.remove()
            return made
        elif not nn.utils.parametrize.is_parametrized(self.layer):
            nn.utils.parametrizations.weight_norm(self.layer)
        return self.layer(x)


def of_model(model: Any) -> Any:
    return type("Of", (Plain,), {"samples": 32, "model": lambda task: model})()


def test_a_layer_that_a_forward_pass_rebuilds_is_as_it_was_and_told_in_round_1() -> None:
    model = Rebuilt()
    one = silo(of_model(model))
    assert type(model.layer) is nn.Linear
    assert sorted(model.state_dict()) == ["layer.bias", "layer.weight"]
    one.trainer.fit(1)
    with pytest.raises(
        SiloflError, match=r"local training removed parameter layer\.weight, which is shared: keep"
    ):
        one.model.check()


@pytest.mark.parametrize(("kind", "table"), [("forward", "forward_hooks"), ("gradient", "backward_hooks")])
def test_a_hook_that_a_step_adds_is_refused_and_taken_away(kind: str, table: str) -> None:
    model = Rebuilt(hooks=kind)
    place = "layer" if kind == "forward" else "layer.weight"
    assert told(of_model(model)).startswith(f"silo 1: every training step adds a hook to {place} ({table})")
    assert not model.layer._forward_hooks
    assert not model.layer.weight._backward_hooks
    silo(of_model(Rebuilt(hooks="removed")))


def test_hooks_that_a_first_pass_adds_once_stay_with_the_model() -> None:
    """Hugging Face's models capture outputs by such hooks, and remember that they have them."""
    model = Rebuilt(hooks="once")
    one = silo(of_model(model))
    one.trainer.fit(1)
    assert len(model.layer._forward_hooks) == 1


def test_what_raises_only_without_gradients_is_said_to_be_in_evaluation() -> None:
    class Hooked(Plain):
        def loss(self, model: nn.Module, batch: Any) -> Any:
            logits = model(batch[0])
            logits.register_hook(lambda gradient: 2 * gradient)
            return nn.functional.cross_entropy(logits, batch[1])

    sentence = told(Hooked(), UserCodeError, drop_last=True)
    assert "in loss, in evaluation, under torch.no_grad()" in sentence


def test_a_pass_that_evaluates_reports_the_loss() -> None:
    class OnePass(Plain):
        samples = 32

        def evaluate(self, model: nn.Module, batch: Any) -> Any:
            return {"accuracy": 1.0}

    assert told(OnePass()).startswith('silo 1: the task\'s evaluate(model, batch) returned no "loss": return')


def test_a_last_batch_of_one_is_told_with_the_key_that_helps() -> None:
    assert told(Plain()) == (
        "silo 1: of 33 samples in batches of train.batch_size = 16 the last has one, which the model's "
        "normalization 1 cannot train on: set train.drop_last = true, or another train.batch_size"
    )
    silo(Plain(), drop_last=True)
    silo(Plain(), batch_size=15)
    silo(Plain(), full_batch=True)
    single = type("Single", (Plain,), {"samples": 1})
    assert "of 1 samples in batches of train.batch_size = 16 the last has one" in told(
        single(), drop_last=True
    )

    class Squeezed(Plain):  # whose loss forgets that a batch may have one sample
        def model(self) -> nn.Module:
            return nn.Linear(8, 2)

        def loss(self, model: nn.Module, batch: Any) -> Any:
            return nn.functional.cross_entropy(model(batch[0]).squeeze(), batch[1])

    assert "the last has one: set train.drop_last = true" in told(Squeezed(), UserCodeError)

    class Images(Plain):  # whose normalization has many values of each channel in one sample
        def model(self) -> nn.Module:
            pixels = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.BatchNorm2d(2), nn.Flatten())
            return nn.Sequential(pixels, nn.Linear(8, 2))

    silo(Images())


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda value: {"classifier": value}, "a dict: return one tensor, such as the sum of its parts"),
        (lambda value: {"loss": value}, "a dict, which is all that the model gives: return its loss alone"),
        (lambda value: UserDict(loss=value), "a UserDict, which is all that the model gives"),
        (lambda value: [value], "a list: return one tensor"),
        (lambda value: value.item(), "a float: return a tensor made of the model's output, without item()"),
        (lambda value: value.detach().numpy(), "a ndarray: return a tensor made of the model's output"),
        (lambda value: nn.MSELoss, "a type: call it with the model's output, and return what it gives"),
        (lambda value: nn.MSELoss(), "a MSELoss: call it with the model's output"),
        (lambda value: value.to("meta"), "a tensor on the device meta, which has no value"),
        (lambda value: None, "None: return a tensor; a model that makes its own loss makes none of a batch"),
        (lambda value: value.repeat(4), r"a tensor of shape (4,): return its mean()"),
        (lambda value: value.detach(), "a tensor that does not depend on a trained parameter"),
        (lambda value: value.detach().long(), "a tensor of torch.int64: return a floating-point tensor"),
    ],
)
def test_a_loss_that_is_no_scalar_is_told_before_round_1(loss: Any, sentence: str) -> None:
    class Other(Plain):
        def loss(self, model: nn.Module, batch: Any) -> Any:
            return loss(super().loss(model, batch))

    begins = "silo 1: the task's loss(model, batch) returned "
    assert told(Other(), drop_last=True).startswith(begins + sentence)


def test_a_loss_of_one_value_is_a_scalar() -> None:
    class One(Plain):
        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            value: Tensor = super().loss(model, batch)
            return value.reshape(1, 1)

    one = silo(One(), drop_last=True)
    assert one.trainer.fit(1).steps == 2


def test_sparse_gradients_and_what_takes_none_of_them() -> None:
    silo(Tokens())
    silo(Tokens(), momentum=0.9)
    silo(Tokens(), optimizer="Adagrad")
    assert told(Tokens(), ConfigError, clip_norm=1.0) == (
        "train.clip_norm = 1.0 does not go with the sparse gradients of 0.weight: remove it, or build its "
        "layer with sparse=False"
    )
    decay = told(Tokens(), ConfigError, weight_decay=0.1)
    assert "train.weight_decay = 0.1 takes no step on this model with the sparse gradients of 0.wei" in decay
    assert "remove train.weight_decay, or build its layer with sparse=False" in decay
    assert "train.optimizer = 'Adam' takes no step" in told(Tokens(), ConfigError, optimizer="Adam")
    dense = told(Plain(), ConfigError, optimizer="SparseAdam", drop_last=True)
    assert "train.optimizer = 'SparseAdam' takes no step on this model (" in dense
    for strategy in ("scaffold", "fedprox", "fedsgd"):  # whose gradients are dense
        silo(Tokens(), strategy, clip_norm=1.0)


def test_an_error_in_a_metric_is_told_before_round_1() -> None:
    class Broken(Plain):
        def metrics(self, model: nn.Module, batch: Any) -> Any:
            return {"m": {}[int(batch[1][0])]}

    text = told(Broken(), UserCodeError, drop_last=True)
    assert text.startswith("silo 1: the task's metrics() raised KeyError at test_trial.py:")
    assert text.endswith("in metrics, in evaluation, under torch.no_grad()")


def test_evaluation_takes_no_more_samples_at_once_than_it_is_told() -> None:
    class Seen(Plain):
        samples = 40

        def __init__(self) -> None:
            self.sizes: list[int] = []

        def evaluate(self, model: nn.Module, batch: Any) -> Any:
            self.sizes.append(len(batch[1]))
            return {"loss": 1.0}

    for options, sizes in (
        ({}, [16, 16, 8]),
        ({"eval_batch_size": 30}, [30, 10]),
        ({"batch_size": 3}, [3] * 13 + [1]),
    ):
        task = Seen()
        one = silo(task, drop_last=True, **options)
        task.sizes.clear()
        assert one.evaluate(one.initial()).count == 40
        assert task.sizes == sizes


def test_gradients_that_a_task_turns_off_are_on_in_training() -> None:
    class Frugal(Plain):
        samples = 32

        def data(self, silo: int, silos: int) -> Any:
            torch.set_grad_enabled(False)  # for features that a network makes of images
            return super().data(silo, silos)

    one = silo(Frugal())
    assert torch.is_grad_enabled()
    before = one.model.vector.clone()
    one.trainer.fit(1)
    assert not torch.equal(before, one.model.vector)


def test_a_batch_of_which_a_loss_takes_something_out_is_whole_for_the_metrics() -> None:
    """As `labels = inputs.pop("labels")`, which losses for Hugging Face's models begin with."""

    class Popping(Plain):
        samples = 32
        seen = 0

        def collate(self, samples: Any) -> Any:
            x, y = zip(*samples, strict=True)
            return UserDict(x=torch.stack(x), y=torch.stack(y))

        def loss(self, model: nn.Module, batch: Any) -> Any:
            y = batch.pop("y")
            return nn.functional.cross_entropy(model(batch["x"]), y)

        def metrics(self, model: nn.Module, batch: Any) -> Any:
            self.seen += len(batch["y"])
            return {}

    task = Popping()
    one = silo(task)
    one.evaluate(one.initial())
    assert task.seen == 32


class Moody(nn.Linear):
    """Takes no word for one of the two modes."""

    refuses = True

    def train(self, mode: bool = True) -> Any:
        if mode == self.refuses:
            raise TypeError("takes 1 positional argument but 2 were given")
        return super().train(mode)


@pytest.mark.parametrize(("mode", "word"), [(True, "training"), (False, "evaluation")])
def test_a_layer_that_cannot_be_put_into_a_mode_is_the_tasks(mode: bool, word: str) -> None:
    layer = type("Layer", (Moody,), {"refuses": mode})(8, 2)
    sentence = told(of_model(nn.Sequential(layer)), UserCodeError)
    assert sentence.startswith("silo 1: the task's model() raised TypeError at test_trial.py:")
    assert f"in train, as torch put it into {word} mode" in sentence
