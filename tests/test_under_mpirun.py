"""The tests marked `mpi` run on every rank of a job: pytest within pytest."""

from __future__ import annotations

import pytest

from tests.conftest import MPICH, ROOT, Start

MORE = [
    *(("openmpi", 2, "cold"), ("openmpi", 1, "warm"), ("openmpi", 5, "warm")),
    *(("mpich", 1, "warm"), ("mpich", 2, "warm"), ("mpich", 3, "warm")),
]
MARKED = "pytest.mark." + "mpi"
"""What a file with such tests says; ranks need not import the others."""
JOBS = [
    ("openmpi", 3, "warm"),
    *(pytest.param(*job, marks=pytest.mark.long) for job in MORE),
]


@pytest.mark.timeout(320)
@pytest.mark.parametrize(("vendor", "n", "how"), JOBS)
def test_ranks_agree_with_each_other(start: Start, vendor: str, n: int, how: str) -> None:
    if vendor == "mpich" and not MPICH.exists():
        pytest.skip("needs MPICH in .venv/mpich")
    files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if MARKED in file.read_text()]
    assert len(files) > 1
    options = ["--only-mpi", "-p", "no:cacheprovider", "-m", "not long", "--color", "no", *files]
    end = start(n, *options, vendor=vendor, cold=how == "cold", module="pytest").wait(300)
    assert end.code == 0, end.out[-8000:] + end.err[-2000:]
    assert end.out.count(" passed") == n
