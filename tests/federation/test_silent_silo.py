"""What one rank alone does, or does not do, ends all by one sentence: none waits for it for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from silofl.errors import EXIT_BAD_INPUT, EXIT_RESUMABLE
from tests.conftest import Start

PROGRAM = str(Path(__file__).with_name("misbehaving.py"))
SILENT = (
    "silofl: silo 1 has shown no progress for 6 s and nothing has ended the process: all silos end; start "
    "the same command with --resume"
)
ALONE = "silofl: rank 1: a key of this rank alone is wrong: mend it"


@pytest.mark.parametrize(
    ("how", "code", "sentence"),
    [
        ("silent", EXIT_RESUMABLE, SILENT),
        pytest.param("deaf", EXIT_RESUMABLE, SILENT, marks=pytest.mark.long),
        pytest.param("raises", EXIT_BAD_INPUT, ALONE, marks=pytest.mark.long),
    ],
)
def test_all_end_where_one_rank_stays_behind(
    start: Start, quick: Path, how: str, code: int, sentence: str
) -> None:
    """Under ULFM, where a launcher leaves ranks alone that wait for one which has aborted."""
    line = [PROGRAM, how, "train", str(quick), "--set", "failure.silent_s=3", "--run", "run"]
    line += ["--set", 'failure.inject=["kill silo 3 round 2 at step"]'] if how == "deaf" else []
    job = start(4, ranks=[line] * 4, ulfm=True).wait(60)
    said = [line for line in (job.out + job.err).splitlines() if line.startswith("silofl: ")]
    assert (job.code, said[-1]) == (code, sentence), job.out + job.err
    assert [line for line in said if "injected fault" not in line] == [sentence]
    assert "Traceback" not in job.out + job.err
    assert "round 1/6" in job.out
    assert "round 3/6" not in job.out
