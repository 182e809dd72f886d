"""What launchers set, as pure functions over mappings."""

import pytest

from silofl.launcher.detection import Launch, detect

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
