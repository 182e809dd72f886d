"""The variables of a rank, as pure functions over mappings and folders."""

import pytest

from silofl.errors import ConfigError
from silofl.launcher.detection import Launch
from silofl.launcher.environment import (
    THREAD_VARIABLES,
    home_folder,
    plan_environment,
    plan_threads,
    planned_threads,
    prepare_environment,
)

HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}


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


@pytest.mark.parametrize(
    ("text", "others"),
    [("3", "3"), ("4,3,2", "4"), (" 4 , 3 ", "4"), ("007", "7"), ("", "1"), (" ", "1")],
)
def test_a_list_of_threads_counts_by_its_first_number(text, others):
    """One number a nesting level is OpenMP's alone: NumPy's and numba's variables take one."""
    environ = {"OMP_NUM_THREADS": text}
    plan = plan_environment(Launch("openmpi", 0, 2, 0, 2), environ, shared_cores=2, own_cores=2)
    assert {plan[name] for name in THREAD_VARIABLES if name != "OMP_NUM_THREADS"} == {others}
    assert ("OMP_NUM_THREADS" in plan) == (not text.strip())
    assert planned_threads({**environ, **plan}) == (None if text.strip() else 1)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NUMBA_NUM_THREADS"])
@pytest.mark.parametrize("text", ["many", "0", "-1", "2.5", "4;2", "1e3", "4,", "4,0", "\u0664", "1000000"])
def test_what_is_no_number_of_threads_is_refused(name, text):
    """OpenMP would ignore it and take every core on every rank; numba would end in a traceback."""
    with pytest.raises(ConfigError, match=f"^{name}={text} is no number of threads: set one from 1 on"):
        prepare_environment({name: text})


def test_home_is_the_account_s_where_it_is_unset(monkeypatch):
    monkeypatch.setattr("pwd.getpwuid", lambda number: type("Account", (), {"pw_dir": "/home/north"}))
    environ = {}
    prepare_environment(environ)
    assert environ["HOME"] == home_folder({"HOME": ""}) == "/home/north"
    assert home_folder({"HOME": "/mine"}) == "/mine"

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert home_folder({"TMPDIR": "/scratch"}) == "/scratch"
    assert home_folder({}) == "/tmp"
