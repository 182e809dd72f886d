"""Every random choice of a round is a function of (seed, silo, round): a resume repeats it bit for bit."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

INITIAL_MODEL = 2**32 - 1
"""Stands for the silo's number where a choice is common to all silos."""

_seeding = threading.RLock()
# Where ranks are threads. torch reads a generator's state under a mutex, and Python's garbage collector may
# then pass the interpreter on to a thread that holds it while it waits for the mutex: neither goes on.


def derive(seed: int, silo: int, round_number: int) -> int:
    """A 63-bit seed for one silo's round."""
    words = np.random.SeedSequence([seed, silo, round_number]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def seed_everything(seed: int) -> torch.Generator:
    """Seed Python's, NumPy's and torch's global generators; returns one more, for the order of the data."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    seed_torch(seed)
    return torch.Generator().manual_seed(seed)


def seed_torch(seed: int) -> None:
    """Seed torch's global generators; `torch.manual_seed` also prepares devices that are not there."""
    with _seeding:
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Put Python's, NumPy's and torch's global generators back; one thread at a time is inside."""
    with _seeding, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        before = random.getstate(), np.random.get_state()
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
