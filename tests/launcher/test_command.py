"""The mpirun line, the info that it is made of, and the device of a rank."""

import os
import sys
from dataclasses import replace

import pytest

from silofl.comm.mpi_library import mpi_info
from silofl.errors import ConfigError, MissingDependencyError
from silofl.launcher.command import launch_command
from silofl.launcher.mpi_info import MpiInfo, find_launchers, vendor_of
from silofl.training.device import device_name

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


def test_facts_of_this_machine():
    info = mpi_info()
    assert info.vendor in {"openmpi", "mpich", "other"}
    assert info.library is None or os.path.exists(info.library)
    assert info.cores >= 1
    assert all(os.access(path, os.X_OK) for path in info.launchers)
    if info.library and info.library.startswith(sys.prefix):
        assert info.launchers[0].startswith(os.path.dirname(os.path.dirname(info.library)))
    if (info.vendor, info.version[:1]) == ("openmpi", "5"):
        assert info.ulfm is True


def test_launchers_beside_the_library_come_first(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("mpirun", "mpiexec"):
        (tmp_path / "bin" / name).touch(mode=0o755)
    found = find_launchers(str(tmp_path / "lib" / "libmpi.so.40"))
    assert found[:2] == (str(tmp_path / "bin" / "mpirun"), str(tmp_path / "bin" / "mpiexec"))


def test_vendors():
    assert [vendor_of(name) for name in ("Open MPI", "MPICH", "Intel MPI", "Platform MPI")] == [
        "openmpi",
        "mpich",
        "mpich",
        "other",
    ]


@pytest.mark.parametrize(
    ("requested", "gpus", "local_rank", "name"),
    [
        ("auto", 0, 3, "cpu"),
        ("auto", 4, 3, "cuda:3"),
        ("auto", 2, 3, "cuda:1"),
        ("auto", 1, 3, "cuda:0"),
        ("cpu", 4, 1, "cpu"),
        ("cuda", 4, 5, "cuda:1"),
        ("cuda:2", 4, 0, "cuda:2"),
    ],
)
def test_device_of_a_rank(requested, gpus, local_rank, name):
    assert device_name(requested, gpus, local_rank) == name


@pytest.mark.parametrize(
    ("requested", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:4", 4), ("cuda:x", 4), ("tpu", 1)]
)
def test_a_device_that_is_not_there_is_refused(requested, gpus):
    with pytest.raises(ConfigError, match=r"train\.device is"):
        device_name(requested, gpus, 0)
