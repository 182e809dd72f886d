"""What ranks settle before torch is loaded, in which nearly all bad input shows: `prepare`.

Torch and its compiler take seconds to load, on every rank; the modules that this one imports do without.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from silofl import __version__, silo_log
from silofl.checkpoint.trust import Trust
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.peer_heartbeats import PeerHeartbeats
from silofl.comm.protocol import Communicator
from silofl.comm.respawn import Place
from silofl.config import Config, for_silo
from silofl.console import LOGGER
from silofl.errors import DataError
from silofl.federation import rundir
from silofl.federation.early_checks import Start, refuse_early
from silofl.federation.failure.peers import watch_peers
from silofl.federation.failure.policy import stop_reason
from silofl.federation.handshake import agree_on_version_and_config
from silofl.federation.left_out import leave_out
from silofl.federation.own_log import note, notices_kept, own_log_path
from silofl.federation.run_trust import agree_on_run
from silofl.federation.schema import agree_on_schema
from silofl.tasks.early import own_files, read_early
from silofl.tasks.readers import Samples
from silofl.topologies.arrangements import registry as arrangements
from silofl.topologies.arrangements.registry import coordinators
from silofl.topologies.grouping import arrange


@dataclass
class Prepared:
    """A run on one rank, before it has a task."""

    start: Start
    group: ElasticGroup
    peers: PeerHeartbeats
    """To be closed when the run is over: a context."""
    local_rank: int
    place: Place
    """Where the rank began, before a user's task may go to another folder."""
    path: Path
    """The run directory."""
    trust: Trust
    notices: list[str]
    """What was found so far, for people."""
    samples: Samples | None
    """Of the silo's own files; None where the task reads others. For who takes them up to let go."""


def prepare(
    config: Config,
    *,
    comm: Communicator,
    resume: bool,
    own_task: bool = False,
    on_directory: Callable[[Path], None] = lambda path: None,
) -> Prepared:
    """Make all early checks, compare ranks, resumes and columns of files; collective.

    Raises SiloflError, the same on every rank. Arguments: see `loop.train`; `own_task`: see `Start`.
    """
    start, place = Start(config, comm.size, resume, own_task), Place.own(comm.local_rank)
    with raise_on_all_ranks(comm):
        several = comm.several_hosts
        reason = stop_reason(config, comm.size, several_hosts=several, groups=lambda: comm.groups)
    group = ElasticGroup(comm, stop_reason=reason)
    group.step(lambda: agree_on_version_and_config(group.comm, config))
    with ExitStack() as stack:
        peers = stack.enter_context(watch_peers(group, config))
        group.step(lambda: peers.connect(group.comm))  # a link may be cut while ranks are set up, too
        notices = _leave_out(group, start)  # first: what is wrong with lost files ends nothing
        group.step(lambda: _check(group, start))
        arrange(group, arrangements.build(config.topology))
        own = for_silo(config, group.silo_id)
        path = group.step(lambda: rundir.choose(group.comm, own, resume=resume))
        on_directory(path)
        _begin_log(group, path, start.silos)
        trust = group.step(lambda: agree_on_run(group, config, path, start.silos, resume=resume))
        samples = None if own_task else group.step(lambda: _read(group, config, path, start.silos))
        stack.pop_all()
    return Prepared(start, group, peers, comm.local_rank, place, path, trust, notices, samples)


def _begin_log(group: ElasticGroup, path: Path, silos: int) -> None:
    silo_log.begin(path, group.silo_id, whole_process=isinstance(group.comm, MpiCommunicator))
    where = f"process {os.getpid()} on {socket.gethostname()}"
    LOGGER.info("%s", f"silofl {__version__}, silo {group.silo_id} of {silos}, {where}")


def _leave_out(group: ElasticGroup, start: Start) -> list[str]:
    config = start.config
    if not start.resume or config.failure.policy != "shrink":
        return []

    def choose() -> Path:
        with raise_on_all_ranks(group.comm):
            own = for_silo(config, group.silo_id)
        return rundir.choose(group.comm, own, resume=True)

    return leave_out(group, config, group.step(choose), start.silos)


def _check(group: ElasticGroup, start: Start) -> None:
    with raise_on_all_ranks(group.comm):
        refuse_early(start, [group.silo_id])


def _read(group: ElasticGroup, config: Config, path: Path, silos: int) -> Samples | None:
    """The silo's own files, whose columns are the other silos'.

    What may be a value goes into the silo's own log, in the run directory `path`, and to no other rank.
    """
    with raise_on_all_ranks(group.comm), notices_kept(config, path, group.silo_id):
        try:
            without = group.silo_id in coordinators(config.topology, silos)
            samples = None if without else read_early(config, group.silo_id)
        except DataError as error:
            if not error.own:
                raise
            note(path, group.silo_id, f"{error}: {error.own}")
            where = own_log_path(path, group.silo_id)
            said = f"{error}; names are in {where}, for silo {group.silo_id} alone"
            raise DataError(said, rank=error.rank) from None
    if own_files(config) is not None:
        agree_on_schema(group.comm, None if samples is None else (*samples.schema, *samples.targets))
    return samples
