"""A silo's samples as batches: order is a function of (seed, silo, round) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from silofl.tasks.base import SizedDataset
from silofl.training.slots import like


class Batches:
    """Batches of a dataset on a device, real and complex tensors cast to the model's dtype.

    A TensorDataset is moved to the device once and indexed there; any other dataset is read sample by
    sample and collated as torch's DataLoader does. `on_batch` is called before each batch is made.
    """

    def __init__(
        self,
        dataset: SizedDataset,
        dtype: torch.dtype,
        device: torch.device,
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        self._dataset, self._on_batch = dataset, on_batch
        self._dtype, self._device = dtype, device
        self._tensors: tuple[Tensor, ...] | None = None
        if isinstance(dataset, TensorDataset):
            self._tensors = tuple(self._place(t) for t in dataset.tensors)

    def __len__(self) -> int:
        return len(self._dataset)

    def all(self) -> Any:
        """Every sample as one batch, in the dataset's order."""
        if self._tensors is not None:
            self._on_batch()
            return self._tensors
        return self.take(torch.arange(len(self)))

    def in_order(self, batch_size: int) -> Iterator[tuple[Any, int]]:
        """Every sample once, in the dataset's order: (batch, its number of samples)."""
        for start in range(0, len(self), batch_size):
            index = torch.arange(start, min(start + batch_size, len(self)))
            yield self.take(index), len(index)

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Any]:
        """One epoch in a random order; the last batch may be smaller."""
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, len(self), batch_size):
            yield self.take(order[start : start + batch_size])

    def take(self, index: Tensor) -> Any:
        """The samples `index`, int64 (batch,), as one batch."""
        self._on_batch()
        if self._tensors is not None:
            return tuple(t[index.to(self._device)] for t in self._tensors)
        return self._place(default_collate([self._dataset[int(i)] for i in index]))

    def _place(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            return item.to(self._device, like(self._dtype, item))
        if isinstance(item, dict):
            return {key: self._place(value) for key, value in item.items()}
        if isinstance(item, (list, tuple)):
            return type(item)(self._place(value) for value in item)
        return item
