"""What a zygote, its forks and the processes that they take the place of tell each other: bytes."""

FORK, HOLD = b"f", b"h"
"""To the zygote, first: asked to fork, or to stay while the connection is there."""
READY = b"r"
"""From the zygote, to who holds it: it has loaded everything."""
TAKEN = b"t"
"""From a fork, with its process number: it is now what the process was that asked."""
PID_BYTES = 4
EXITED, KILLED = b"x", b"k"
"""From a fork, with one byte more: how it ended, by an exit code or a signal."""
LAUNCHER_LOST = b"l"
"""To a fork: the process that stands for it has lost its launcher."""
