"""The run directory: what a run leaves behind for people and programs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from silofl import config as configuration
from silofl import private_files
from silofl.checkpoint.atomic_files import storage, write_arrays, write_bytes, write_json
from silofl.checkpoint.names import stem
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.protocol import Communicator
from silofl.config import Config, for_silo
from silofl.errors import ConfigError, StoppedError, StorageError
from silofl.federation.secure_conflicts import idle_keys
from silofl.report.round_metrics import RoundMetrics

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
OWN_MODEL = "personal.safetensors"
OF_TORCH = {"format": "pt"}
"""What `from_pretrained` of transformers looks for in a file's metadata before it loads it."""
LEAST_BYTES = 1 << 14
"""What the run directory's disk must have room for."""
_LONGEST_SHOWN = 100
ENDS_WITHIN_S = 5.0
"""A job that was killed has ended within so long."""


def choose(comm: Communicator, config: Config, *, resume: bool) -> Path:
    """This rank's run directory, existing and writable; collective.

    A configured directory is taken as it is. Otherwise rank 0 picks `runs/<name>`, or `runs/<name>-2` and so
    on where that is taken; a resumed run takes the newest that exists. Nothing is ever written over. No other
    place is taken on rank 0's word.
    """
    leading = ""
    with raise_on_all_ranks(comm):
        if comm.rank == 0:
            leading = pick(config, resume=resume).removeprefix(f"{Path.cwd()}/")
    leading = comm.broadcast_bytes(leading.encode()).decode(errors="replace")
    with raise_on_all_ranks(comm):
        path = own_path(config, leading).absolute()  # a user's task may go to another folder
        _refuse_unwritable(path, comm.rank)
        if comm.rank == 0:
            refuse_second_run(path, resume=resume)
    return path


def own_path(config: Config, told: str) -> Path:
    """This silo's run directory, where another silo has told its own.

    Raises ConfigError where none is configured and the other names any but `runs/<name>` or
    `runs/<name>-<k>`: no silo writes where another has it write.
    """
    own = config.run.dir
    if not own and re.fullmatch(f"runs/{re.escape(config.run.name or 'run')}(-[0-9]{{1,6}})?", told) is None:
        raise ConfigError(
            f"the run directory of the silo that leads is {told[:_LONGEST_SHOWN]!r}, and this silo has none "
            f"configured, where it goes to runs/{config.run.name or 'run'} alone: name its own with --run"
        )
    return Path(own or told)


def refuse_taken(config: Config, *, resume: bool) -> None:
    """Raise ConfigError where silo 0's directory, if one is configured, holds a run that is not resumed.

    It needs no other rank, so that nothing has to be started or loaded before.
    """
    own = for_silo(config, 0).run.dir
    if own:
        refuse_second_run(Path(own), resume=resume)


def _refuse_unwritable(path: Path, rank: int) -> None:
    """Raise ConfigError unless a file can be made in the directory, which is made when missing.

    StorageError where there is no space for a small one.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # A name of nobody else's; a full disk takes an empty file.
        with tempfile.NamedTemporaryFile(prefix=f".writable-{rank}-", dir=path) as file:
            file.write(b"-" * LEAST_BYTES)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(
                f"cannot write {path}: {error.strerror}; free some space, or name another with --run"
            ) from None
        raise ConfigError(
            f"run directory {path} cannot be written: {error.strerror}; name another with --run"
        ) from None


def pick(config: Config, *, resume: bool) -> str:
    """The configured directory; else `runs/<name>`, or the first `runs/<name>-<k>` that is free.

    With `resume` the last that is taken.
    """
    if config.run.dir:
        return config.run.dir
    name = config.run.name or "run"
    paths = (Path("runs") / (name if k == 1 else f"{name}-{k}") for k in range(1, 1_000_000))
    last = None
    for path in paths:
        if not holds_run(path) and not any(path.glob("silo-*/privacy.jsonl")):  # of a run that was refused
            return str(last if resume and last else path)
        last = path
    raise AssertionError("unreachable: a million runs of one name")


def lock(path: Path, silo: int, *, resume: bool) -> IO[bytes]:
    """Keep other jobs from being this silo in this directory, for as long as the returned file is open.

    Where one is already, and still is a few seconds later, it raises ConfigError, or with `resume`
    StoppedError: after a crash a file server may remember its locks for a minute or two. StorageError where
    the disk refuses. A file system without locks keeps nobody out.
    """
    with storage(path):
        file = private_files.append(path / f".silo-{silo:04d}.lock")
    deadline = time.monotonic() + ENDS_WITHIN_S
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the process's: it goes with it
            break
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EAGAIN}:
                return file
            if time.monotonic() > deadline:
                file.seek(0)
                raise (StoppedError if resume else ConfigError)(
                    f"{path} is in use by another job ({file.read().decode()}): wait for its end, "
                    "or name another with --run"
                ) from None
            time.sleep(0.1)
    with suppress(OSError):  # for people only
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
    return file


def holds_run(path: Path) -> bool:
    """Whether a run has written here."""
    return (path / "config.toml").exists() or (path / METRICS).exists()


def rounds_told(path: Path) -> int:
    """How many rounds an earlier start has told of here."""
    try:
        return len((path / METRICS).read_bytes().splitlines())
    except OSError:
        return 0


def refuse_second_run(path: Path, *, resume: bool) -> None:
    """Raise ConfigError where a new run would write over an old one."""
    try:
        taken = holds_run(path)
    except OSError as error:  # such as a name that is too long
        shown = str(path)[:_LONGEST_SHOWN]
        raise ConfigError(
            f"run directory {shown} cannot be read: {error.strerror}; name another with --run", rank=0
        ) from None
    if not resume and taken:
        raise ConfigError(
            f"{path} already holds a run: add --resume to go on with it, or name another with --run", rank=0
        )


class RunDirectory:
    """Rank 0's results, which the umask lets others read. Calls are not collective; only rank 0 writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics = path / METRICS
        self.problem: StorageError | None = None
        """The first line that could not be written; ranks raise it together at their next meeting."""

    def begin(self, config: Config, *, last_round: int) -> None:
        """Write the resolved configuration; keep the metrics of rounds up to `last_round`."""
        text = configuration.dump(config, {"secure": idle_keys(config)})
        write_bytes(self.path / "config.toml", text.encode(), private=False)
        kept = [line for line in self._lines() if _round_of(line) <= last_round]
        write_bytes(self._metrics, b"".join(line + b"\n" for line in kept), private=False)

    def _lines(self) -> list[bytes]:
        return self._metrics.read_bytes().splitlines() if self._metrics.exists() else []

    def take_over(self, config: Config, rounds: list[RoundMetrics], *, next_round: int) -> None:
        """Go on with the results of another rank that led until now, whether or not they are in this folder.

        What it wrote of the first of `rounds`, or of `next_round` without any, and of later rounds is
        dropped for them.
        """
        self.begin(config, last_round=(rounds[0].round if rounds else next_round) - 1)
        for metrics in rounds:
            self.append(metrics)

    def append(self, metrics: RoundMetrics) -> None:
        """One line for one round."""
        try:
            with storage(self._metrics), private_files.append(self._metrics, private=False) as file:
                file.write(json.dumps(metrics.to_json(), allow_nan=False).encode() + b"\n")
        except StorageError as error:
            self.problem = self.problem or error

    def rounds(self) -> list[RoundMetrics]:
        """Every round so far."""
        return [RoundMetrics.from_json(json.loads(line)) for line in self._lines()]

    def finish(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`."""
        write_json(self.path / SUMMARY, summary, private=False)

    def write_model(
        self, arrays: dict[str, NDArray[np.generic]], card: Mapping[str, str], name: str = "model"
    ) -> str:
        """Write `model.safetensors`, or another by name; returns its SHA-256 as `sha256sum` prints it.

        `card` is what the file says of itself, as metadata.
        """
        path = self.path / f"{name}.safetensors"
        return write_arrays(path, dict(sorted(arrays.items())), {**OF_TORCH, **card}, private=False)[0]


def write_own_model(
    path: Path, silo: int, arrays: dict[str, NDArray[np.generic]], card: Mapping[str, str]
) -> None:
    """Write a silo's own model into its folder of a run directory, for its owner alone to read."""
    folder = path / stem(silo)
    with storage(folder):
        private_files.make_folder(folder)
    write_arrays(folder / OWN_MODEL, dict(sorted(arrays.items())), {**OF_TORCH, **card})


def _round_of(line: bytes) -> float:
    """The round of a metrics line; a torn last line counts as later than all."""
    try:
        return float(json.loads(line)["round"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
