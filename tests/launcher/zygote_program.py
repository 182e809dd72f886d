"""What the zygotes of tests load, and what their forks run: `-c CODE`, by `-w` under a watchdog."""

import importlib
import os
import sys

from silofl.launcher import watchdog

TRIED = "LC_SILOFL_TEST_ZYGOTE"
"""Environment variable that a zygote gets, as all that begin so: what goes wrong in it."""


def preload() -> None:
    tried = os.environ.get(TRIED, "")
    if tried == "dies":
        os._exit(3)
    if tried == "has threads":
        import threading

        threading.Thread(target=threading.Event().wait, daemon=True).start()
    if tried == "has MPI":
        sys.modules["mpi4py.MPI"] = importlib.import_module("math")
    import multiprocessing.process  # noqa: F401

    import numpy  # noqa: F401


def main() -> None:
    if sys.argv[1] == "-w":
        del sys.argv[1]
        watchdog.spawn_watchdog(0, survivors_go_on="ulfm" in os.environ)
    sys.argv.pop(0)
    code = sys.argv.pop(1)
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
