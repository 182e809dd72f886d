"""Two jobs in one run directory would write over each other's files: the second is kept out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from silofl.errors import ConfigError, StoppedError
from silofl.federation import rundir
from tests.federation.threads import federate, settings

OTHER = """
import sys
from pathlib import Path
from silofl.federation.rundir import lock
held = lock(Path(sys.argv[1]), 1, resume=False)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_job_is_kept_out_until_the_first_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path)
    first = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with monkeypatch.context() as impatient:
            impatient.setattr(rundir, "ENDS_WITHIN_S", 0.3)
            refused = federate(config, 3)
            later = federate(config, 3, resume=True)
        assert {type(error) for error in later} == {StoppedError}
        assert {type(error) for error in refused} == {ConfigError}
        assert {error.rank for error in refused} == {1}
        assert f"in use by another job (process {first.pid} on " in str(refused[0])
        assert not (tmp_path / "metrics.jsonl").exists()
    finally:
        first.kill()
        first.communicate()
    assert len({summary["model_sha256"] for summary in federate(config, 3)}) == 1


def test_a_file_system_without_locks_keeps_no_job_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, how: int) -> None:
        raise OSError(rundir.errno.ENOLCK, "no locks available")

    monkeypatch.setattr(rundir.fcntl, "lockf", refuse)
    rundir.lock(tmp_path, 0, resume=True).close()
