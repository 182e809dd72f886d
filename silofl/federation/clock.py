"""Seconds by phase of a round; a phase inside another is taken out of the outer one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from silofl.launcher import watchdog


class Clock:
    """Adds up wall-clock seconds under the name of each phase."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._inner = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block under `name`, less the phases inside it."""
        watchdog.heartbeat()
        outside, self._inner = self._inner, 0.0
        began = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - began
            self._seconds[name] = self._seconds.get(name, 0.0) + elapsed - self._inner
            self._inner = outside + elapsed

    def take(self) -> dict[str, float]:
        """The seconds so far; counting starts again from nothing."""
        taken, self._seconds, self._inner = self._seconds, {}, 0.0
        return taken
