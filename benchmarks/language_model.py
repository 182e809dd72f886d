"""DiLoCo against synchronous data-parallel training: a small language model of Python's own standard library.

Four silos have files of it; the model is a decoder-only transformer that predicts the next byte. Synchronous
training averages the gradients of all silos at every step and takes a step of AdamW; DiLoCo takes as many steps
of AdamW, on as many bytes of text, and silofl adds up what they come to after every `STEPS_A_ROUND` of them.

    python benchmarks/language_model.py [--json FILE] [--plot FILE] [--seeds 2]
"""

from __future__ import annotations

import argparse
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.loop import train
from silofl.tasks.base import SiloData

SILOS, CONTEXT, BATCH, WIDTH, LAYERS, HEADS = 4, 64, 4, 256, 3, 8
VOCABULARY = 256
HELD_OUT_WINDOWS = 256
"""Of each silo."""
LONGEST_S = 7200.0
CLIP_NORM = 1.0


class Block(nn.Module):
    """Causal self-attention and a perceptron, each behind a layer norm and beside what it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.mixed = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """x (m, t, WIDTH)."""
        m, t, _ = x.shape
        parts = self.attention(self.first(x)).view(m, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.mixed(seen.transpose(1, 2).reshape(m, t, WIDTH))
        return x + self.narrow(functional.gelu(self.wide(self.second(x))))


class Decoder(nn.Module):
    """A decoder-only transformer over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.scores = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        for name, values in self.named_parameters():
            if values.ndim == 2:
                scale = 0.02 / (2 * LAYERS) ** 0.5 if "mixed" in name or "narrow" in name else 0.02
                nn.init.normal_(values, std=scale)

    def forward(self, text: Tensor) -> Tensor:
        """Scores (m, t, VOCABULARY) of the byte after each of text (m, t)."""
        x = self.tokens(text) + self.places.weight[: text.shape[1]]
        return self.scores(self.norm(self.blocks(x)))


def loss_of(model: nn.Module, windows: Tensor) -> Tensor:
    """Mean cross entropy in nats a byte, of windows uint8 (m, CONTEXT + 1)."""
    text = windows.long()
    scores = model(text[:, :-1])
    return functional.cross_entropy(scores.reshape(-1, VOCABULARY), text[:, 1:].reshape(-1))


def corpus() -> list[bytes]:
    """The files of the standard library, without its tests, in the order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}
    files = sorted(one for one in root.rglob("*.py") if not left_out & set(one.relative_to(root).parts))
    return [one.read_bytes() for one in files]


def windows_of(files: list[bytes]) -> Tensor:
    """All of them, one behind the other, cut into windows uint8 (m, CONTEXT + 1)."""
    text = np.frombuffer(b"\n".join(files), np.uint8)
    count = len(text) // (CONTEXT + 1)
    return torch.from_numpy(text[: count * (CONTEXT + 1)].reshape(count, CONTEXT + 1).copy())


def dealt() -> list[tuple[Tensor, Tensor]]:
    """Each silo's windows to train on, and held out: whole files, dealt out at random, a twentieth held out."""
    files, rng = corpus(), np.random.default_rng(0)
    order = rng.permutation(len(files))
    found = []
    for silo in range(SILOS):
        mine = [files[k] for k in order[silo::SILOS]]
        count = len(mine) // 20
        test = windows_of(mine[:count])
        test = test[torch.from_numpy(rng.permutation(len(test))[:HELD_OUT_WINDOWS])]
        found.append((windows_of(mine[count:]), test))
    return found


class Text:
    """A task of silofl."""

    def __init__(self, data: list[tuple[Tensor, Tensor]]) -> None:
        self._data = data

    def model(self) -> nn.Module:
        """See `Task`."""
        return Decoder()

    def data(self, silo: int, silos: int) -> SiloData:
        """See `Task`."""
        train, test = self._data[silo]
        return SiloData(TensorDataset(train), TensorDataset(test))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """See `Task`."""
        return loss_of(model, batch[0])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Any]:
        """None but the loss."""
        return {}


@dataclass(frozen=True)
class Run:
    """Validation loss after steps, and the bytes that one silo had sent by the end."""

    losses: list[tuple[int, float]]
    bytes_sent: int
    seconds: float


def synchronous(data: list[tuple[Tensor, Tensor]], steps: int, every: int, lr: float, seed: int) -> Run:
    """AdamW along the mean gradient of all silos; that of batches of one size is the gradient of them as one."""
    torch.manual_seed(seed)
    model = Decoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    batches = [drawn(train, torch.Generator().manual_seed(1000 * seed + k)) for k, (train, _) in enumerate(data)]
    losses, began = [], time.perf_counter()
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss_of(model, torch.cat([next(one) for one in batches])).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        if step % every == 0:
            losses.append((step, validation(model, data)))
    parameters = sum(one.numel() for one in model.parameters())
    return Run(losses, steps * allreduce_bytes(parameters), time.perf_counter() - began)


def drawn(windows: Tensor, rng: torch.Generator) -> Iterator[Tensor]:
    """Batches (BATCH, CONTEXT + 1), each window once in an epoch."""
    while True:
        for chosen in torch.randperm(len(windows), generator=rng).split(BATCH):
            if len(chosen) == BATCH:
                yield windows[chosen]


def validation(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> float:
    """Mean over all held-out windows."""
    with torch.no_grad():
        parts = torch.cat([test for _, test in data]).split(128)
        total = sum(float(loss_of(model, one)) * len(one) for one in parts)
    return total / sum(len(one) for one in parts)


def allreduce_bytes(parameters: int) -> int:
    """What each silo sends in an allreduce of float32 gradients: 2 (n - 1) / n of them, the least there is."""
    return 2 * (SILOS - 1) * 4 * parameters // SILOS


def diloco(
    data: list[tuple[Tensor, Tensor]], rounds: int, steps: int, every: int, lr: float, seed: int, **keys: Any
) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        config = configuration.parse(
            {
                "run": {"rounds": rounds, "evaluate_every": every, "seed": seed}
                | {"display": "none", "dir": f"{folder}/run"},
                "train": {"steps": steps, "batch_size": BATCH, "optimizer": "AdamW", "lr": lr}
                | {"keep_optimizer": True, "clip_norm": CLIP_NORM, "eval_batch_size": 128},
                "strategy": {"name": "diloco", **keys},
                "checkpoint": {"every": 0, "key_file": f"{folder}/{{silo}}.key"},
            }
        )

        def rank(comm: Communicator) -> int:
            torch.set_num_threads(1)
            train(config, Text(data), comm=comm)
            return comm.bytes_sent

        began = time.perf_counter()
        sent = run_in_threads(SILOS, rank, timeout_s=LONGEST_S)
        seconds = time.perf_counter() - began
        import json

        lines = [json.loads(one) for one in Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()]
        print(lines[-1])
        losses = [(one["round"] * steps, one["loss"]) for one in lines if one.get("loss") is not None]
    return Run(losses, max(sent), seconds)
