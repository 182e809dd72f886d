"""A silo's local training in a thread beside the main one, which meanwhile takes part in others' sums."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from silofl.background import Background
from silofl.launcher import watchdog

Result = TypeVar("Result")

LOOK_S = 0.1
"""How often a wait for training looks whether it goes on."""
_own = threading.local()
"""Of a thread that trains: its `Progress`."""


class TrainingEnded(BaseException):
    """Raised in a training thread, at its next batch, whose result is not wanted any more."""


class Progress:
    """What one piece of training has done last, as other threads see it."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        """When it began, or made its latest batch."""
        self.unwanted = False
        """Whether it is to end at its next batch."""
        self.model_free = threading.Event()
        """Set as soon as the thread does nothing more with the silo's model."""


def batch_made() -> None:
    """Report that a batch is about to be made; TrainingEnded in a thread whose training is unwanted."""
    watchdog.heartbeat()
    progress: Progress | None = getattr(_own, "progress", None)
    if progress is not None:
        progress.last = time.monotonic()
        if progress.unwanted:
            raise TrainingEnded


class BackgroundTraining(Generic[Result]):
    """One piece of training at a time.

    Args:
        began, ended: called in the thread before and after each, such as to mark a step.
    """

    def __init__(self, began: Callable[[], None], ended: Callable[[], None]) -> None:
        self._began, self._ended = began, ended
        self._work: Background[tuple[Result, float]] = Background()
        self._progress = Progress()

    @property
    def busy(self) -> bool:
        """Whether training was begun whose result has not been taken."""
        return self._work.busy

    @property
    def over(self) -> bool:
        """Whether `take` would not wait."""
        return self._work.over

    def stalled(self, silent_s: float) -> bool:
        """Whether the training that was begun has made no batch for so many seconds, and goes on."""
        going = self.busy and not self._progress.model_free.is_set()
        return going and time.monotonic() - self._progress.last > silent_s

    def begin(self, train: Callable[[], Result]) -> None:
        """Begin to train; does not wait."""
        progress = self._progress = Progress()

        def work() -> tuple[Result, float]:
            _own.progress, began = progress, time.perf_counter()
            try:
                self._began()
                result = train()
            finally:
                _own.progress = None
                progress.model_free.set()
            self._ended()
            return result, time.perf_counter() - began

        self._work.start(work)

    def take(self) -> tuple[Result, float]:
        """Wait for the result and how many seconds it took, or raise what was raised."""
        return self._work.result()

    def end(self, silent_s: float) -> bool:
        """Have training that goes on end at its next batch; whether the silo's model is free.

        It is not where no batch was made for `silent_s` seconds. Where there is a watchdog it ends this rank
        then, for nothing here waits for peers.
        """
        if self.busy:
            self._progress.unwanted = True
            while not self._progress.model_free.wait(LOOK_S):
                if self.stalled(silent_s) and not watchdog.has_watchdog():
                    return False
        return True
