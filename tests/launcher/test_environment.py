"""What launchers say, as pure functions over mappings and folders."""

import pytest

from silofl.comm import mpi_library
from silofl.errors import MismatchError
from silofl.launcher import machine
from silofl.launcher.environment import (
    THREAD_VARIABLES,
    Launch,
    detect,
    plan_environment,
    plan_threads,
    prepare_environment,
)

OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
SLURM = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "6",
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
}


@pytest.mark.parametrize(
    ("environ", "executable", "want"),
    [
        ({}, None, Launch()),
        (OPENMPI, None, Launch("openmpi", 5, 8, 1, 4)),
        (HYDRA, "/opt/bin/hydra_pmi_proxy", Launch("hydra", 2, 3, 0, 2, "/opt/bin/hydra_pmi_proxy")),
        (SLURM, None, Launch("slurm", 6, 11, 2, 4)),
        (SLURM | {"SLURM_NODEID": "2"}, None, Launch("slurm", 6, 11, 2, 3)),
        (SLURM | OPENMPI, None, Launch("openmpi", 5, 8, 1, 4)),
        (SLURM | {"PMI_RANK": "6", "PMI_SIZE": "11"}, None, Launch("slurm", 6, 11, 2, 4)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, None, Launch("pmi", 1, 2)),
        (OPENMPI | HYDRA, None, Launch("openmpi", 5, 8, 1, 4)),
        (OPENMPI | HYDRA, "/b/hydra_pmi_proxy", Launch("hydra", 2, 3, 0, 2, "/b/hydra_pmi_proxy")),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None, Launch()),  # a batch script, not a step
        ({"OMPI_COMM_WORLD_RANK": "x", "OMPI_COMM_WORLD_SIZE": "8"}, None, Launch()),
    ],
)
def test_detect(environ, executable, want):
    assert detect(environ, executable) == want


@pytest.mark.parametrize(
    ("cores", "local", "threads"), [(2, 1, 2), (2, 2, 1), (2, 8, 1), (64, 4, 16), (7, 2, 3), (1, 0, 1)]
)
def test_plan_threads(cores, local, threads):
    assert plan_threads(cores, local) == threads


def test_threads_divide_the_node_within_the_binding():
    plan = plan_environment(Launch("openmpi", 0, 8, 0, 4), {}, shared_cores=64, own_cores=64)
    assert {plan[name] for name in THREAD_VARIABLES} == {"16"}
    plan = plan_environment(Launch("openmpi", 0, 8, 0, 4), {}, shared_cores=64, own_cores=1)
    assert {plan[name] for name in THREAD_VARIABLES} == {"1"}
    assert "OMPI_MCA_mpi_yield_when_idle" not in plan


@pytest.mark.parametrize("local", [2, 8])
def test_ranks_without_a_core_to_spare_yield(local):
    plan = plan_environment(Launch("openmpi", 0, local, 0, local), {}, shared_cores=2, own_cores=2)
    assert plan["OMPI_MCA_mpi_yield_when_idle"] == "1"
    assert plan["OMP_NUM_THREADS"] == "1"


def test_what_the_user_set_stays():
    environ = {
        "OMP_NUM_THREADS": "3",
        "MPI4PY_LIBMPI": "mine",
        "OMPI_MCA_mpi_yield_when_idle": "0",
    }
    plan = plan_environment(Launch("openmpi", 0, 8, 0, 8), environ, shared_cores=2, own_cores=2)
    assert not set(plan) & set(environ)
    assert plan["OPENBLAS_NUM_THREADS"] == "3"


def test_a_process_without_launcher_is_left_alone():
    assert plan_environment(Launch(), {}, shared_cores=2, own_cores=2) == {}


@pytest.mark.parametrize(
    ("launcher", "program", "library"),
    [("openmpi", "prterun", "libmpi.so.40"), ("hydra", "hydra_pmi_proxy", "libmpi.so.12")],
)
def test_the_library_beside_the_launcher_is_taken(tmp_path, launcher, program, library):
    (tmp_path / "lib").mkdir()
    for name in ("libmpi.so", library):
        (tmp_path / "lib" / name).touch()
    launch = Launch(launcher, 0, 1, 0, 1, str(tmp_path / "bin" / program))
    plan = plan_environment(launch, {}, shared_cores=2, own_cores=2)
    assert plan["MPI4PY_LIBMPI"] == str(tmp_path / "lib" / library)
    assert "MPI4PY_LIBMPI" not in plan_environment(
        launch, {"MPI4PY_MPIABI": "mpich"}, shared_cores=2, own_cores=2
    )


def test_prepare_environment_writes_the_plan():
    environ = dict(HYDRA)
    assert prepare_environment(environ).size == 3
    assert environ["NUMBA_NUM_THREADS"] == environ["OMP_NUM_THREADS"]
    assert set(HYDRA.items()) <= set(environ.items())


def test_a_cgroup_quota_limits_cores(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/job\n")
    assert machine.quota_cores(tmp_path, own) > 1000
    (tmp_path / "job").mkdir()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.quota_cores(tmp_path, own) > 1000
    (tmp_path / "job" / "cpu.max").write_text("250000 100000\n")
    assert machine.quota_cores(tmp_path, own) == 3


def test_a_cgroup_quota_of_version_1_limits_cores(tmp_path):
    own = tmp_path / "own"
    own.write_text("5:memory:/job\n4:cpu,cpuacct:/job\n")
    folder = tmp_path / "cpu" / "job"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.quota_cores(tmp_path, own) > 1000
    (folder / "cpu.cfs_quota_us").write_text("50000\n")
    assert machine.quota_cores(tmp_path, own) == 1


def test_missing_cgroups_limit_nothing(tmp_path):
    assert machine.quota_cores(tmp_path, tmp_path / "none") > 1000


def test_one_job_of_many_ranks_is_not_many_jobs_of_one():
    launch = Launch("slurm", 0, 4, executable="/usr/bin/srun")
    with pytest.raises(MismatchError, match="srun started 4 ranks but MPICH takes each for a job of its own"):
        mpi_library.refuse_singletons(launch, 1, "MPICH")
    mpi_library.refuse_singletons(launch, 4, "MPICH")
    mpi_library.refuse_singletons(Launch(), 1, "MPICH")


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
        mpi_library.refuse_other_vendor(launch, vendor, "/lib/libmpi.so")
        return
    with pytest.raises(MismatchError, match=f"they loaded {vendor} \\(/lib/libmpi.so\\)"):
        mpi_library.refuse_other_vendor(launch, vendor, "/lib/libmpi.so")
