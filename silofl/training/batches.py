"""A silo's samples as batches: order is a function of (seed, silo, round) alone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import ConcatDataset, TensorDataset, default_collate

from silofl.errors import DataError
from silofl.tasks.base import SizedDataset
from silofl.tasks.user_code import UserCode
from silofl.training.slots import like


class Part(NamedTuple):
    """What one rank of a silo takes of a batch; the first rank has some of every one."""

    rank: int
    ranks: int

    def of(self, count: int) -> tuple[int, int]:
        """Where it begins and ends, of so many samples."""
        each, more = divmod(count, self.ranks)
        return (
            self.rank * each + min(self.rank, more),
            (self.rank + 1) * each + min(self.rank + 1, more),
        )


Collate = Callable[[list[Any]], Any]


class Batches:
    """Batches of a dataset on a device, real and complex tensors cast to the model's dtype.

    A TensorDataset is moved to the device once and indexed there; any other dataset, a subclass too, is read
    and collated as torch's DataLoader does: by its `__getitems__` where it has one. `on_batch` is called
    before each batch is made.

    Args:
        dataset: the samples.
        dtype: of the model.
        device: where batches are to be.
        on_batch: see above.
        collate: makes a batch of a list of samples; None: torch's `default_collate`.
        code: calls what is the user's; without it, for measurements, it is that of silo 0.
    """

    def __init__(
        self,
        dataset: SizedDataset,
        dtype: torch.dtype,
        device: torch.device,
        on_batch: Callable[[], None] = lambda: None,
        *,
        collate: Collate | None = None,
        code: UserCode | None = None,
    ) -> None:
        self._dataset, self._on_batch, self._collate = dataset, on_batch, collate
        self._code = UserCode(0) if code is None else code
        self._dtype, self._device = dtype, device
        with self._code.calling("data", type(dataset).__len__):
            self._count = len(dataset)
        self.part: Part | None = None
        """Of every batch; None: all of it."""
        self.share = 1.0
        """How much of the last batch that was."""
        self._written = False
        self._chosen: Tensor | None = None
        """Of which samples these are, int64; None: of all."""
        self._tensors: tuple[Tensor, ...] | None = None
        if type(dataset) is TensorDataset and collate is None and _indexable(dataset):
            self._tensors = tuple(self._place(t) for t in dataset.tensors)

    def __len__(self) -> int:
        return self._count

    @property
    def _index_device(self) -> torch.device:
        """Where numbers of samples are looked up."""
        if self._chosen is not None:
            return self._chosen.device
        return torch.device("cpu") if self._tensors is None else self._device

    def all(self) -> Any:
        """Every sample as one batch, in the dataset's order."""
        if self._tensors is not None and self._chosen is None:
            self._on_batch()
            tensors = self._tensors
            if self.part is not None:
                first, last = self.part.of(len(self))
                self.share, tensors = (last - first) / len(self), tuple(t[first:last] for t in tensors)
                if first == last:
                    return None
            return tuple(t.clone() for t in tensors) if self._written else tensors
        return self.take(torch.arange(len(self)))

    def of(self, chosen: Tensor) -> Batches:
        """Those of some samples alone, int64 (any,), numbered anew; what lies on the device is shared."""
        made = copy.copy(self)
        made._chosen, made._count = chosen, len(chosen)
        return made

    @property
    def dataset(self) -> SizedDataset:
        """All samples, as they were given."""
        return self._dataset

    def extend(self, more: SizedDataset) -> None:
        """Add samples behind those that are there. Raises DataError for others than those."""
        if self._tensors is None:
            whole: Any = ConcatDataset([self._dataset, more])  # type: ignore[list-item]
        else:
            whole = self._joined(more)
            self._tensors = tuple(self._place(t) for t in whole.tensors)
        self._dataset, self._count = whole, len(whole)

    def _joined(self, more: SizedDataset) -> TensorDataset:
        """Both TensorDatasets as one."""
        assert isinstance(self._dataset, TensorDataset), "it has tensors"
        before, after = self._dataset.tensors, more.tensors if isinstance(more, TensorDataset) else ()
        kinds = [[(t.dtype, t.shape[1:]) for t in tensors] for tensors in (before, after)]
        if kinds[0] != kinds[1]:
            silo = self._code.silo
            raise DataError(
                f"silo {silo}: the task's arrived(silo, round) gave other samples than its data(silo, "
                "silos): "
                "let both give a TensorDataset of as many tensors, of the same types and shapes",
                rank=silo,
            )
        return TensorDataset(*(torch.cat(pair) for pair in zip(before, after, strict=True)))

    @property
    def tensors(self) -> tuple[Tensor, ...] | None:
        """What batches are taken from by number, on the device; None where samples are read one by one."""
        return self._tensors

    def watching(self, batch: Any) -> AbstractContextManager[None]:
        """While a batch of `take` is trained on: whether that writes into it, so that `all` gives copies."""
        return self._watching(
            [t for t in batch if isinstance(t, Tensor)] if self._tensors is not None else []
        )

    @contextmanager
    def _watching(self, tensors: list[Tensor]) -> Iterator[None]:
        before = [t._version for t in tensors]
        yield
        self._written |= before != [t._version for t in tensors]

    def in_order(self, batch_size: int) -> Iterator[tuple[Any, int]]:
        """Every sample once, in the dataset's order: (batch, its number of samples)."""
        for start in range(0, len(self), batch_size):
            index = torch.arange(start, min(start + batch_size, len(self)), device=self._index_device)
            yield self.take(index), len(index)

    def shuffled(
        self, batch_size: int, generator: torch.Generator, *, drop_last: bool = False
    ) -> Iterator[Any]:
        """One epoch in a random order; the last batch may be smaller, or left out: see `spans`."""
        device = self._index_device
        for index in shuffled_numbers(len(self), batch_size, generator, device, drop_last=drop_last):
            yield self.take(index)

    def take(self, index: Tensor) -> Any:
        """The samples `index`, int64 (batch,), as one batch, or this rank's `part` of them: None for none.

        Raises UserCodeError for what the dataset or the task's `collate` raises, DataError for samples that
        torch makes no batch of.
        """
        self._on_batch()
        if self._chosen is not None:
            index = self._chosen[index]
        if self.part is not None:
            first, last = self.part.of(len(index))
            self.share, index = (last - first) / len(index), index[first:last]
            if first == last:
                return None
        if self._tensors is not None:
            return tuple(t[index.to(self._device)] for t in self._tensors)
        return self._place(self._collated(self._samples(index.tolist())))

    def take_each(self, index: Tensor, seed: Callable[[int], object]) -> Any:
        """As `take`, but `seed(i)` is called before sample i is read: what is random in it is its own."""
        self._on_batch()
        if self._tensors is not None:
            return self.take(index)
        samples = []
        for one in index.tolist():
            seed(one)
            samples += self._samples([one])
        return self._place(self._collated(samples))

    def _samples(self, indices: list[int]) -> list[Any]:
        """The samples, as torch's DataLoader reads them."""
        many = getattr(self._dataset, "__getitems__", None)
        with self._code.calling("data", type(self._dataset).__getitem__):
            found = [self._dataset[i] for i in indices] if many is None else list(many(indices))
        if len(found) != len(indices):
            raise DataError(
                f"silo {self._code.silo}: the task's data set gave {len(found)} samples for {len(indices)} "
                "indices: let its __getitems__ return one for each",
                rank=self._code.silo,
            )
        return found

    def _collated(self, samples: list[Any]) -> Any:
        if self._collate is not None:
            with self._code.calling("collate", self._collate):
                made = self._collate(samples)
            if made is None:
                silo = self._code.silo
                raise DataError(
                    f"silo {silo}: the task's collate(samples) returned None: return a batch", rank=silo
                )
            return made
        try:
            return default_collate(samples)
        except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError):
            parts = samples[0] if isinstance(samples[0], (tuple, list)) else samples[:1]
            kinds = ", ".join(dict.fromkeys(type(part).__name__ for part in parts))
            silo = self._code.silo
            raise DataError(
                f"silo {silo}: torch makes no batch of the task's samples ({kinds}): they are of unequal "
                "shapes, or of types that it does not know; give the task a method collate(samples) that "
                "returns a batch",
                rank=silo,
            ) from None

    def _place(self, item: Any) -> Any:
        """What of a batch is a tensor, on the device and of the model's type; containers keep their kind."""
        return map_tensors(item, self._place_tensor, self._place_object)

    def _place_tensor(self, tensor: Tensor) -> Tensor:
        placed = tensor.to(self._device, like(self._dtype, tensor))
        if placed.grad_fn is not None:  # of how it was computed: backward could go there once
            placed = placed.detach()
        return placed.clone() if placed.is_inference() else placed

    def _place_object(self, item: Any) -> Any:
        """What has a method `to`."""
        if isinstance(item, PackedSequence):
            return item.to(like(self._dtype, item.data)).to(device=self._device)  # type: ignore[call-arg]
        move = getattr(item, "to", None)
        return move(self._device) if callable(move) else item


def map_tensors(item: Any, change: Callable[[Tensor], Tensor], other: Callable[[Any], Any]) -> Any:
    """A batch with its tensors changed, and by `other` what is no tensor or container.

    Containers keep their kind; dataclasses are copied, their __init__ not called.
    """
    if isinstance(item, Tensor):
        return change(item)
    if isinstance(item, PackedSequence):  # a named tuple, of which one part stays on the CPU
        return other(item)
    if isinstance(item, Mapping):
        return _mapping_like(item, {key: map_tensors(value, change, other) for key, value in item.items()})
    if isinstance(item, (list, tuple)):
        return _sequence_like(item, [map_tensors(value, change, other) for value in item])
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        made = copy.copy(item)
        for one in dataclasses.fields(item):
            object.__setattr__(made, one.name, map_tensors(getattr(item, one.name), change, other))
        return made
    return other(item)


def handed(batch: Any) -> Any:
    """A batch for one call of a task: tensors in containers of their own, which it may take some out of."""
    return map_tensors(batch, lambda tensor: tensor, lambda other: other)


def _indexable(dataset: TensorDataset) -> bool:
    """Whether its tensors can be indexed by many samples at once."""
    return all(t.layout == torch.strided for t in dataset.tensors)


def shuffled_numbers(
    samples: int,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device,
    *,
    drop_last: bool = False,
) -> Iterator[Tensor]:
    """The numbers of one epoch's batches, int64 (batch,) each, in a random order."""
    order = torch.randperm(samples, generator=generator).to(device)  # at once: each waits
    for start, stop in spans(samples, batch_size, drop_last=drop_last):
        yield order[start:stop]


def spans(samples: int, batch_size: int, *, drop_last: bool = False) -> Iterator[tuple[int, int]]:
    """Where an epoch's batches begin and end; `drop_last` leaves out a smaller last one, never the first."""
    for start in range(0, samples, batch_size):
        if not (drop_last and start and start + batch_size > samples):
            yield start, min(start + batch_size, samples)


def _mapping_like(item: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """A mapping of the same kind where it can be changed, as torch's pin_memory makes one."""
    if type(item) is dict or not isinstance(item, MutableMapping):
        return values
    try:
        made = copy.copy(item)
        made.update(values)
    except (TypeError, ValueError, RuntimeError):
        return values
    return made


def _sequence_like(item: Any, values: list[Any]) -> Any:
    """A list, tuple or named tuple of the same kind, where that can be made of values; else a plain one."""
    if hasattr(item, "_fields"):
        return type(item)(*values)
    try:
        return type(item)(values)
    except (TypeError, ValueError):
        return tuple(values) if isinstance(item, tuple) else values
