"""Runs a launcher and tells how the job really ended.

Open MPI 5 keeps a job going when a rank dies that was started again, but its mpirun then exits with the code
of that death (open-mpi/ompi #13325). So the leader of the ranks that end leaves a note of the exit code.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

OUTCOME = "SILOFL_OUTCOME"
"""Names the file for the note."""
ASKED = "asked"
NOISE = b"NBC_Progress: an error"
RELAY_S = 5.0
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Ended(NamedTuple):
    """How a job ended."""

    code: int
    asked: bool
    """Whether somebody asked it to, by a signal to the launcher or to a rank."""


def supervise(command: Sequence[str]) -> Ended:
    """Run a launcher's command to its end; pass on signals."""
    asked = False
    with tempfile.TemporaryDirectory(prefix="silofl-") as folder:
        note = Path(folder) / "outcome"
        job = subprocess.Popen(command, env={**os.environ, OUTCOME: str(note)}, stderr=subprocess.PIPE)
        assert job.stderr is not None
        relay = threading.Thread(target=_relay, args=(job.stderr,), daemon=True)
        relay.start()

        def pass_on(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            asked = True
            if number != signal.SIGINT:  # a terminal has sent that to the whole group
                job.send_signal(number)

        before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
        try:
            code = job.wait()
            relay.join(RELAY_S)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if note.exists():
            told, _, whether = note.read_text().partition(" ")
            return Ended(int(told), asked or whether == ASKED)
        return Ended(code if code >= 0 else 128 - code, asked)


def _relay(lines: IO[bytes]) -> None:
    """Pass on what the job says, but for Open MPI's own note of each collective that a death ends."""
    dropped = False
    for line in lines:
        blank_after = dropped and line == b"\n"
        dropped = line.startswith(NOISE)
        if not (dropped or blank_after):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


def leave_note(exit_code: int, *, asked: bool) -> None:
    """Note, as the leader of the ranks that met a last time, how the job ends."""
    path = os.environ.get(OUTCOME)
    if path:
        try:
            Path(path).write_text(f"{exit_code} {ASKED}" if asked else str(exit_code))
        except OSError:
            return  # the launcher runs on another node: its own code has to do
