"""DP-SGD by silofl's parts beside Opacus' own loop, turn by turn, on one thread.

A step of silofl is a Poisson sample by a secret keystream, the clipped sum (`ClippedGradients`, ghost
clipping), normal noise of the same size in place of the discrete noise of the federation, and a step of SGD.
Opacus' loop is that of its documentation: `PrivacyEngine.make_private` with `grad_sample_mode="ghost"` and
`poisson_sampling=True`, its loader, criterion and optimizer. Its loader fetches a batch sample by sample, so
a second row gives its steps batches that silofl's sampler and one indexing have made.

    python benchmarks/compare_opacus.py [--json FILE]            what it needs: pip install 'silofl[privacy]'
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from side_by_side import not_here
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from silofl.bench.measure import Row, interleaved, machine, row, table
from silofl.tasks import models
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification
from silofl.training.batches import Batches
from silofl.training.clipped import ClippedGradients
from silofl.training.flat import FlatModel
from silofl.training.sampling import PoissonSampler
from silofl_kernels.streams import Stream

try:
    from opacus import PrivacyEngine
except ImportError:
    not_here("Opacus", "pip install 'silofl[privacy]'")

RECORDS, BATCH, SIDE, CLASSES = 16384, 256, 28, 10
CLIP_NORM, NOISE, RATE = 1.0, 1.0, 0.1
OURS = "silofl"
MODELS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: models.mlp(SIDE * SIDE, (784, 448), CLASSES),
    "CNN": lambda: models.cnn(1, SIDE, SIDE, CLASSES),
}
Steps = Callable[[int], None]


class Images(Classification):
    """Noise of the size of MNIST's images: what is measured does not depend on what they show."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(RECORDS, 1, SIDE, SIDE, generator=rng)
        self.records = TensorDataset(x, torch.randint(0, CLASSES, (RECORDS,), generator=rng))
        self._build = build

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self._build()

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(self.records)


def sampler() -> PoissonSampler:
    return PoissonSampler(Stream("aes-128-ctr", bytes(16)), RECORDS, BATCH / RECORDS)


def silofl_steps(task: Images) -> Steps:
    model = FlatModel(task.model(), torch.float32, torch.device("cpu"))
    batches = Batches(task.records, torch.float32, torch.device("cpu"))
    clipped = ClippedGradients(task, model, batches, clip_norm=CLIP_NORM, clipping="ghost", silo=0)
    poisson, gradient, noise = sampler(), torch.empty_like(model.vector), torch.empty_like(model.vector)
    turns = iter(range(1 << 62))

    def steps(count: int) -> None:
        for step in islice(turns, count):
            clipped.sum(poisson.draw(step), gradient)
            gradient.add_(noise.normal_(std=NOISE * CLIP_NORM))
            model.vector.sub_(gradient, alpha=RATE / BATCH)

    return steps


def opacus_steps(task: Images, batches: Iterator[Any] | None) -> Steps:
    """Opacus' loop over its own loader, or over `batches`."""
    model = task.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    model, optimizer, criterion, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        data_loader=DataLoader(task.records, batch_size=BATCH),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP_NORM,
        grad_sample_mode="ghost",
        poisson_sampling=True,
    )
    turns = _epochs(loader) if batches is None else batches

    def steps(count: int) -> None:
        for x, y in islice(turns, count):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()

    return steps


def _epochs(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def made_batches(task: Images) -> Iterator[Any]:
    """What Opacus is given in the second row."""
    poisson, batches = sampler(), Batches(task.records, torch.float32, torch.device("cpu"))
    return (batches.take(torch.from_numpy(poisson.draw(step))) for step in range(1 << 62))


def measure(name: str, steps: int, rounds: int) -> list[Row]:
    """Opacus' processor time over silofl's is silofl's throughput over Opacus'."""
    task = Images(MODELS[name])
    loops = {
        OURS: silofl_steps(task),
        f"Opacus {metadata.version('opacus')}, its own loop": opacus_steps(task, None),
        "Opacus, batches by silofl": opacus_steps(task, made_batches(task)),
    }
    calls = {side: (lambda loop=loop: loop(steps)) for side, loop in loops.items()}
    times = interleaved(calls, rounds=rounds, clock=time.process_time)
    return [
        row(side, found, OURS, times[OURS], 0.0, "" if side == OURS else ">= 0.95")
        for side, found in times.items()
    ]


def main() -> None:
    """Measure, and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="steps of each side in a turn (20)")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each side (9)")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    given = parser.parse_args()
    for option in ("steps", "repeats"):
        if getattr(given, option) < 1:
            parser.error(f"--{option} must be at least 1, not {getattr(given, option)}")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # Opacus' on its generator of noise and on hooks
    console, told = Console(width=120), {}
    for name, build in MODELS.items():
        size = sum(p.numel() for p in build().parameters())
        rows = measure(name, given.steps, given.repeats)
        title = f"processor time of {given.steps} steps of DP-SGD, {name} of {size} values, batch {BATCH}"
        console.print(table(title, rows))
        for one in rows:
            rate = given.steps * BATCH / one.seconds
            console.print(f"  {one.name}: {rate:.0f} samples a second of one thread", highlight=False)
        told[name] = {"parameters": size, "rows": [asdict(one) for one in rows]}
    if given.json is not None:
        about = {"benchmark": "DP-SGD beside Opacus", "machine": machine(), "clock": "processor seconds"}
        about |= {"torch": torch.__version__, "opacus": metadata.version("opacus")}
        about |= {"steps": given.steps, "expected_batch": BATCH, "models": told}
        given.json.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
