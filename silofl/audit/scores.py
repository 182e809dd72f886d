"""How likely each canary was there, by all models that a run released: an attacker's view of it.

The attacker knows the configuration, all models and all canaries. From two models in a row it has the noisy
sum between them, and takes of it what lies along each canary's gradient in the weights of its column.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from silofl.audit.canaries import Canaries
from silofl.checkpoint.atomic_files import read_tree
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.config import Config
from silofl.federation.silo import Silo
from silofl.privacy.releases import Release
from silofl.tasks.headed import Headed

Floats = NDArray[np.float64]
_AT_A_TIME = 256


def released_models(path: Path) -> Iterator[Floats]:
    """Parameters (P,) of the global model after each round, from the run's checkpoints, oldest first."""
    folder = CheckpointDirectory(path / "checkpoints", 0)
    for manifest in sorted(folder.manifests()[0], key=lambda one: one.round):
        parts = [
            read_tree(folder.folder(manifest.round) / entry.name, entry.sha256)["server"]["slices"]["model"]
            for entry in manifest.files.values()
        ]
        yield np.concatenate(parts).astype(np.float64)


class Attacker:
    """Who knows the configuration, the untrained model, the canaries and all models that were released.

    Args:
        config: of the run.
        task: its task.
        silo: any of its silos, whose model is used.
        canaries: that were inserted.
        records: how many records all silos train on.
    """

    def __init__(self, config: Config, task: Headed, silo: Silo, canaries: Canaries, records: int) -> None:
        self._config, self._task, self._silo, self._canaries = config, task, silo, canaries
        strategy: Any = config.strategy
        self._exact = config.strategy.name == "fedsgd"
        """Whether two models in a row tell the noisy sum itself, and not what many steps made of it."""
        self._lr, self._momentum = float(strategy.lr), float(getattr(strategy, "momentum", 0.0))
        self._divisor = config.privacy.sample_rate * (config.privacy.records or records)
        self._layer = next(one for one in silo.model.module.modules() if isinstance(one, nn.Linear))
        self._weight = _span_of(silo, self._layer)

    def scores(self, models: Iterable[Floats], spent: Mapping[Release, int]) -> Floats:
        """(m,), above 0 where a canary seems to be there: logarithms of likelihood ratios under the claim.

        Args:
            models: (P,) after each round, in their order.
            spent: what the run released to who sees its models.
        """
        [release] = [one for one in spent if one.dimensions != 1]
        before, found = self._silo.initial().astype(np.float64), np.zeros(len(self._canaries))
        velocity = np.zeros_like(before)
        for after in models:
            stepped = (before - after) / self._lr
            along, reach = self._along(stepped - self._momentum * velocity, before)
            if self._exact:
                found += self._likelihood(
                    along * self._divisor / self._config.privacy.clip_norm, reach, release
                )
            else:
                found += (along - np.median(along)) / max(float(np.std(along)), 1e-30)
            before, velocity = after, stepped
        return found

    def _along(self, sums: Floats, at: Floats) -> tuple[Floats, Floats]:
        """What of a sum (P,) lies along each canary's gradient (m,), and its length in clipping norms."""
        first, many = self._canaries.first, len(self._canaries)
        moved = sums[slice(*self._weight)].reshape(self._layer.weight.shape)[:, first : first + many]
        slopes, values = self._slopes(at), self._canaries.values
        sizes = np.linalg.norm(slopes, axis=1)
        along = np.einsum("hm,mh->m", moved, slopes) / np.maximum(sizes, 1e-30)
        lengths = sizes * values / self._config.privacy.clip_norm
        return along, np.minimum(lengths, values / np.hypot(values, 1))

    def _slopes(self, at: Floats) -> Floats:
        """Derivatives (m, h) of each canary's loss by what the first layer gives, at a model (P,)."""
        silo, canaries, rows = self._silo, self._canaries, list[Tensor]()
        silo.model.load(at.astype(silo.model.wire_dtype))
        kept: list[Tensor] = []

        def keep(module: nn.Module, given: Any, result: Tensor) -> None:
            kept.append(result)
            result.retain_grad()

        hook = self._layer.register_forward_hook(keep)
        try:
            for part in np.array_split(np.arange(len(canaries)), -(-len(canaries) // _AT_A_TIME)):
                x = torch.zeros((len(part), self._layer.in_features))
                x[torch.arange(len(part)), torch.from_numpy(canaries.first + part)] = torch.from_numpy(
                    canaries.values[part].astype(np.float32)
                )
                y = torch.from_numpy(canaries.labels[part])
                self._task.losses(silo.model.module, (x, y)).sum().backward()  # type: ignore[no-untyped-call]
                gradient = kept.pop().grad
                assert gradient is not None
                rows.append(gradient)
        finally:
            hook.remove()
            silo.model.module.zero_grad(set_to_none=True)
        return torch.cat(rows).numpy().astype(np.float64)

    def _likelihood(self, along: Floats, reach: Floats, release: Release) -> Floats:
        """log of how much likelier a sum is with each canary among the records than with what replaces it."""
        noise, rate = release.noise_multiplier, release.sample_rate

        def ratio(side: float) -> Floats:
            at = (side * along * reach - reach**2 / 2) / noise**2
            return at if rate == 1 else np.logaddexp(math.log1p(-rate), math.log(rate) + at)

        return ratio(1.0) - (ratio(-1.0) if self._config.privacy.neighbours == "replace-one" else 0.0)


def _span_of(silo: Silo, layer: nn.Linear) -> tuple[int, int]:
    """Where a layer's weight lies among all parameters."""
    name = next(key for key, value in silo.model.module.named_parameters() if value is layer.weight)
    ends = [0, *silo.model.tensor_ends]
    at = list(silo.model.tensor_names).index(name)
    return int(ends[at]), int(ends[at + 1])
