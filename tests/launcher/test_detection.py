"""What launchers set, as pure functions over mappings."""

import pytest

from silofl.errors import MismatchError
from silofl.launcher import detection
from silofl.launcher.detection import Launch, Started, detect, refuse_several_launches, started_among

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


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1"}
BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("environ", "want"),
    [
        (TORCHRUN, Started("torchrun", 1, 3, "WORLD_SIZE")),
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}, Started("Horovod's launcher", 0, 2, "HOROVOD_SIZE")),
        (
            {"JSM_NAMESPACE_RANK": "4", "JSM_NAMESPACE_SIZE": "6"},
            Started("jsrun", 4, 6, "JSM_NAMESPACE_SIZE"),
        ),
        ({"FLUX_TASK_RANK": "0", "FLUX_JOB_SIZE": "6"}, Started("flux run", 0, 6, "FLUX_JOB_SIZE")),
        (
            {"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2"},
            Started("MVAPICH's launcher", 0, 2, "MV2_COMM_WORLD_SIZE"),
        ),
        (SLURM, Started("srun", 6, 11, "")),
        (OPENMPI, Started("mpirun", 5, 8, "")),
        (TORCHRUN | {"WORLD_SIZE": "1"}, None),
        ({"WORLD_SIZE": "3"}, None),  # a script's own variable: nothing numbers this process
        ({"RANK": "x", "WORLD_SIZE": "3"}, None),
        (TORCHRUN | OPENMPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),  # one rank in a pod that has the others'
        (BATCH, None),
        ({}, None),
    ],
)
def test_processes_that_were_started_together(environ, want):
    assert started_among(environ, detect(environ)) == want


def test_tasks_of_a_slurm_job_around_a_process_without_launcher():
    assert detection.slurm_tasks(BATCH, Launch()) == Started("the Slurm job", 0, 4, "SLURM_NTASKS")
    assert detection.slurm_tasks(BATCH, Launch("openmpi", 0, 1)) is None
    assert detection.slurm_tasks({}, Launch()) is None


@pytest.mark.parametrize(
    ("environ", "want"),
    [
        ({}, True),
        (BATCH | {"SLURM_JOB_NUM_NODES": "1"}, True),
        (BATCH | {"SLURM_JOB_NUM_NODES": "2"}, False),
        (BATCH | {"SLURM_NNODES": "2"}, False),
        ({"PBS_NODEFILE": "/var/spool/nodes"}, False),
        ({"PRTE_MCA_prte_default_hostfile": "hosts"}, False),
    ],
)
def test_whether_all_ranks_start_here(environ, want):
    assert detection.on_one_node(environ) is want


def test_one_process_reports_for_all(monkeypatch):
    monkeypatch.setattr(detection, "launcher_executable", lambda: None)
    assert detection.first_of_its_start({})
    assert detection.first_of_its_start(TORCHRUN | {"RANK": "0"})
    assert not detection.first_of_its_start(TORCHRUN)
    assert not detection.first_of_its_start(OPENMPI)


def test_a_launch_that_is_started_several_times_is_refused(monkeypatch):
    monkeypatch.setattr(detection, "launcher_executable", lambda: None)
    for environ in (TORCHRUN, OPENMPI, SLURM):
        with pytest.raises(MismatchError, match=r"started silofl launch \d+ times, .*: start it once"):
            refuse_several_launches(environ)
    refuse_several_launches({})
    refuse_several_launches(BATCH)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    refuse_several_launches(SLURM)  # a shell that `srun --pty` has opened
