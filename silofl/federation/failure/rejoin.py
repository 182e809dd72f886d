"""The way back of a failed silo: it restores itself while survivors wait, and rejoins between rounds."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from silofl import silo_log
from silofl.comm import group_tree
from silofl.comm.collective_errors import describe
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.protocol import RankFailedError
from silofl.comm.respawn import RefusedError, SpawnInfo, join
from silofl.comm.shutdown import finalize_or
from silofl.config import Config, for_silo
from silofl.console import LOGGER, log
from silofl.crypto.key_file import silo_key
from silofl.errors import ChangedDataError, ConfigError, LessProtectionError, OtherTrailError, SiloflError
from silofl.federation import standardization
from silofl.federation.failure.admission import WITHDRAWN, Admission
from silofl.federation.failure.peers import watch_peers
from silofl.federation.failure.policy import stop_reason
from silofl.federation.failure.respawn_policy import RespawnPolicy
from silofl.federation.failure.respawner import RejoinState
from silofl.federation.federation import RunContext
from silofl.federation.loop import Json, Run
from silofl.federation.run_trust import returning_trust
from silofl.federation.rundir import own_path
from silofl.federation.schema import digest
from silofl.federation.silo import Silo
from silofl.federation.start import build_silo, build_task
from silofl.federation.stop import StopRequest
from silofl.launcher import watchdog
from silofl.tasks.base import Task
from silofl.tasks.files import Files
from silofl.tasks.user_code import UserCode

LATE_S = 10.0
"""So long after the others gave it up a silo that is not ready ends."""


def rejoin(
    load: Callable[[int, int], Config],
    task: Task | None,
    *,
    comm: MpiCommunicator,
    spawn_info: SpawnInfo,
    resumed: bool,
    on_directory: Callable[[Path], None] = lambda path: None,
    stop: StopRequest | None = None,
) -> Json:
    """`train` on a rank that was started again; collective with `RespawnPolicy.respawn` of the others.

    `comm` is what this process began with, alone. Where it cannot come back, or too late, it ends by itself.
    """
    stop = StopRequest() if stop is None else stop
    try:
        with _withdrawing(comm, spawn_info):
            config = load(spawn_info.number, spawn_info.silos)
        # The others go on without a silo that is late, but the launcher would wait for it to the end.
        with watchdog.ready_within(config.failure.rejoin_s + LATE_S):
            with _withdrawing(comm, spawn_info):
                folder = Path.cwd()  # before a user's task may go to another
                number = spawn_info.number
                trust = returning_trust(config, number, spawn_info.silos, spawn_info.told)
                silo = _own_silo(config, task, comm, spawn_info)
                assert trust.signer is not None, "every silo of a run has keys"
                model, columns = silo.model.fingerprint(), digest(silo.schema)
                admission = Admission(config, number, model, columns, trust.signer)
                claim = admission.claim(bytes.fromhex(spawn_info.challenge))
            merged = join(comm, spawn_info, claim)
            leader = merged.members.index(spawn_info.leader)
            told = RejoinState.decode(merged.broadcast_bytes(b"", leader))
    except Exception as error:
        _stay_away(comm, spawn_info.number, error)
    merged.arrange(group_tree.loads(spawn_info.told.get("groups", "[]")))  # as the others, before they meet
    several = merged.several_hosts
    reason = stop_reason(config, spawn_info.silos, several_hosts=several, groups=lambda: merged.groups)
    group = ElasticGroup(merged, stop_reason=reason)
    group.started()
    peers = watch_peers(group, config)  # connected with the others', as all adopt the new communicator
    group.adopt(merged, told.completed)
    try:
        path = folder / own_path(for_silo(config, spawn_info.number), told.path)
        statistics = standardization.of_returning(
            path, spawn_info.number, spawn_info.told.get("preprocessing")
        )
    except ConfigError as error:
        _stay_away(comm, spawn_info.number, error)
    on_directory(path)
    silo_log.begin(path, spawn_info.number, whole_process=True)
    silo_log.begin_round(told.round)
    LOGGER.info("%s", f"silo {spawn_info.number} is back, as process {os.getpid()} on {socket.gethostname()}")
    respawns = RespawnPolicy(config.failure.rejoin_s, admission, told=spawn_info.told)
    run = trust.of_run(told.run)
    context = RunContext.of(group, config, silo, spawn_info.silos, path, respawns, run, statistics)
    try:
        with peers:
            return Run(context, path, stop, resumed=resumed).rejoin(told)
    except (LessProtectionError, ChangedDataError, OtherTrailError) as error:
        # What was told forgets what this silo spent (`PrivacyEngine.come_back`), or its data are others than
        # in the round that it took part in (`federation/origin.py`): this silo's to refuse, and its alone.
        _stay_away(comm, spawn_info.number, error)


def _own_silo(config: Config, task: Task | None, comm: MpiCommunicator, spawn_info: SpawnInfo) -> Silo:
    """This silo, with its data, as far as it needs nobody else."""
    alone = ElasticGroup(comm, fault_tolerant=False)
    built = build_task(alone, config, task)
    if isinstance(built, Files) and built.federated:
        built.agree(standardization.loads(spawn_info.told["preprocessing"]).preprocessing)
    code = UserCode(spawn_info.number)  # the run directory is not known yet
    silo = build_silo(alone, config, built, code, spawn_info.silos, spawn_info.local_rank)
    if config.checkpoint.buddy:
        silo_key(config.checkpoint.key_file, spawn_info.number)
    return silo


@contextmanager
def _withdrawing(comm: MpiCommunicator, spawn_info: SpawnInfo) -> Iterator[None]:
    """Where the block raises, let the survivors know, who need not wait; then a RefusedError says why."""
    try:
        yield
    except Exception as error:
        with suppress(RankFailedError):
            try:
                join(comm, spawn_info, WITHDRAWN)
            except RefusedError:
                raise RefusedError(_sentence(error)) from error
        raise


def _stay_away(comm: MpiCommunicator, number: int, error: Exception) -> NoReturn:
    """End this process and no other: the others go on without it, as after its first death."""
    log(f"silo {number} cannot rejoin: {_sentence(error)}")
    sys.stdout.flush()
    kill = partial(os.kill, os.getpid(), signal.SIGKILL)
    if isinstance(error, RefusedError):  # they miss nobody, and the launcher takes this for no failure
        finalize_or(kill, comm)
        os._exit(0)
    kill()
    raise AssertionError("unreachable: this process is dead")


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, SiloflError) else describe(error)
