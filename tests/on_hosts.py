"""Commands on the first of two hosts (`benchmarks/two_hosts.py`), from which mpirun reaches the second."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from silofl.launcher.environment import THREAD_VARIABLES
from tests.conftest import ROOT


def silofl_there(
    hosts: Any, both: Any, *words: str, folder: Path, timeout_s: float = 120.0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `silofl words` on the first host; `hosts` is the fixture, `both` what its `two_hosts` gave."""
    return run_there(hosts, both, [sys.executable, "-m", "silofl", *words], folder, timeout_s, env)


def run_there(
    hosts: Any, both: Any, words: Sequence[str], folder: Path, timeout_s: float, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command on the first host, with mpirun's agent to the second in its environment."""
    start = ["ip", "netns", "exec", both.names[0], "unshare", "--uts", "bash", "-c", hosts.WITHIN]
    environ = dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, "1")
    environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    environ |= {"TMPDIR": str(both.agent.parent), "PRTE_MCA_plm_ssh_agent": str(both.agent), **env}
    try:
        return subprocess.run(
            [*start, both.names[0], *words],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    finally:
        both.clear()
