"""Floor 3: ranks that call collectives together, over MPI or as threads of one process.

Importing this package loads neither NumPy nor MPI, so that `silofl.comm.launcher` can set variables that
both read once; its names are imported when they are first used. `world()` initialises MPI.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from silofl.comm.ending import Ending, install_abort_hook
    from silofl.comm.launcher import prepare_environment
    from silofl.comm.protocol import Communicator, Request, SharedBuffer
    from silofl.comm.session import run_on_ranks, world
    from silofl.comm.threads import ThreadCommunicator, run_in_threads
    from silofl.comm.verdict import raise_together, together

__all__ = [
    "Communicator",
    "Ending",
    "Request",
    "SharedBuffer",
    "ThreadCommunicator",
    "install_abort_hook",
    "prepare_environment",
    "raise_together",
    "run_in_threads",
    "run_on_ranks",
    "together",
    "world",
]

_HOMES = {
    "ending": ("Ending", "install_abort_hook"),
    "launcher": ("prepare_environment",),
    "protocol": ("Communicator", "Request", "SharedBuffer"),
    "session": ("run_on_ranks", "world"),
    "threads": ("ThreadCommunicator", "run_in_threads"),
    "verdict": ("raise_together", "together"),
}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
