"""Errors as collectives: every rank learns the verdict, then all raise the same error together."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from contextlib import ContextDecorator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from silofl import errors
from silofl.comm.protocol import Communicator
from silofl.errors import SiloflError

T = TypeVar("T")


def raise_if_any(comm: Communicator, error: SiloflError | None) -> None:
    """Raise on every rank if any rank brings an error; return at once if none does. Collective.

    All ranks raise the class and message of the lowest failing rank, with `.rank` set to it. A class that
    `silofl.errors` does not define travels as its nearest ancestor there.
    """
    allgather_object(comm, None, error)


def allgather_object(comm: Communicator, note: Any, error: SiloflError | None = None) -> list[Any]:
    """`raise_if_any`, else every rank's note in rank order, in one message. Collective; notes are JSON."""
    mine = {"note": note} if error is None else {"error": _encode(error)}
    silent = note is None and error is None  # the usual case then costs one message of one number
    texts = comm.allgather_bytes(b"" if silent else json.dumps(mine).encode())
    every: list[dict[str, Any]] = [json.loads(text) if text else {"note": None} for text in texts]
    failing = next((rank for rank, one in enumerate(every) if "error" in one), None)
    if failing is None:
        return [one["note"] for one in every]
    raise _decode(every[failing]["error"], failing) from error


class Result(Generic[T]):
    """What became of some work that this rank did alone: its result or its error."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._error: Exception | None = None
        try:
            self._value = work()
        except Exception as error:
            self._error = error

    def error(self, rank: int) -> SiloflError | None:
        """The error, as one that explains itself, to be raised together; None without one."""
        return None if self._error is None else explain(self._error, rank)

    def value(self) -> T:
        """The result; raises the error where there is one."""
        if self._error is not None:
            raise self._error
        return self._value


def capture(work: Callable[[], T]) -> Result[T]:
    """Do some work now; ranks may then say how it went as often as they need to."""
    return Result(work)


class raise_on_all_ranks(ContextDecorator):
    """Run a block on every rank, then raise together whatever any rank raised in it.

    `with raise_on_all_ranks(comm): ...` or `@raise_on_all_ranks(comm)`. Collective at its end; the block
    itself must hold no collective, because a rank that raises would leave the others alone in it. An
    exception that is not a `SiloflError` becomes one of exit code 1 whose sentence names its type, message,
    rank, file and line. SystemExit and KeyboardInterrupt pass through.
    """

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        """Raise together; collective unless the block was left by SystemExit or KeyboardInterrupt."""
        if error is None or isinstance(error, Exception):
            raise_if_any(self._comm, None if error is None else explain(error, self._comm.rank))
        return False


def explain(error: BaseException, rank: int) -> SiloflError:
    """Return `error` itself if it explains itself, else a SiloflError of one sentence about it."""
    if isinstance(error, SiloflError):
        return error
    sentence = f"rank {rank} raised {describe(error)}"
    explained = SiloflError(sentence, rank=rank)
    explained.__cause__ = error
    return explained


def describe(error: BaseException) -> str:
    """Name an exception's type, message and place on one line: `ValueError: text (file.py:12)`."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


def _encode(error: SiloflError) -> dict[str, Any]:
    kind = next(cls for cls in type(error).__mro__ if getattr(errors, cls.__name__, None) is cls)
    return {"kind": kind.__name__, "text": str(error), "sender": getattr(error, "sender", None)}


def _decode(content: dict[str, Any], rank: int) -> SiloflError:
    kind = getattr(errors, content["kind"])
    if kind is errors.ProtocolError:
        return errors.ProtocolError(content["text"], sender=content["sender"], rank=rank)
    error: SiloflError = kind(content["text"], rank=rank)
    return error
