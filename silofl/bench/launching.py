"""Benchmarks over ranks: inside mpirun they run, outside they start their own mpirun."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from silofl.comm.mpi_library import mpi_info
from silofl.launcher.command import launch_command, python_command
from silofl.launcher.detection import detect
from silofl.launcher.hosts import named_hosts


def on_ranks(
    ranks: int, arguments: Sequence[str], host: str | None = None, hostfile: Path | None = None
) -> None:
    """Return at once on a rank; elsewhere replace this process by `mpirun -n ranks silofl arguments`.

    `host` and `hostfile` say where ranks run, as in `silofl launch`.
    """
    if detect(os.environ).size is not None:
        return
    info = mpi_info()
    argv = [*python_command(), *arguments]
    hosts = named_hosts(host, hostfile, ranks)
    line = launch_command(info, ranks, root=os.geteuid() == 0, argv=argv, hosts=hosts)
    sys.stdout.flush()
    os.execv(Path(line[0]), line)
