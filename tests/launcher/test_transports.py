"""Transports that Open MPI loads, unless a user or a site has chosen them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from silofl.comm.mpi_library import mpi_info
from silofl.launcher.transports import (
    COLLECTIVES,
    TRANSPORTS,
    exclude_ofi_transport,
    exclude_unsafe_collectives,
)


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """An Open MPI beside this Python, as its wheel installs it."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "lib").mkdir()
    (tmp_path / "etc").mkdir()
    return str(tmp_path / "lib" / "libmpi.so.40")


def transports_of(library: str | None, **environ: str) -> str | None:
    variables = {"HOME": "/nonexistent", **environ}
    exclude_ofi_transport(variables, library)
    return variables.get(TRANSPORTS)


def test_the_open_mpi_beside_python_does_without_ofi(beside):
    assert transports_of(beside) == "^ofi"


@pytest.mark.parametrize(
    "library", [None, "/usr/lib/x86_64-linux-gnu/libmpi.so.40", "/opt/cray/libmpi.so.40"]
)
def test_a_site_s_own_mpi_keeps_its_settings(beside, library):
    assert transports_of(library) is None


def test_mpich_is_left_as_it_is(beside):
    assert transports_of(beside.replace(".40", ".12")) is None


def test_what_the_user_chose_stays(beside):
    assert transports_of(beside, **{TRANSPORTS: "tcp,self"}) == "tcp,self"


@pytest.mark.parametrize("line", ["btl = tcp,self", "  btl=^sm"])
@pytest.mark.parametrize("place", ["etc/openmpi-mca-params.conf", ".openmpi/mca-params.conf"])
def test_a_choice_in_a_file_stays(beside, tmp_path, place, line):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# as the site wants it\n{line}\n")
    assert transports_of(beside, HOME=str(tmp_path)) is None


def test_a_file_about_other_things_is_no_choice(beside, tmp_path):
    Path(tmp_path, "etc", "openmpi-mca-params.conf").write_text("# btl = tcp\nbtl_base_warn_unused = 0\n")
    assert transports_of(beside) == "^ofi"


def test_transports_are_set_before_mpi_is_initialised():
    program = "import os; from silofl.comm import mpi_library; mpi_library.load(); "
    program += "print(os.environ.get('OMPI_MCA_btl'))"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI"))}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60, env=environ
    )
    own = mpi_info().vendor == "openmpi" and transports_of(mpi_info().library) == "^ofi"
    assert done.stdout.strip() == ("^ofi" if own else "None")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"OMPI_MCA_mpi_ft_enable": "1"}, "^hcoll,portals4,han"),
        ({"OMPI_MCA_mpi_ft_enable": "1", COLLECTIVES: "^cuda"}, "^cuda"),
        ({}, None),
    ],
)
def test_where_ranks_may_fail_no_collectives_across_hosts_are_used_that_cannot(beside, given, expected):
    variables = {"HOME": "/nonexistent", **given}
    exclude_unsafe_collectives(variables, beside)
    assert variables.get(COLLECTIVES) == expected


def test_a_choice_of_collectives_in_a_file_stays(beside, tmp_path):
    Path(tmp_path, "etc", "openmpi-mca-params.conf").write_text("coll = ^cuda\n")
    variables = {"HOME": "/nonexistent", "OMPI_MCA_mpi_ft_enable": "1"}
    exclude_unsafe_collectives(variables, beside)
    assert COLLECTIVES not in variables
