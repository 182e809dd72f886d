"""What forks find loaded, and their threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from silofl.launcher.environment import THREAD_VARIABLES
from silofl.preload import set_threads

PRELOADED = """
import json, os, sys
from silofl.launcher.zygote import server, standing
from silofl.preload import preload, set_threads
preload()
found = {"may fork": server.may_fork()}
found["late"] = sorted({"torch._dynamo", "mpi4py.MPI", "sklearn"} & set(sys.modules))
found["there"] = sorted({"silofl.federation.loop", "silofl.tasks.digits", "silofl.cli"} & set(sys.modules))
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "3"
standing.set_stub(object())
set_threads()
import numba, threadpoolctl, torch
found["torch"] = torch.get_num_threads()
found["BLAS"] = sorted({one["num_threads"] for one in threadpoolctl.threadpool_info()})
found["numba"] = numba.config.NUMBA_NUM_THREADS
print(json.dumps(found))
"""


def test_everything_is_loaded_and_nothing_that_a_fork_could_not_take_over() -> None:
    environ = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    line = [sys.executable, "-c", PRELOADED]
    done = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == {
        "may fork": True,
        "late": [],
        "there": ["silofl.cli", "silofl.federation.loop", "silofl.tasks.digits"],
        "torch": 3,
        "BLAS": [3],
        "numba": 3,
    }


def test_a_process_that_is_no_fork_keeps_its_threads() -> None:
    import torch

    before = torch.get_num_threads()
    set_threads({"OMP_NUM_THREADS": str(before + 1)})
    assert torch.get_num_threads() == before
