"""Makes the faults of [failure] inject happen on the silo and at the step that they name."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from silofl.comm.protocol import Communicator
from silofl.console import log
from silofl.faults import Fault
from silofl.launcher import watchdog

LONGEST_HANG_S = 3600.0


def _kill_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FaultInjector:
    """Follows the steps that this rank reaches, and fires each fault once.

    `die` is what `kill` does: SIGKILL to this process.
    """

    def __init__(
        self, comm: Communicator, faults: list[Fault], silo: int, *, die: Callable[[], None] = _kill_process
    ) -> None:
        self._comm, self._die = comm, die
        self._left = [fault for fault in faults if fault.silo == silo]
        self._slowed: dict[int, tuple[float, float]] = {}
        self.round = 0
        """The round under way; 0 before the first."""
        comm.on_mark(self.reach)

    def skip(self, number: int) -> None:
        """Leave out the faults of rounds up to `number`: this rank has come back from one of them."""
        self._left = [fault for fault in self._left if fault.round > number]

    def reach(self, step: str) -> None:
        """This rank reaches a step: that is progress, and may be its last. Any thread may call."""
        watchdog.heartbeat()
        self._stretch()
        # A round's files are published while the next one trains.
        late = 1 if step.startswith("checkpoint") else 0
        for fault in [one for one in self._left if one.step == step and 0 <= self.round - one.round <= late]:
            self._left.remove(fault)
            self._fire(fault)

    def tell_left(self) -> None:
        """Say which faults have not happened: this rank is through all its rounds."""
        for fault in self._left:
            log(
                f"injected fault never happened: {fault.action} silo {fault.silo} in round {fault.round} at "
                f"{fault.step}"
            )

    def _fire(self, fault: Fault) -> None:
        log(f"injected fault: {fault.action} silo {fault.silo} in round {fault.round} at {fault.step}")
        if fault.action == "kill":
            self._die()
        elif fault.action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.action == "hang":
            time.sleep(LONGEST_HANG_S)
        elif fault.action == "slow":
            self._slowed[threading.get_ident()] = (time.perf_counter(), fault.factor)
        else:
            self._comm.corrupt_next()

    def _stretch(self) -> None:
        """Make this thread's step before, where it is to be slow, as long as it should be."""
        slowed = self._slowed.pop(threading.get_ident(), None)
        if slowed is not None:
            began, factor = slowed
            until = time.perf_counter() + (factor - 1.0) * (time.perf_counter() - began)
            while time.perf_counter() < until:
                watchdog.heartbeat()
                time.sleep(min(0.05, max(0.0, until - time.perf_counter())))
