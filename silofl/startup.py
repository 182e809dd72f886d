"""The start and end of the command: no garbage collection while libraries load, and none of them at its end.

Torch and what belongs to it make half a million objects that stay. Looking through them again and again for
garbage takes a third of the time that a rank needs to start, and a lost silo to come back.
"""

from __future__ import annotations

import gc
import threading

_loading = threading.Event()


def begin() -> None:
    """Collect no garbage until `over`. For a process of silofl's own: a user's keeps its ways."""
    _loading.set()
    gc.disable()


def end() -> None:
    """Look through nothing at the interpreter's end, which takes a second after torch was loaded."""
    gc.disable()
    gc.freeze()


def over() -> None:
    """Collect again, and never look through what is there already; nothing without `begin`."""
    if _loading.is_set():
        _loading.clear()
        gc.freeze()
        gc.enable()
