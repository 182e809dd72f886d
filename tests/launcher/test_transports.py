"""Which transports Open MPI loads, and whose choice that is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from silofl.comm.mpi_library import mpi_info
from silofl.launcher.transports import TRANSPORTS, leave_out_one_sided


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """An Open MPI beside this Python, as its wheel installs it."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "lib").mkdir()
    (tmp_path / "etc").mkdir()
    return str(tmp_path / "lib" / "libmpi.so.40")


def left_out(library: str | None, **environ: str) -> str | None:
    variables = {"HOME": "/nonexistent", **environ}
    leave_out_one_sided(variables, library)
    return variables.get(TRANSPORTS)


def test_the_open_mpi_beside_python_does_without_one_sided_communication(beside):
    assert left_out(beside) == "^ofi"


@pytest.mark.parametrize(
    "library", [None, "/usr/lib/x86_64-linux-gnu/libmpi.so.40", "/opt/cray/libmpi.so.40"]
)
def test_a_site_s_own_mpi_keeps_its_settings(beside, library):
    assert left_out(library) is None


def test_mpich_is_not_told(beside):
    assert left_out(beside.replace(".40", ".12")) is None


def test_what_the_user_chose_stays(beside):
    assert left_out(beside, **{TRANSPORTS: "tcp,self"}) == "tcp,self"


@pytest.mark.parametrize("line", ["btl = tcp,self", "  btl=^sm"])
@pytest.mark.parametrize("place", ["etc/openmpi-mca-params.conf", ".openmpi/mca-params.conf"])
def test_a_choice_in_a_file_stays(beside, tmp_path, place, line):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# as the site wants it\n{line}\n")
    assert left_out(beside, HOME=str(tmp_path)) is None


def test_a_file_about_other_things_is_no_choice(beside, tmp_path):
    Path(tmp_path, "etc", "openmpi-mca-params.conf").write_text("# btl = tcp\nbtl_base_warn_unused = 0\n")
    assert left_out(beside) == "^ofi"


def test_mpi_is_told_before_it_starts():
    program = "import os; from silofl.comm import mpi_library; mpi_library.load(); "
    program += "print(os.environ.get('OMPI_MCA_btl'))"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI"))}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60, env=environ
    )
    own = mpi_info().vendor == "openmpi" and left_out(mpi_info().library) == "^ofi"
    assert done.stdout.strip() == ("^ofi" if own else "None")
