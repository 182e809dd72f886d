"""A launcher that does not end after one of its ranks ended the job."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RANK = """
import os, sys
from silofl.launcher import launcher_end
launcher_end.END_TIMEOUT_S = launcher_end.TERM_TIMEOUT_S = 0.3
launcher_end.end_later(os.getppid(), os.getpid(), {"PMIX_NAMESPACE": sys.argv[1]})
"""


@pytest.mark.covering(0)
@pytest.mark.skipif(sys.platform != "linux", reason="process handles are Linux's")
@pytest.mark.parametrize(
    ("program", "namespace", "then", "code"),
    [
        ("prterun", "prterun-host-12@1", "sleep 5", -9),  # it waits for a daemon that is cut off
        ("prted", "prterun-host-12@1", "exec sleep 5", -15),
        ("prterun", "prterun-host-12@1", "exit 75", 75),
        ("prte", "prte-host-12@1", "sleep 1; exit 5", 5),  # it serves other jobs, too
        ("prted", "prte-host-12@1", "sleep 1; exit 5", 5),
        ("slurmstepd", "", "sleep 1; exit 5", 5),
    ],
)
def test_a_launcher_that_serves_this_job_alone_is_ended(
    tmp_path: Path, program: str, namespace: str, then: str, code: int
) -> None:
    shell = shutil.which("bash")
    assert shell is not None
    (tmp_path / program).symlink_to(shell)
    trap = "" if "exec" in then else "trap '' TERM; "
    line = f'{trap}"{sys.executable}" -c "$0" "$1"; {then}'
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    launcher = subprocess.Popen([tmp_path / program, "-c", line, RANK, namespace], env=environ)
    try:
        assert launcher.wait(20) == code
    finally:
        launcher.kill()
