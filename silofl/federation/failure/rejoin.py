"""The way back of a lost silo: it restores itself while the others wait, and joins them between rounds."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from silofl.comm.collective_errors import describe
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.respawn import SpawnInfo, join
from silofl.config import Config
from silofl.console import log
from silofl.crypto.key_file import silo_key
from silofl.federation.failure.policy import stop_reason
from silofl.federation.failure.respawn_policy import RespawnPolicy
from silofl.federation.federation import build_silo, build_task
from silofl.federation.loop import Record, Run
from silofl.federation.stop import StopRequest
from silofl.launcher import watchdog
from silofl.tasks.base import Task

LATE_S = 10.0
"""So long after the others gave it up a silo that is not ready ends."""


def rejoin(
    config: Config,
    task: Task | None,
    *,
    comm: MpiCommunicator,
    spawn_info: SpawnInfo,
    resumed: bool,
    on_directory: Callable[[Path], None] = lambda path: None,
    stop: StopRequest | None = None,
) -> Record:
    """`train` on a rank that was started again; collective with `RespawnPolicy.call` of the others.

    `comm` is what this process began with, alone. Where it cannot come back, or too late, it ends by itself.
    """
    stop = StopRequest() if stop is None else stop
    try:
        # The others go on without a silo that is late, but the launcher would wait for it to the end.
        with watchdog.ready_within(config.failure.rejoin_s + LATE_S):
            alone = ElasticGroup(comm, fault_tolerant=False)
            built = build_task(alone, config, task)
            silo = build_silo(
                alone, config, built, spawn_info.number, spawn_info.silos, spawn_info.local_rank
            )
            if config.checkpoint.buddy:
                silo_key(
                    config.checkpoint.key_file, spawn_info.number
                )  # a fault of this silo's alone, so far
            merged = join(comm, spawn_info)
            rejoin_state = json.loads(merged.broadcast_bytes(b"", merged.members.index(spawn_info.leader)))
    except Exception as error:
        _stay_away(spawn_info.number, error)
    group = ElasticGroup(merged, stop_reason=stop_reason(config, spawn_info.silos))
    group.started()
    group.adopt(merged, rejoin_state["completed"])
    path = Path(config.run.dir or rejoin_state["path"])
    on_directory(path)
    respawns = RespawnPolicy.from_state(rejoin_state["respawns"], config.failure.rejoin_s)
    run = Run(group, config, silo, spawn_info.silos, path, stop, resumed=resumed, respawns=respawns)
    run.rejoin(rejoin_state)
    return run.complete(rejoin_state["round"])


def _stay_away(number: int, error: Exception) -> NoReturn:
    """End this process and no other: the others go on without it, as after its first death."""
    log(f"silo {number} cannot come back: {describe(error)}")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable: this process is dead")
