"""The MPI library of this machine, its vendor and launchers."""

import os
import sys

from silofl.comm.mpi_library import mpi_info
from silofl.launcher.mpi_info import find_launchers, vendor_of


def test_this_machine():
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
