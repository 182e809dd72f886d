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
