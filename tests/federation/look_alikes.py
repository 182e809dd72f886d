"""Small models made as large ones are: what frameworks of the field do with parameters and buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import Dataset, TensorDataset

from silofl.tasks.base import SiloData

VOCABULARY, LENGTH, FEATURES, CLASSES = 12, 6, 8, 2


class Rotary(nn.Module):
    """Cosines for the longest sequence so far, outside of the state dict; evaluation sees longer ones."""

    cosines: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 0.5 ** torch.arange(width), persistent=False)
        self.register_buffer("cosines", torch.ones(1, width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.cosines) < x.shape[1]:
            self.cosines = (torch.arange(x.shape[1])[:, None] * self.get_buffer("frequencies")).cos()
        return x * self.cosines[: x.shape[1]]


class Gpt(nn.Module):
    """Decoder with a tied head, a mask of -inf in the state dict, and positions that are integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.rotary, self.norm = Rotary(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.full((2 * LENGTH, 2 * LENGTH), -torch.inf).triu(1))
        self.register_buffer("positions", torch.arange(2 * LENGTH))

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        h = self.rotary(self.embed(tokens))
        mask = self.get_buffer("mask")[:n, :n]
        h = h + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        logits: Tensor = self.head(self.norm(h))
        return logits


class Lstm(nn.Module):
    """Two layers and a reading of the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(VOCABULARY, 5), nn.LSTM(5, 6, num_layers=2, batch_first=True)
        self.read = nn.Linear(6, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.read(self.lstm(self.embed(tokens))[0][:, -1])
        return scores


class UNet(nn.Module):
    """One step down and up, with statistics on the way and a connection across."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.deep = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.up, self.out = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Conv2d(8, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        skip = self.down(image)
        pixels: Tensor = self.out(torch.cat([skip, self.up(self.deep(skip))], 1))
        return pixels


class Detector(nn.Module):
    """A frozen stem of another's, two heads, and outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1).half().requires_grad_(False)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.boxes, self.scores = nn.Linear(16, 4), nn.Linear(16, CLASSES)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        h = self.body(self.stem(image)).flatten(1)
        return {"boxes": self.boxes(h), "scores": self.scores(h)}


class Running(nn.Module):
    """Puts a new mean in the place of its buffer, and normalizes a weight by its `data`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.hidden = parametrizations.spectral_norm(nn.Linear(FEATURES, 6))
        self.out = nn.Linear(6, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.get_buffer("mean") + 0.1 * x.mean(0)
            self.out.weight.data = nn.functional.normalize(self.out.weight.data)
        scores: Tensor = self.out(self.hidden(x - self.get_buffer("mean")).tanh())
        return scores


class Tied(nn.Module):
    """One layer, one buffer, both under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, FEATURES)
        self.again, self.out = self.first, nn.Linear(FEATURES, CLASSES)
        one = torch.ones(FEATURES)
        self.register_buffer("scale", one)
        self.out.register_buffer("scale", one)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.get_buffer("scale").mul_(0.9).add_(0.1 * x.detach().std(0))
        scores: Tensor = self.out(self.again(self.first(x) / self.out.get_buffer("scale")).tanh())
        return scores


class Fourier(nn.Module):
    """Complex weights between a transform and its inverse."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.modes = nn.Parameter(torch.randn(FEATURES // 2 + 1, dtype=torch.complex64))
        self.register_buffer("turn", torch.polar(torch.ones(5), torch.arange(5.0)))
        self.out = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        modes = torch.fft.rfft(x) * self.modes * self.get_buffer("turn")
        scores: Tensor = self.out(torch.fft.irfft(modes, FEATURES) + self.bias)
        return scores


class Samples(Dataset[dict[str, Tensor]]):
    """Images with a box and a class, by name."""

    def __init__(self, images: Tensor, classes: Tensor) -> None:
        self._images, self._classes = images, classes

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = self._images[index]
        return {"image": image, "box": image[0, :2, :2].flatten(), "class": self._classes[index]}


class LookAlike:
    """A task with one of the models; silo k has 5 + 3 k samples."""

    models: ClassVar[dict[str, type[nn.Module]]] = {
        kind.__name__.lower(): kind for kind in (Gpt, Lstm, UNet, Detector, Running, Tied, Fourier)
    }

    def __init__(self, name: str) -> None:
        self._name = name

    def model(self) -> nn.Module:
        return self.models[self._name]()

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(self._samples(silo, LENGTH), self._samples(silo, LENGTH + 3))

    def _samples(self, silo: int, length: int) -> Any:
        rng = np.random.default_rng(silo)
        count = 5 + 3 * silo
        classes = torch.arange(count) % CLASSES
        if self._name in {"gpt", "lstm"}:
            tokens = torch.from_numpy(rng.integers(0, VOCABULARY, (count, length)))
            return TensorDataset(tokens, classes)
        if self._name in {"unet", "detector"}:
            images = torch.from_numpy(rng.standard_normal((count, 1, 8, 8)).astype(np.float32))
            return (
                TensorDataset(images, (images[:, 0] > 0).long())
                if self._name == "unet"
                else Samples(images, classes)
            )
        return TensorDataset(
            torch.from_numpy(rng.standard_normal((count, FEATURES)).astype(np.float32)), classes
        )

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        entropy = nn.functional.cross_entropy
        if isinstance(batch, Mapping):
            out = model(batch["image"])
            return entropy(out["scores"], batch["class"]) + (out["boxes"] - batch["box"]).abs().mean()
        x, y = batch
        if self._name == "gpt":
            return entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        return entropy(model(x), y)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}
