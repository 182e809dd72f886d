"""A job that `silofl launch` starts: its command, on which hosts, and again where it can go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from silofl.launcher import restarts
from silofl.launcher.cluster import Cluster, notice_silence
from silofl.launcher.command import launch_command, launch_command_in_order
from silofl.launcher.hosts import Host
from silofl.launcher.mpi_info import MpiInfo


@dataclass(frozen=True)
class JobStart:
    """What is started."""

    info: MpiInfo
    ranks: int
    hosts: Sequence[Host]
    """None: the launcher finds its own, which is this machine or what a queue gave it."""
    train: Sequence[str]
    """The command of a rank."""
    root: bool
    """Whether this is root, which Open MPI wants to be told."""
    silent_s: float
    """After how long a host that tells nothing is taken for lost."""
    in_order: bool = False
    """Whether silo by silo runs on these hosts and on no other, for its data is there."""
    leaves_out: bool = False
    """Whether the job goes on without silos whose hosts are lost."""

    def line(self, hosts: Sequence[Host], without: Sequence[int] = (), *, resume: bool) -> list[str]:
        """The launcher's command on these hosts; errors are those of `launch_command`.

        `without`: the silos that are left out, which have a rank all the same.
        """
        argv = [*self.train, *(["--resume"] if resume else [])]
        argv += [f"--set=failure.leave_out={list(without)}"] if without else []
        ulfm = self.info.fault_tolerant
        start = launch_command_in_order if self.in_order else launch_command
        return start(self.info, self.ranks, root=self.root, argv=argv, ulfm=ulfm, hosts=hosts)

    def run(self, most_restarts: int, *, resume: bool) -> int:
        """Start the job, and again where it failed and can go on; the exit code."""
        first = self.line(self.hosts, resume=resume)
        if not self.hosts:
            resumed = self.line((), resume=True)
            return restarts.supervise_restarts(first, resumed, most_restarts, ranks_tell=True)
        again = partial(self.line, resume=True)
        cluster = Cluster(
            self.hosts,
            self.train[0],
            again,
            movable=not self.in_order,
            line_without=again if self.leaves_out else None,
        )
        cluster.refuse_silent()
        notice_silence(self.silent_s)
        return restarts.supervise_restarts(first, cluster, most_restarts, ranks_tell=True)
