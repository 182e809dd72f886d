"""What a zygote, its forks and the processes that they take the place of tell each other: bytes."""

from __future__ import annotations

import select
from typing import Protocol

FORK, HOLD = b"f", b"h"
"""To the zygote, first: asked to fork, or to stay while the connection is there."""
READY = b"r"
"""From the zygote, to who holds it: it has loaded everything."""
GO = b"g"
"""From a fork: it reads now. Descriptors on their way count together, for all processes of a user."""
TAKEN = b"t"
"""From a fork, with its process number: it is now what the process was that asked."""
PID_BYTES = 4
EXITED, KILLED = b"x", b"k"
"""From a fork, with one byte more: how it ended, by an exit code or a signal."""
LAUNCHER_LOST = b"l"
"""To a fork: the process that stands for it has lost its launcher."""


class _File(Protocol):
    def fileno(self) -> int: ...


def readable(files: list[int | _File], seconds: float | None) -> list[int | _File]:
    """Those of `files` that can be read or have ended, after at most so long.

    Their numbers may be larger than `select` takes.
    """
    poll = select.poll()
    numbers = {one if isinstance(one, int) else one.fileno(): one for one in files}
    for number in numbers:
        poll.register(number, select.POLLIN)
    found = poll.poll(None if seconds is None else 1000 * seconds)
    return [numbers[number] for number, _ in found]
