"""`silofl doctor` says what a dead silo means here, and what to do about it."""

from __future__ import annotations

from typing import Any

import pytest

from silofl.launcher.mpi_info import MpiInfo
from silofl.report import doctor


@pytest.mark.parametrize(
    ("vendor", "ulfm", "mark", "words"),
    [
        ("openmpi", True, "ok", "--with-ft ulfm"),
        ("openmpi", False, "gap", "Open MPI 5"),
        ("mpich", True, "gap", "Open MPI 5"),  # its functions are there, and its launcher ends the job
    ],
)
def test_what_happens_when_a_silo_dies(
    vendor: Any, ulfm: bool, mark: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = MpiInfo(vendor, vendor, "1.0", None, ("/usr/bin/mpirun",), ulfm, None, 2)
    monkeypatch.setattr(doctor, "mpi_info", lambda: info)
    monkeypatch.setattr(doctor, "_torch", lambda: doctor.Finding("GPU", "ok", ""))
    found = next(one for one in doctor.examine() if one.what == "ULFM")
    assert found.mark == mark
    assert words in f"{found.detail}; {found.advice}"


@pytest.mark.parametrize(
    ("version", "ulfm", "pml", "mark", "words"),
    [
        ("5.0.11", True, "", "ok", "not a lost host"),
        ("5.0.10", True, "ob1", "ok", "not a lost host"),
        ("5.1", True, "", "ok", "not a lost host"),
        ("5.0.9", True, "", "gap", "use 5.0.10 or later"),
        ("5.0.11", True, "ucx", "gap", "OMPI_MCA_pml=ucx survives no lost silo"),
        ("5.0.11", False, "", "gap", "restarts it"),
    ],
)
def test_what_is_survived_on_several_hosts(
    version: str, ulfm: bool, pml: str, mark: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_MCA_pml", pml)
    info = MpiInfo("openmpi", "Open MPI", version, None, ("/usr/bin/mpirun",), ulfm, None, 2)
    (found,) = doctor.several_hosts(info)
    assert (found.what, found.mark) == ("several hosts", mark)
    assert words in f"{found.detail}; {found.advice}"
