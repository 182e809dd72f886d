"""Exceptions, one per kind of failure, each with the exit code of the command that it ends."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from silofl.console import printable

EXIT_BAD_INPUT = 2
EXIT_FALSE_CLAIM = 3  # of `silofl audit` and `verify`: nothing went wrong, and the claim is refuted
EXIT_STORAGE = 74  # EX_IOERR of sysexits(3): the disk, not the input
EXIT_RESUMABLE = 75  # EX_TEMPFAIL of sysexits(3): a queue may start the same command again


class SiloflError(Exception):
    """Base of every failure that silofl reports in one sentence.

    `rank` is the rank on which it arose (None before ranks exist); only that rank prints it. A message may
    have parts that peers told: it is made `printable` here, once for all.
    """

    exit_code = 1

    def __init__(self, message: str, *, rank: int | None = None) -> None:
        super().__init__(printable(message))
        self.rank = rank


class ConfigError(SiloflError):
    """A configuration that cannot be run: the message names the key, the value and what to do."""

    exit_code = EXIT_BAD_INPUT


def unknown_name(key: str, value: str, known: Iterable[str]) -> ConfigError:
    """The error of a key whose value names no member of a family: what there is, and the nearest."""
    names = list(known)
    near = difflib.get_close_matches(value.lower(), names, n=1)
    listed = ", ".join(map(repr, names))
    hint = f": did you mean {near[0]!r}?" if near else ": take one of them"
    return ConfigError(f"{key} = {value!r} is none of {listed}{hint}", rank=0)


class DataError(SiloflError):
    """A silo's data is missing, unreadable, empty or of the wrong shape; the message has no value of it.

    `own` is what that silo alone may read beside it, such as names of files: no other rank is told.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, message: str, *, rank: int | None = None, own: str = "") -> None:
        super().__init__(message, rank=rank)
        self.own = own


class ChangedDataError(DataError):
    """A silo's data is not what its rounds so far were trained on."""


class UserCodeError(SiloflError):
    """A task's own code raised: the message has the exception's type, file and line, not its text."""

    exit_code = EXIT_BAD_INPUT


class MismatchError(SiloflError):
    """A mismatch between ranks, a run and its resume, or the MPI library and its launcher."""

    exit_code = EXIT_BAD_INPUT


class TrainingError(SiloflError):
    """Local training gave a result that may not be shared, such as a non-finite loss."""

    exit_code = EXIT_BAD_INPUT


class DivergedError(TrainingError):
    """Training that led to values that are not finite."""


class CheckpointError(SiloflError):
    """Committed rounds exist and none of them can be read."""

    exit_code = EXIT_BAD_INPUT


class MissingDependencyError(SiloflError):
    """An optional library is needed and not installed: the message names the extra that has it."""

    exit_code = EXIT_BAD_INPUT


class StorageError(SiloflError):
    """The run directory cannot be written: full disk, permissions, a vanished mount."""

    exit_code = EXIT_STORAGE


class StoppedError(SiloflError):
    """The run cannot go on; `--resume` goes on from its last committed round."""

    exit_code = EXIT_RESUMABLE


class LeftOutError(SiloflError):
    """The run goes on without this silo, whose files are gone: its process waits for the others' end."""

    exit_code = 0


class StopRequestedError(StoppedError):
    """The run was stopped by a signal, after its last round was committed."""


class OtherSilosError(SiloflError):
    """A silo is lost between two sums of one round, the second of which stays closed."""


class TooFewDrawnError(StoppedError):
    """So many of the silos drawn for a round failed that the sum over the others stays closed."""


class ProtocolError(SiloflError):
    """A message of a secure protocol was refused: forged, replayed, duplicated, truncated or altered.

    `sender` is the silo that the message claims to come from.
    """

    def __init__(self, message: str, *, sender: int | None = None, rank: int | None = None) -> None:
        super().__init__(message, rank=rank)
        self.sender = sender


class OtherTermsError(ProtocolError):
    """A silo signed that it expects other members, rules or another matter of a sum than this silo."""


class LessProtectionError(ProtocolError):
    """A silo was handed less noise, or a ledger with less spent, than it has of its own."""


class OtherTrailError(ProtocolError):
    """The others tell a silo that comes back of an audit trail that is not the one that it has signed."""


class ThresholdError(SiloflError):
    """Fewer silos survive than the secret-sharing threshold needs: the round is void."""

    exit_code = EXIT_RESUMABLE
