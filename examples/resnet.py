"""A training script as there are many: a small ResNet, AdamW with groups, OneCycle, early stopping on AUC.

python examples/resnet.py

It tells handwritten fives to nines from zeros to fours. `resnet_federated.py` beside it is the same script
for silofl; a comparison of the two files shows all that a federation asks of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import TensorDataset

EPOCHS, BATCH, PATIENCE = 20, 64, 3
TRAINED = 1437
"""Images to train on; the other 360 are held out."""


class Block(nn.Module):
    """Two convolutions around which the input goes as well."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, x: Tensor) -> Tensor:
        """Images (batch, width, height, width) to as many."""
        inner = self.norms[0](self.first(x)).relu()
        result: Tensor = (x + self.norms[1](self.second(inner))).relu()
        return result


def build_model(width: int = 8) -> nn.Module:
    """The untrained network."""
    stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
    ends = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 2)
    return nn.Sequential(stem, Block(width), Block(width), *ends)


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Images (1, 8, 8) and whether they are of 5 or more, to train on and to test with."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.get_default_dtype())[:, None] / 16
    y = torch.tensor(digits.target) // 5
    return TensorDataset(x[:TRAINED], y[:TRAINED]), TensorDataset(x[TRAINED:], y[TRAINED:])


def configure(model: nn.Module, samples: int) -> tuple[torch.optim.Optimizer, OneCycleLR]:
    """AdamW that decays matrices alone, and one cycle of its rates over all steps."""
    decayed = [one for one in model.parameters() if one.ndim > 1]
    others = [one for one in model.parameters() if one.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4)
    steps = EPOCHS * -(-samples // BATCH)
    return optimizer, OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps + 1)


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    """Cross entropy of a batch."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def scores_of(model: nn.Module, batch: Any) -> Tensor:
    """Probabilities (batch,) of the second class."""
    scores: Tensor = model(batch[0]).softmax(1)[:, 1]
    return scores


def train(seed_of: Callable[[int], int] = lambda epoch: epoch) -> list[dict[str, float]]:
    """Train until the AUC has not grown for `PATIENCE` epochs, and keep the best model; what epochs gave."""
    torch.manual_seed(seed_of(0))
    model, (data, held_out) = build_model(), load_data()
    optimizer, scheduler = configure(model, len(data))
    history: list[dict[str, float]] = []
    best, best_epoch = 0.0, 0
    for epoch in range(1, EPOCHS + 1):
        model.train()
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed_of(epoch)))
        for indices in order.split(BATCH):
            optimizer.zero_grad()
            loss_of(model, data[indices]).backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            loss = loss_of(model, held_out.tensors).item()
            auc = float(roc_auc_score(held_out.tensors[1], scores_of(model, held_out.tensors)))
        print(f"epoch {epoch}: loss {loss:.4f}, AUC {auc:.4f}")
        history.append({"loss": loss, "auc": auc})
        if auc > best:
            best, best_epoch = auc, epoch
            torch.save(model.state_dict(), "best.pt")
        if epoch - best_epoch >= PATIENCE:
            break
    return history


if __name__ == "__main__":
    train()
