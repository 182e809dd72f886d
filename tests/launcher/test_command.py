"""The mpirun line that fits an MPI library."""

from dataclasses import replace

import pytest

from silofl.errors import ConfigError, MissingDependencyError
from silofl.launcher.command import launch_command, launch_command_in_order
from silofl.launcher.hosts import Host
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


def test_hosts_are_told_in_the_words_of_the_launcher():
    hosts = [Host("a", 2), Host("b", 1)]
    environ = {"OMP_NUM_THREADS": "2", "PYTHONPATH": "/x", "NUMBA_NUM_THREADS": "", "SECRET": "s"}
    given = {"ranks": 3, "root": False, "argv": ARGV, "ulfm": True, "hosts": hosts, "environ": environ}
    passed_on = "-x OMP_NUM_THREADS -x PYTHONPATH -x SILOFL_EXIT_STATUS"
    line = f"/p/bin/mpirun --host a:2,b:1 --map-by slot {passed_on} --with-ft ulfm --bind-to none -n 3"
    assert launch_command(OPENMPI, **given) == [*line.split(), *ARGV]
    line = "/q/bin/mpiexec -hosts a:2,b:1 -disable-auto-cleanup -bind-to none -n 3"
    assert launch_command(MPICH, **given) == [*line.split(), *ARGV]
    with pytest.raises(ConfigError, match="how the launcher of MPICH takes hosts"):
        launch_command(replace(MPICH, vendor="other"), **given)


def test_silos_in_the_order_of_institutions_are_app_contexts():
    """A host may come again, which `--host a,b,a` would fill before the next."""
    hosts = [Host("a", 1), Host("b", 2), Host("a", 1)]
    given = {"ranks": 4, "root": True, "argv": ARGV, "ulfm": True, "hosts": hosts, "environ": {}}
    line = launch_command_in_order(OPENMPI, **given)
    common = "/p/bin/mpirun --allow-run-as-root --map-by slot -x SILOFL_EXIT_STATUS --with-ft ulfm"
    assert line == [
        *(*common.split(), "--bind-to", "none"),
        *("-n", "1", "--host", "a:1", *ARGV, ":", "-n", "2", "--host", "b:2", *ARGV),
        *(":", "-n", "1", "--host", "a:1", *ARGV),
    ]
    with pytest.raises(ConfigError, match="institutions' hosts need Open MPI"):
        launch_command_in_order(MPICH, **given)


def test_lines_that_cannot_be_are_refused():
    for info, ranks, ulfm, kind in (
        (OPENMPI, 0, False, ConfigError),
        (replace(OPENMPI, ulfm=False), 2, True, ConfigError),
        (replace(OPENMPI, launchers=()), 2, False, MissingDependencyError),
    ):
        with pytest.raises(kind):
            launch_command(info, ranks, root=False, argv=ARGV, ulfm=ulfm)
