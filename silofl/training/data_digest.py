"""A digest of a silo's samples, to tell on its own disk whether they are still the same.

Cheap for large data: tensors of up to `WHOLE_BYTES` are read whole, of larger ones evenly spaced rows, and of
other datasets `SAMPLES` evenly spaced samples. A change of other rows goes unseen where their number, shape
and type stay.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from silofl.tasks.base import SiloData, SizedDataset
from silofl.training.batches import Batches
from silofl.training.seeding import seed_everything

WHOLE_BYTES = 256 << 20
"""Bytes of one tensor that are read, at most: 0.2 s at 1.3 GB/s."""
SAMPLES = 32
_SEED = 20260101


def data_digest(data: SiloData, *, whole_bytes: int = WHOLE_BYTES) -> bytes:
    """SHA-256 (32 bytes) of training and held-out samples. It tells of the data: it stays with the silo.

    Whose samples are has a part where a person has several.

    Samples that differ whenever they are read count by number and type alone. Torch's, NumPy's and Python's
    generators are as before.
    """
    digest = hashlib.sha256()
    for part in (data.train, data.test):
        digest.update(_digest(part, whole_bytes))
    if data.owners is not None and len(np.unique(data.owners)) < len(data.owners):
        digest.update(np.ascontiguousarray(data.owners, "<i8").tobytes())
    return digest.digest()


def records_digest(records: Batches) -> bytes:
    """SHA-256 (32 bytes) of some records' values and labels, in their order, all of them and nothing else.

    What is read one by one is read under one seed; the global generators are others afterwards.
    """
    if records.tensors is not None:
        parts = [_tensor(one, sys.maxsize) for one in records.take(torch.arange(len(records)))]
        return hashlib.sha256(b"".join(parts)).digest()
    digest = hashlib.sha256()
    for number in range(len(records)):
        seed_everything(_SEED)
        digest.update(_item(records.take(torch.tensor([number]))))
    return digest.digest()


def _digest(dataset: SizedDataset | None, whole_bytes: int) -> bytes:
    digest = hashlib.sha256()
    if dataset is None:
        return digest.digest()
    digest.update(f"{len(dataset)};".encode())
    if isinstance(dataset, TensorDataset):
        for tensor in dataset.tensors:
            digest.update(_tensor(tensor, whole_bytes))
    else:
        digest.update(_samples(dataset))
    return digest.digest()


def _samples(dataset: SizedDataset) -> bytes:
    """Of evenly spaced samples, each read twice under one seed: what changes then has no content to keep."""
    digest = hashlib.sha256()
    with _generators_kept():
        for index in np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).astype(int)).tolist():
            try:
                first, second = (_item(_read(dataset, index)) for _ in range(2))
            except Exception:  # its reader says what is wrong with it
                continue
            digest.update(first if first == second else b"changes;")
    return digest.digest()


def _read(dataset: SizedDataset, index: int) -> Any:
    seed_everything(_SEED)
    return dataset[index]


@contextmanager
def _generators_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    own = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=own):  # else it would take memory on all that are there
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _item(item: Any) -> bytes:
    """Of one sample: tensors, arrays, numbers and text by content, anything else by its type."""
    if isinstance(item, torch.Tensor):
        return _tensor(item, WHOLE_BYTES)
    if isinstance(item, np.ndarray | np.generic):
        return _tensor(torch.from_numpy(np.ascontiguousarray(item)), WHOLE_BYTES)
    if isinstance(item, Mapping):
        item = [part for pair in item.items() for part in pair]
    if isinstance(item, list | tuple):
        return hashlib.sha256(b"".join(map(_item, item)) + f"{len(item)}".encode()).digest()
    content = repr(item) if isinstance(item, bool | int | float | str | bytes | None) else ""
    return hashlib.sha256(f"{type(item).__name__}:{content}".encode()).digest()


def _tensor(tensor: torch.Tensor, whole_bytes: int) -> bytes:
    digest = hashlib.sha256(f"{tuple(tensor.shape)}{tensor.dtype}{tensor.layout}".encode())
    if tensor.layout is torch.strided and not tensor.is_quantized and tensor.numel():
        step = -(-tensor.numel() * tensor.element_size() // whole_bytes)
        kept = tensor.detach().reshape(tensor.shape or (1,))[::step].contiguous().cpu()
        digest.update(kept.view(-1).view(torch.uint8).numpy().data)
    return digest.digest()
