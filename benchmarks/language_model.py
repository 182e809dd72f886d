"""DiLoCo against synchronous data-parallel training: a small language model of Python's standard library.

Four silos have files of it, and a fifth part is public. The model is a decoder-only transformer that predicts
the next byte, and both ways begin with one that was trained on the public part. Synchronous training averages
the gradients of all silos at every step, for one step of AdamW; with DiLoCo every silo takes as many steps of
AdamW on as large batches of its own, and silofl adds up what came of them after every STEPS_A_ROUND.
Learning rates are constant.

    python benchmarks/language_model.py [--json FILE] [--plot FILE] [--seeds 2]
"""

from __future__ import annotations

import argparse
import json
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from side_by_side import pyplot
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.bench.measure import machine
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.loop import train
from silofl.tasks.base import SiloData

SILOS, CONTEXT, BATCH, WIDTH, LAYERS, HEADS = 4, 64, 4, 256, 3, 8
VOCABULARY = 256
PUBLIC_STEPS, PUBLIC_LR = 1600, 1e-3
STEPS, STEPS_A_ROUND, EVALUATE_EVERY = 840, 60, 2
LRS = {"synchronous": 3e-4, "diloco": 5e-4}
"""Constant; each the better of those that were tried on another seed."""
OUTER = {"lr": 0.7, "momentum": 0.6}
"""Of DiLoCo; the paper takes a momentum of 0.9, for many more rounds."""
EVALUATED_AT_ONCE = 128
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


@dataclass(frozen=True)
class Texts:
    """Windows of whole files, dealt out at random: every silo's, and as many files that are public.

    Attributes:
        public: what the first model is trained on.
        train: each silo's.
        held_out: each silo's, of a twentieth of its files.
    """

    public: Tensor
    train: list[Tensor]
    held_out: list[Tensor]


def dealt() -> Texts:
    """The same in every call."""
    files, rng = corpus(), np.random.default_rng(0)
    order = rng.permutation(len(files))
    parts = [[files[k] for k in order[place :: SILOS + 1]] for place in range(SILOS + 1)]
    texts = Texts(windows_of(parts[SILOS]), [], [])
    for mine in parts[:SILOS]:
        count = len(mine) // 20
        held_out = windows_of(mine[:count])
        texts.held_out.append(held_out[torch.from_numpy(rng.permutation(len(held_out))[:HELD_OUT_WINDOWS])])
        texts.train.append(windows_of(mine[count:]))
    return texts


State = dict[str, Tensor]


def public_model(texts: Texts, steps: int) -> State:
    """What both begin with: AdamW on public text, in batches as large as those of all silos together."""
    torch.manual_seed(0)
    model = Decoder()
    batches = drawn(texts.public, SILOS * BATCH, torch.Generator().manual_seed(0))
    descend(model, batches, steps, PUBLIC_LR)
    return model.state_dict()


def descend(model: nn.Module, batches: Iterator[Tensor], steps: int, lr: float, look: Any = None) -> None:
    """Steps of AdamW; `look(step)` is called after each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss_of(model, next(batches)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        if look is not None:
            look(step)


class Text:
    """The silos' texts, as a task of silofl."""

    def __init__(self, texts: Texts, first: State) -> None:
        self._texts, self._first = texts, first

    def model(self) -> nn.Module:
        """The public model."""
        return begun(self._first)

    def data(self, silo: int, silos: int) -> SiloData:
        """See `Task`."""
        return SiloData(TensorDataset(self._texts.train[silo]), TensorDataset(self._texts.held_out[silo]))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """See `Task`."""
        return loss_of(model, batch[0])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Any]:
        """None but the loss."""
        return {}


def begun(first: State) -> Decoder:
    """A model with these values."""
    model = Decoder()
    model.load_state_dict(first)
    return model


@dataclass(frozen=True)
class Run:
    """One way of training, in one seed."""

    name: str
    seed: int
    losses: list[tuple[int, float]]
    """Validation loss in nats a byte, after so many steps."""
    bytes_sent: int
    """By all silos together."""
    seconds: float


def synchronous(texts: Texts, first: State, seed: int, steps: int, lr: float = LRS["synchronous"]) -> Run:
    """AdamW along the mean gradient of all silos, which is that of their batches of one size as one."""
    model, losses, began = begun(first), list[tuple[int, float]](), time.perf_counter()
    each = [
        drawn(one, BATCH, torch.Generator().manual_seed(1000 * seed + silo))
        for silo, one in enumerate(texts.train)
    ]

    def look(step: int) -> None:
        if step % (STEPS_A_ROUND * EVALUATE_EVERY) == 0 or step == steps:
            losses.append((step, validation(model, texts)))

    descend(model, map(torch.cat, zip(*each, strict=True)), steps, lr, look)
    parameters = sum(one.numel() for one in model.parameters())
    return Run("synchronous", seed, losses, steps * allreduce_bytes(parameters), time.perf_counter() - began)


def drawn(windows: Tensor, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Batches uint8 (size, CONTEXT + 1), each window once in an epoch."""
    while True:
        for chosen in torch.randperm(len(windows), generator=rng).split(size):
            if len(chosen) == size:
                yield windows[chosen]


def validation(model: nn.Module, texts: Texts) -> float:
    """Mean over all silos' held-out windows."""
    windows = torch.cat(texts.held_out)
    with torch.no_grad():
        total = sum(float(loss_of(model, one)) * len(one) for one in windows.split(EVALUATED_AT_ONCE))
    return total / len(windows)


def allreduce_bytes(parameters: int) -> int:
    """What all silos send in one allreduce of float32 gradients, 2 (n - 1) of them: the least that can be."""
    return 2 * (SILOS - 1) * 4 * parameters


def diloco(texts: Texts, first: State, seed: int, steps: int, lr: float = LRS["diloco"]) -> Run:
    """silofl's rounds, under its default secure sum. Bytes are all that its ranks hand to one another."""
    with tempfile.TemporaryDirectory() as folder:
        config = configuration.parse(
            {
                "run": {"rounds": steps // STEPS_A_ROUND, "evaluate_every": EVALUATE_EVERY, "seed": seed}
                | {"display": "none", "dir": f"{folder}/run"},
                "train": {"steps": STEPS_A_ROUND, "batch_size": BATCH, "optimizer": "AdamW", "lr": lr}
                | {"keep_optimizer": True, "clip_norm": CLIP_NORM, "eval_batch_size": EVALUATED_AT_ONCE},
                "strategy": {"name": "diloco", **OUTER},
                "checkpoint": {"every": 0, "key_file": f"{folder}/{{silo}}.key"},
            }
        )

        def rank(comm: Communicator) -> int:
            torch.set_num_threads(1)
            train(config, Text(texts, first), comm=comm)
            return comm.bytes_sent

        began = time.perf_counter()
        sent = run_in_threads(SILOS, rank, timeout_s=LONGEST_S)
        seconds = time.perf_counter() - began
        lines = [json.loads(one) for one in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    losses = [(one["round"] * STEPS_A_ROUND, one["loss"]) for one in lines if one.get("loss") is not None]
    return Run("diloco", seed, losses, sum(sent), seconds)


def pairs(runs: list[Run]) -> list[tuple[Run, Run]]:
    """Both ways of each seed."""
    by = {(one.name, one.seed): one for one in runs}
    return [(one, by["diloco", one.seed]) for one in runs if one.name == "synchronous"]


def behind(base: Run, other: Run) -> float:
    """By which part of it the last validation loss is above another's."""
    return other.losses[-1][1] / base.losses[-1][1] - 1


def table(runs: list[Run], before: float) -> Table:
    """One row a seed."""
    steps = runs[0].losses[-1][0]
    shown = Table(title=f"{steps} steps, {STEPS_A_ROUND} a round; validation loss before: {before:.4f}")
    for column in ("seed", "synchronous", "DiLoCo", "behind by", "bytes", "bytes, DiLoCo", "fewer, times"):
        shown.add_column(column)
    for base, other in pairs(runs):
        losses = [f"{one.losses[-1][1]:.4f}" for one in (base, other)]
        sent = [f"{one.bytes_sent / 1e9:.3f} GB" for one in (base, other)]
        fewer = f"{base.bytes_sent / other.bytes_sent:.1f}"
        shown.add_row(str(base.seed), *losses, f"{100 * behind(base, other):+.2f} %", *sent, fewer)
    return shown


def plot(runs: list[Run], path: Path) -> None:
    """Validation loss over steps, and over bytes."""
    sheet, axes = pyplot().subplots(1, 2, figsize=(10, 4), sharey=True)
    for one in runs:
        steps, losses = zip(*one.losses, strict=True)
        sent = [one.bytes_sent / 1e9 * step / steps[-1] for step in steps]
        style: dict[str, Any] = {"color": "C0" if one.name == "synchronous" else "C1", "marker": "."}
        style["label"] = one.name if one.seed == runs[0].seed else None
        axes[0].plot(steps, losses, **style)
        axes[1].plot(sent, losses, **style)
    axes[0].set(xlabel="steps", ylabel="validation loss, nats a byte")
    axes[1].set(xlabel="GB that all silos have sent", xscale="log")
    axes[0].legend()
    sheet.tight_layout()
    sheet.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Train both ways, and show them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--plot", type=Path, help="draw them here (.svg, .png)")
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    console, texts, runs = Console(), dealt(), list[Run]()
    first = public_model(texts, PUBLIC_STEPS)
    before = validation(begun(first), texts)
    for seed in range(given.seeds):
        for way in (synchronous, diloco):
            runs.append(way(texts, first, seed, STEPS))
            console.print(runs[-1])
    console.print(table(runs, before))
    if given.json is not None:
        told = {"benchmark": "language model", "machine": machine() | {"torch": torch.__version__}}
        told |= {"parameters": sum(one.numel() for one in Decoder().parameters()), "before": before}
        told |= {"steps": STEPS, "steps_a_round": STEPS_A_ROUND, "lr": LRS, "outer": OUTER}
        told |= {"runs": [asdict(one) for one in runs]}
        given.json.write_text(json.dumps(told, indent=1) + "\n")
    if given.plot is not None:
        plot(runs, given.plot)


if __name__ == "__main__":
    main()
