"""Every random choice of a round is a function of (seed, silo, round): a resume repeats it bit for bit."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch

INITIAL_MODEL = 2**32 - 1
"""Stands for the silo's number where a choice is common to all silos."""

_seeding = threading.RLock()
# Where ranks are threads. torch reads a generator's state under a mutex, and Python's garbage collector may
# then pass the interpreter on to a thread that holds it while it waits for the mutex: neither goes on.


class _Turns:
    """Who may train, where silos are threads that draw from generators which a process has once.

    All take turns in their first round, and in later ones if any has drawn.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.drawn = False
        self.trained: set[int] = set()

    @contextmanager
    def turn(self) -> Iterator[None]:
        thread = threading.get_ident()
        if thread in self.trained and not self.drawn:
            yield
            return
        with self.lock:
            try:
                yield
            finally:
                self.trained.add(thread)
                self.drawn |= _drawn_since_seeded()


_turns: list[_Turns] = []
"""At most one."""


@contextmanager
def taking_turns() -> Iterator[None]:
    """Have silos that are threads of this process train one at a time where they draw random numbers.

    So they draw what silos that are processes do. RuntimeError where others take turns already.
    """
    if _turns:
        raise RuntimeError("silos of another simulation train in this process: wait for its end")
    _turns.append(_Turns())
    try:
        yield
    finally:
        _turns.clear()


def turn() -> AbstractContextManager[None]:
    """While a silo trains: see `taking_turns`; nothing where silos are processes."""
    return _turns[0].turn() if _turns else nullcontext()


def _drawn_since_seeded() -> bool:
    """Whether a global generator has moved since `seed_everything`."""
    seed = torch.default_generator.initial_seed()
    fresh = torch.Generator().manual_seed(seed).get_state()
    numpy_now, numpy_fresh = np.random.get_state(), np.random.RandomState(seed % 2**32).get_state()
    return not (
        torch.equal(torch.default_generator.get_state(), fresh)
        and random.getstate() == random.Random(seed).getstate()
        and np.array_equal(numpy_now[1], numpy_fresh[1])  # type: ignore[index]
        and numpy_now[2] == numpy_fresh[2]  # type: ignore[index]
    )


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
