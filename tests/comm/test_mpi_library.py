"""An MPI library that does not fit its launcher is refused."""

import pytest

from silofl.comm import mpi_library
from silofl.errors import MismatchError
from silofl.launcher.detection import Launch


def test_one_job_of_many_ranks_is_not_many_jobs_of_one():
    launch = Launch("slurm", 0, 4, executable="/usr/bin/srun")
    with pytest.raises(MismatchError, match="srun started 4 ranks but MPICH takes each for a job of its own"):
        mpi_library.check_world_size(launch, 1, "MPICH")
    mpi_library.check_world_size(launch, 4, "MPICH")
    mpi_library.check_world_size(Launch(), 1, "MPICH")


@pytest.mark.parametrize(
    ("environ", "starter"),
    [
        ({"RANK": "1", "WORLD_SIZE": "3"}, r"torchrun has 3 processes \(WORLD_SIZE=3\)"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}, r"the Slurm job has 3 processes \(SLURM_NTASKS=3\)"),
    ],
)
def test_processes_of_other_starters_are_not_one_job(environ, starter, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    remedy = "start all by `silofl launch -n 3` or `mpirun -n 3`, or one silo alone by `mpirun -n 1`"
    with pytest.raises(MismatchError, match=f"^{starter} but Open MPI takes this one .*: {remedy}$"):
        mpi_library.check_world_size(Launch(), 1, "Open MPI")
    mpi_library.check_world_size(Launch(), 3, "Open MPI")
    mpi_library.check_world_size(Launch("openmpi", 0, 1), 1, "Open MPI")


@pytest.mark.parametrize(
    ("launcher", "vendor", "refused"),
    [
        ("openmpi", "Open MPI", False),
        ("openmpi", "MPICH", True),
        ("hydra", "Open MPI", True),
        ("hydra", "MPICH", False),
        ("hydra", "Intel MPI", False),
        ("slurm", "MPICH", False),
        ("none", "Open MPI", False),
    ],
)
def test_the_library_must_be_the_launchers(launcher, vendor, refused):
    launch = Launch(launcher, 0, 2)
    if not refused:
        mpi_library.check_vendor(launch, vendor, "/lib/libmpi.so")
        return
    with pytest.raises(MismatchError, match=f"they loaded {vendor} \\(/lib/libmpi.so\\)"):
        mpi_library.check_vendor(launch, vendor, "/lib/libmpi.so")
