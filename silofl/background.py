"""One piece of work at a time beside the main thread."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Result = TypeVar("Result")
Outcome = tuple[Result | None, BaseException | None]


class Background(Generic[Result]):
    """A thread that waits for work; `start` never blocks, `result` waits for what was started.

    The thread ends with the last reference to this object.
    """

    def __init__(self) -> None:
        self.busy = False
        """Whether work was started whose result has not been taken."""
        self._work: SimpleQueue[Callable[[], Result] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Outcome[Result]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def over(self) -> bool:
        """Whether `result` would not wait."""
        return self.busy and not self._outcomes.empty()

    def start(self, work: Callable[[], Result]) -> None:
        """Begin; RuntimeError where the result of the work before was not taken."""
        if self.busy:
            raise RuntimeError("the work before is not finished")
        if self._thread is None:
            queues = self._work, self._outcomes  # without `self`, which would keep it alive
            self._thread = threading.Thread(target=_run, args=queues, daemon=True)
            self._thread.start()
            weakref.finalize(self, self._work.put, None)
        self.busy = True
        self._work.put(work)

    def result(self) -> Result:
        """Wait, and return what the work returned or raise what it raised; RuntimeError without work."""
        if not self.busy:
            raise RuntimeError("no work was started")
        result, error = self._outcomes.get()
        self.busy = False
        if error is not None:
            raise error
        return result  # type: ignore[return-value]


def _run(todo: SimpleQueue[Callable[[], Result] | None], outcomes: SimpleQueue[Outcome[Result]]) -> None:
    while (work := todo.get()) is not None:
        try:
            outcomes.put((work(), None))
        except BaseException as error:
            outcomes.put((None, error))
        del work  # what it holds may be large, or secret
