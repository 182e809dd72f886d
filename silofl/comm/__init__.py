"""Floor 3: ranks that call collectives together, over MPI or as threads of one process.

Importing this package loads neither NumPy nor MPI: its names are imported when they are first used. `world()`
initialises MPI.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from silofl.comm.collective_errors import raise_if_any, raise_on_all_ranks
    from silofl.comm.protocol import Communicator, SharedBuffer
    from silofl.comm.ranks import run_on_ranks, world
    from silofl.comm.shutdown import Shutdown, install_abort_hook
    from silofl.comm.threads import ThreadCommunicator, run_in_threads

__all__ = [
    "Communicator",
    "SharedBuffer",
    "Shutdown",
    "ThreadCommunicator",
    "install_abort_hook",
    "raise_if_any",
    "raise_on_all_ranks",
    "run_in_threads",
    "run_on_ranks",
    "world",
]

_HOMES = {
    "shutdown": ("Shutdown", "install_abort_hook"),
    "protocol": ("Communicator", "SharedBuffer"),
    "ranks": ("run_on_ranks", "world"),
    "threads": ("ThreadCommunicator", "run_in_threads"),
    "collective_errors": ("raise_if_any", "raise_on_all_ranks"),
}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
