"""The mpirun line that fits an MPI library."""

from dataclasses import replace

import pytest

from silofl.errors import ConfigError, MissingDependencyError
from silofl.launcher.command import launch_command
from silofl.launcher.mpi_info import MpiInfo

OPENMPI = MpiInfo("openmpi", "Open MPI", "5.0.11", "/p/lib/libmpi.so.40", ("/p/bin/mpirun",), True, False, 2)
MPICH = MpiInfo("mpich", "MPICH", "5.0.2", "/q/lib/libmpi.so.12", ("/q/bin/mpiexec",), True, None, 2)
ARGV = ["python", "-m", "silofl", "train", "a b.toml"]


@pytest.mark.parametrize(
    ("info", "given", "line"),
    [
        (OPENMPI, {"ranks": 2}, "/p/bin/mpirun --bind-to none -n 2"),
        (OPENMPI, {"ranks": 4}, "/p/bin/mpirun --oversubscribe --bind-to none -n 4"),
        (
            OPENMPI,
            {"ranks": 1, "root": True},
            "/p/bin/mpirun --allow-run-as-root --bind-to none -n 1",
        ),
        (OPENMPI, {"ranks": 2, "ulfm": True}, "/p/bin/mpirun --with-ft ulfm --bind-to none -n 2"),
        (MPICH, {"ranks": 8, "root": True}, "/q/bin/mpiexec -bind-to none -n 8"),
        (
            MPICH,
            {"ranks": 2, "ulfm": True},
            "/q/bin/mpiexec -disable-auto-cleanup -bind-to none -n 2",
        ),
        (replace(MPICH, vendor="other"), {"ranks": 2}, "/q/bin/mpiexec -n 2"),
    ],
)
def test_the_line_fits_the_machine(info, given, line):
    assert launch_command(info, **{"root": False, **given}, argv=ARGV) == [*line.split(), *ARGV]


def test_lines_that_cannot_be_are_refused():
    for info, ranks, ulfm, kind in (
        (OPENMPI, 0, False, ConfigError),
        (replace(OPENMPI, ulfm=False), 2, True, ConfigError),
        (replace(OPENMPI, launchers=()), 2, False, MissingDependencyError),
    ):
        with pytest.raises(kind):
            launch_command(info, ranks, root=False, argv=ARGV, ulfm=ulfm)
