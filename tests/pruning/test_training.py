"""What is pruned is zero before, within and after local training, whatever steps and strategies are."""

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
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.local_work import RoundStart
from silofl.federation.loop import train
from silofl.federation.silo import Silo
from silofl.strategies.fedavg import FedAvg
from silofl.tasks.base import SiloData
from tests.campaigns import mostly_long
from tests.federation.threads import records

SILOS, ROUNDS = 3, 5
PRUNE = {"name": "magnitude", "density": 0.2, "end": 3}
ROWS = {"name": "structured", "density": 0.5, "end": 3}


class Images:
    """Convolutions with running statistics, and a head."""

    def model(self) -> nn.Module:
        torch.manual_seed(3)
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(24, 8), nn.Linear(8, 3))

    def data(self, silo: int, silos: int) -> SiloData:
        draw = torch.Generator().manual_seed(silo)
        x = torch.randn(24 + 4 * silo, 1, 6, 6, generator=draw)
        data = TensorDataset(x, (x.mean((1, 2, 3)) * 9).long().clamp(-1, 1) + 1)
        return SiloData(data, data)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


class Words:
    """An embedding of sparse gradients."""

    def model(self) -> nn.Module:
        torch.manual_seed(4)
        return nn.Sequential(nn.EmbeddingBag(40, 8, sparse=True), nn.Linear(8, 2))

    def data(self, silo: int, silos: int) -> SiloData:
        draw = torch.Generator().manual_seed(silo)
        x = torch.randint(0, 40, (30, 5), generator=draw)
        data = TensorDataset(x, (x[:, 0] < 20).long())
        return SiloData(data, data)

    loss, metrics = Images.loss, Images.metrics


ADAM: dict[str, Any] = {"optimizer": "AdamW", "weight_decay": 0.1, "keep_optimizer": True, "lr": 0.01}
HEAVY: dict[str, Any] = {
    "momentum": 0.9,
    "weight_decay": 0.1,
    "keep_optimizer": True,
    "clip_norm": 0.5,
    "lr": 0.1,
}
CASES: list[tuple[type[Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (Images, PRUNE, ADAM, {"strategy": {"name": "fedadam"}}),
    (Images, ROWS, {"weight_decay": 0.1, "lr": 0.1}, {"strategy": {"name": "scaffold"}}),
    (Images, PRUNE, HEAVY, {"strategy": {"name": "feddyn"}}),
    (Images, PRUNE, HEAVY, {"strategy": {"name": "moon", "layer": "4"}}),
    (Images, PRUNE, HEAVY, {"strategy": {"name": "fedavgm"}, "compress": {"bits": 8}}),
    (Images, PRUNE, {"optimizer": "Adam", "lr": 0.01}, {"personal": {"name": "fedrep", "layers": ["6.*"]}}),
    (Images, ROWS, HEAVY, {"strategy": {"name": "diloco"}}),
    (Images, PRUNE, {"lr": 0.1}, {"strategy": {"name": "fedsgd"}}),
    (Images, PRUNE, {"lr": 0.1}, {"strategy": {"name": "fedexp"}}),
    (Images, PRUNE, {"lr": 0.1}, {"strategy": {"name": "fednova"}}),
    (Images, PRUNE, {"lr": 0.1}, {"strategy": {"name": "qfedavg"}}),
    (Images, PRUNE, {"optimizer": "Muon", "lr": 0.02}, {}),
    (Words, PRUNE, {"lr": 0.1}, {}),
    (Images, PRUNE, HEAVY, {"run": {"silos_per_round": 2}}),
    (Images, PRUNE, ADAM, {"compress": {"name": "top_k", "ratio": 0.2, "error_feedback": True}}),
]


def settings(path: Path, prune: Any, more: dict[str, Any], **sections: Any) -> Any:
    run = {"name": "p", "dir": str(path), "display": "none", "rounds": ROUNDS} | sections.pop("run", {})
    base = {"epochs": 1, "batch_size": 8} | more
    of_few = sections.get("compress", {}).get("name") == "top_k" or "silos_per_round" in run
    clear = {"protocol": "plain"} if of_few else {}
    return configuration.parse({"run": run, "train": base, "prune": prune, "secure": clear} | sections)


@pytest.mark.covering(0)
@pytest.mark.parametrize(("task", "prune", "steps", "more"), mostly_long(CASES, 0, 1), ids=str)
def test_what_is_pruned_is_exactly_zero_on_every_rank(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: type[Any],
    prune: Any,
    steps: Any,
    more: dict[str, Any],
) -> None:
    honest, seen = Silo.contribution, []

    def contribution(silo: Silo, trained: Tensor, result: Any, start: RoundStart) -> Any:
        assert start.kept is not None
        pruned = ~start.kept
        seen.append((start.round_number, int(pruned.sum())))
        assert all((vector[pruned] == 0).all() for vector in start.shared.values())
        if start.strategy.local == "train":
            assert (trained.numpy()[pruned] == 0).all()
            assert (trained.numpy()[~pruned] != start.model[~pruned]).mean() > 0.1
        return honest(silo, trained, result, start)

    monkeypatch.setattr(Silo, "contribution", contribution)
    config = settings(tmp_path, prune, steps, **more)

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, task(), comm=comm)

    results = run_in_threads(SILOS, rank, timeout_s=90)
    assert len({one["model_sha256"] for one in results}) == 1
    counts = dict(seen)
    assert counts[1] == 0 < counts[2] < counts[ROUNDS]
    model = load_file(tmp_path / "model.safetensors")
    zeros = sum(int((values == 0).sum()) for name, values in model.items() if values.ndim > 1)
    assert zeros == counts[ROUNDS]
    told = [line["density"] for line in records(tmp_path)]
    assert told == sorted(told, reverse=True)
    sizes = {name: values.size for name, values in model.items() if values.ndim > 1}
    chosen = sum(list(sizes.values())[:-1]) if prune["name"] == "structured" else sum(sizes.values())
    assert told[-1] == pytest.approx(1 - counts[ROUNDS] / chosen)
    assert told[-1] == pytest.approx(prune["density"], abs=0.05)


def test_gradients_of_what_is_pruned_have_no_part_in_a_norm(tmp_path: Path) -> None:
    """`train.clip_norm` is of what is trained: a step along a pruned gradient would be shorter."""
    config = settings(
        tmp_path, PRUNE, {"clip_norm": 1e-3, "lr": 1.0, "epochs": None, "steps": 1, "full_batch": True}
    )
    silo = Silo(config, Images(), 0, 1, "cpu")
    values = silo.initial()
    kept = np.ones(silo.model.trainable, np.bool_)
    kept[36 + 4 + 8 : 36 + 4 + 8 + 200] = False  # of the second convolution
    values[: len(kept)][~kept] = 0
    start = RoundStart({"model": values[: len(kept)]}, values[len(kept) :], 1, FedAvg(), kept=kept)
    update = silo.fit(start).contribution.vectors["update"]
    assert (update[~kept] == 0).all()
    assert np.linalg.norm(update) == pytest.approx(1e-3, rel=1e-4)
