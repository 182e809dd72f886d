"""Models in which examples of a batch meet are refused, whatever randomness hides it; others train on."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from silofl.errors import ConfigError
from silofl.training import apart
from silofl.training.batches import Batches
from silofl.training.clipped import ClippedGradients
from silofl.training.flat import FlatModel
from silofl.training.per_example import Clipping
from tests.campaigns import mostly_long

MODES: tuple[Clipping, ...] = ("ghost", "hooks", "functorch")
CPU = torch.device("cpu")
SAMPLES = 40


class Apart(nn.Module):
    """Rows stay apart; what `meet` does to hidden values is for others to say."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.first, self.last, self.drop = nn.Linear(6, 16), nn.Linear(16, 3), nn.Dropout(dropout)

    def meet(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.drop(torch.relu(self.meet(self.first(x)))))
        return out


class Mean(Apart):
    def meet(self, hidden: Tensor) -> Tensor:
        return hidden - hidden.mean(0, keepdim=True)


class Largest(Apart):
    def meet(self, hidden: Tensor) -> Tensor:
        return hidden / hidden.abs().max()


class Neighbour(Apart):
    """Each row sees the one before it."""

    def meet(self, hidden: Tensor) -> Tensor:
        return hidden + 0.1 * hidden.roll(1, 0).detach()


class MeanOfMany(Apart):
    """As of batches that are large enough for it."""

    def meet(self, hidden: Tensor) -> Tensor:
        return hidden - hidden.mean(0, keepdim=True) if len(hidden) > 8 else hidden


class LargestFarOut(Apart):
    """Met by nobody as long as all samples are alike."""

    def meet(self, hidden: Tensor) -> Tensor:
        return hidden / (hidden.abs().max() / 100).clamp(min=1)


class MeanInEvaluation(Apart):
    """What dropout could hide in training shows where there is none."""

    def meet(self, hidden: Tensor) -> Tensor:
        return hidden if self.training else hidden - hidden.mean(0, keepdim=True)


class Task:
    """Cross entropy, with a weight that a subclass may take from the whole batch."""

    def weight(self, y: Tensor) -> Tensor | float:
        return 1.0

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none") * self.weight(batch[1])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.losses(model, batch).mean()


class Largest8(Task):
    """Mining of hard examples: those with the largest losses count."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        losses = super().losses(model, batch)
        return losses * torch.zeros_like(losses).index_fill(0, losses.topk(min(8, len(losses))).indices, 1.0)


class AllFinite(Task):
    """A step is left out where something is not finite."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        losses = super().losses(model, batch)
        return losses if bool(losses.isfinite().all()) else losses.nan_to_num() * 0


class Balanced(Task):
    """Classes weigh by how often the batch has them."""

    def weight(self, y: Tensor) -> Tensor:
        return 1.0 / torch.bincount(y, minlength=3)[y]


def samples() -> TensorDataset:
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(SAMPLES, 6)), dtype=torch.float32)
    return TensorDataset(x, torch.tensor(rng.integers(0, 3, SAMPLES)))


def clipped(
    model: nn.Module, mode: Clipping, data: Any = None, task: Any = None
) -> tuple[ClippedGradients, FlatModel]:
    flat = FlatModel(model, torch.float32, CPU)
    batches = Batches(samples() if data is None else data, torch.float32, CPU)
    return ClippedGradients(task or Task(), flat, batches, clip_norm=0.1, clipping=mode, silo=2), flat


@pytest.mark.covering(1)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", [Mean, MeanOfMany, Largest, LargestFarOut, Neighbour, MeanInEvaluation])
def test_models_in_which_examples_meet_are_refused(kind: type[Apart], dropout: float, mode: Clipping) -> None:
    torch.manual_seed(0)
    one, _ = clipped(kind(dropout), mode)
    with pytest.raises(ConfigError, match=r"silo 2: \[privacy\]"):
        one.sum(np.arange(20))


@pytest.mark.covering(1)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_models_in_which_they_do_not_pass_and_leave_no_trace(dropout: float, mode: Clipping) -> None:
    torch.manual_seed(0)
    one, flat = clipped(Apart(dropout), mode)
    flat.module.get_submodule("drop").eval()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[union-attr]
    assert apart.check_apart(one._examples, one._loss, one._train, torch.arange(20), flat, 2)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # type: ignore[union-attr]
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]
    assert flat.module.training
    assert not flat.module.get_submodule("drop").training
    one.sum(np.arange(20))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", [Balanced(), Largest8(), AllFinite()])
def test_losses_of_the_whole_batch_are_refused(task: Task, mode: Clipping) -> None:
    torch.manual_seed(0)
    one, _ = clipped(Apart(), mode, task=task)
    with pytest.raises(ConfigError, match="silo 2"):
        one.sum(np.arange(20))


class Sequences(Dataset[Any]):
    """Of unequal lengths."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, i: int) -> Any:
        return samples()[0][0].repeat(2 + 5 * i % 17, 1) * (1 + i), i % 3


def padded(found: list[Any]) -> dict[str, Tensor]:
    x = nn.utils.rnn.pad_sequence([x for x, _ in found], batch_first=True)
    return {
        "x": x,
        "y": torch.tensor([y for _, y in found]),
        "lengths": torch.tensor([len(x) for x, _ in found]),
    }


class OverLength(Task):
    """The mean over a sequence's own steps, or over those of the longest."""

    def __init__(self, own: bool) -> None:
        self.own = own

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        out = model(batch["x"])
        steps, mask = out.shape[1], torch.arange(out.shape[1]) < batch["lengths"][:, None]
        each = functional.cross_entropy(
            out.transpose(1, 2), batch["y"][:, None].expand(-1, steps), reduction="none"
        )
        return (each * mask).sum(1) / (batch["lengths"] if self.own else steps)


@pytest.mark.covering(1)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("own", [True, False])
def test_the_longest_sequence_counts_for_no_other(own: bool, dropout: float, mode: Clipping) -> None:
    batches = Batches(Sequences(), torch.float32, CPU, collate=padded)

    def first_batches() -> None:
        for _ in range(3):  # what is drawn misses the longest one time in a thousand
            torch.manual_seed(0)
            flat = FlatModel(Apart(dropout), torch.float32, CPU)
            one = ClippedGradients(OverLength(own), flat, batches, clip_norm=0.1, clipping=mode, silo=2)
            one.sum(np.arange(20))

    if own:
        first_batches()
        return
    with pytest.raises(ConfigError, match="silo 2"):
        first_batches()


def test_a_task_that_refuses_numbers_which_no_sample_has_passes() -> None:
    class Strict(Task):
        def losses(self, model: nn.Module, batch: Any) -> Tensor:
            if float(batch[0].abs().max()) > 100:
                raise ValueError("out of range")
            return super().losses(model, batch)

    torch.manual_seed(0)
    one, _ = clipped(Apart(), "ghost", task=Strict())
    one.sum(np.arange(20))


def test_a_later_step_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that begins to mix after the first steps."""

    class Later(Mean):
        mixing = False

        def meet(self, hidden: Tensor) -> Tensor:
            return super().meet(hidden) if self.mixing else hidden

    torch.manual_seed(0)
    model = Later()
    one, _ = clipped(model, "ghost")
    one.sum(np.arange(20))
    model.mixing = True
    monkeypatch.setattr(apart.secrets, "randbelow", lambda below: 1 % below)
    one.sum(np.arange(20))
    monkeypatch.undo()
    monkeypatch.setattr("silofl.training.clipped.due", lambda: True)
    with pytest.raises(ConfigError, match="silo 2"):
        [one.sum(np.arange(20)) for _ in range(20)]  # one look is at one of several changes


class Noisy(Dataset[Any]):
    """Samples that NumPy, Python and torch disturb, each by another number of draws."""

    def __init__(self) -> None:
        self._whole = samples()

    def __len__(self) -> int:
        return len(self._whole)

    def __getitem__(self, i: int) -> Any:
        x, y = self._whole[i]
        draws = [random.random() for _ in range(1 + i % 3)]
        return x + torch.rand(6) * float(np.random.rand()) * draws[-1], y


@pytest.mark.parametrize("mode", mostly_long(MODES, 0))
def test_samples_that_are_read_with_randomness_pass(mode: Clipping) -> None:
    torch.manual_seed(0)
    one, _ = clipped(Apart(), mode, data=Noisy())
    one.sum(np.arange(20))


def test_nothing_can_be_compared_of_one_example() -> None:
    torch.manual_seed(0)
    one, flat = clipped(Apart(), "ghost")
    given = one._examples, one._loss, one._train
    assert not apart.check_apart(*given, torch.arange(1), flat, 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_data_set_that_is_all_in_one_batch_is_compared_with_itself(mode: Clipping) -> None:
    torch.manual_seed(0)
    one, _ = clipped(Mean(), mode, data=TensorDataset(*samples()[:4]))
    with pytest.raises(ConfigError, match="silo 2"):
        one.sum(np.arange(4))


class Sometimes(Mean):
    """Mixes by the word of a generator that is no part of torch."""

    def meet(self, hidden: Tensor) -> Tensor:
        return super().meet(hidden) if random.random() < 0.5 else hidden


@pytest.mark.parametrize("mode", MODES)
def test_what_happens_with_some_random_numbers_alone_is_found_soon(mode: Clipping) -> None:
    """One look misses it with probability 1/8 at most: ten looks do not."""
    torch.manual_seed(0)
    one, flat = clipped(Sometimes(), mode)
    given = one._examples, one._loss, one._train, torch.arange(20), flat, 2
    with pytest.raises(ConfigError, match="one example of a batch moves"):
        all(apart.check_apart(*given) for _ in range(20))
