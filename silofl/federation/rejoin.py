"""The way back of a lost silo: it restores itself while the others wait, and joins them between rounds."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from silofl.comm import watchdog
from silofl.comm.crew import Crew
from silofl.comm.ending import say
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.recall import Invitation, join
from silofl.comm.verdict import describe
from silofl.config import Config
from silofl.crypto.key_file import silo_key
from silofl.federation.federation import build_silo, build_task
from silofl.federation.loop import Record, Run
from silofl.federation.membership import refusal
from silofl.federation.recalls import Recalls
from silofl.federation.stop import StopRequest
from silofl.tasks.base import Task

LATE_S = 10.0
"""So long after the others gave it up a silo that is not ready ends."""


def rejoin(
    config: Config,
    task: Task | None,
    *,
    comm: MpiCommunicator,
    invited: Invitation,
    resumed: bool,
    on_directory: Callable[[Path], None] = lambda path: None,
    stop: StopRequest | None = None,
) -> Record:
    """`train` on a rank that was started again; collective with `Recalls.call` of the others.

    `comm` is what this process began with, alone. Where it cannot come back, or too late, it ends by itself.
    """
    stop = StopRequest() if stop is None else stop
    try:
        # The others go on without a silo that is late, but the launcher would wait for it to the end.
        with watchdog.ready_within(config.failure.rejoin_s + LATE_S):
            alone = Crew(comm, repeats=False)
            built = build_task(alone, config, task)
            silo = build_silo(alone, config, built, invited.number, invited.silos, invited.local_rank)
            if config.checkpoint.buddy:
                silo_key(config.checkpoint.key_file, invited.number)  # a fault of this silo's alone, so far
            heir = join(comm, invited)
            handover = json.loads(heir.broadcast_bytes(b"", heir.members.index(invited.leader)))
    except Exception as error:
        _stay_away(invited.number, error)
    crew = Crew(heir, refuse=refusal(config, invited.silos))
    crew.started()
    crew.replace(heir, handover["completed"])
    path = Path(config.run.dir or handover["path"])
    on_directory(path)
    recalls = Recalls.taken_up(handover["recalls"], config.failure.rejoin_s)
    run = Run(crew, config, silo, invited.silos, path, stop, resumed=resumed, recalls=recalls)
    run.rejoin(handover)
    return run.complete(handover["round"])


def _stay_away(number: int, error: Exception) -> NoReturn:
    """End this process and no other: the others go on without it, as after its first death."""
    say(f"silo {number} cannot come back: {describe(error)}")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable: this process is dead")
