"""Collective errors: ranks exchange what they raised, then all raise the same error."""

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
LONGEST_TEXT = 4096
"""Characters of a peer's error that are shown."""


def raise_if_any(comm: Communicator, error: SiloflError | None) -> None:
    """Raise on every rank if any rank passes an error; return if none does. Collective.

    All ranks raise the class and message of the lowest failing rank, with `.rank` set to it. A class that
    `silofl.errors` does not define travels as its nearest ancestor there.
    """
    allgather_object(comm, None, error)


def allgather_object(comm: Communicator, value: Any, error: SiloflError | None = None) -> list[Any]:
    """Every rank's value (JSON) in rank order; `raise_if_any` in the same message. Collective.

    ProtocolError, naming the rank, for what no rank of this program sends.
    """
    mine = {"value": value} if error is None else {"error": _encode(error)}
    empty = value is None and error is None  # the usual case then costs one message of one number
    texts = comm.allgather_bytes(b"" if empty else json.dumps(mine).encode())
    every = [_parsed(text, rank) for rank, text in enumerate(texts)]
    failing = next((rank for rank, one in enumerate(every) if "error" in one), None)
    if failing is None:
        return [one["value"] for one in every]
    raise _decode(every[failing]["error"], failing) from error


def allgather_parsed(
    comm: Communicator,
    value: Any,
    parse: Callable[[Any], T],
    what: str,
    error: SiloflError | None = None,
) -> list[T]:
    """What `parse` makes of every rank's value, in rank order; else as `allgather_object`. Collective.

    `parse` raises where a value is none that this program sends: then all ranks raise ProtocolError, which
    names the silo and `what` it told, and nothing of the value.
    """
    every = allgather_object(comm, value, error)
    return [_taken(parse, told, silo, what) for silo, told in zip(comm.members, every, strict=True)]


def broadcast_parsed(comm: Communicator, value: Any, parse: Callable[[Any], T], what: str) -> T:
    """What `parse` makes of rank 0's value (JSON); errors as of `allgather_parsed`. Collective."""
    text = comm.broadcast_bytes(json.dumps(value).encode())
    return _taken(lambda sent: parse(json.loads(sent)), text, comm.members[0], what)


def texts(value: Any) -> list[str]:
    """A list of texts, for `allgather_parsed`."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise TypeError("no list of texts")
    return value


def _taken(parse: Callable[[Any], T], value: Any, silo: int, what: str) -> T:
    try:
        return parse(value)
    except Exception:
        raise errors.ProtocolError(
            f"silo {silo}'s message about {what} is refused: it is none that silofl sends",
            sender=silo,
            rank=0,
        ) from None


class Result(Generic[T]):
    """Outcome of a call on this rank: its value or its error."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._error: Exception | None = None
        try:
            self._value = work()
        except Exception as error:
            self._error = error

    @property
    def failed(self) -> bool:
        """Whether it raised."""
        return self._error is not None

    def error(self, rank: int, *, text: bool = True) -> SiloflError | None:
        """The error as a SiloflError, to be raised on all ranks; None without one. `text`: see `explain`."""
        return None if self._error is None else explain(self._error, rank, text=text)

    def value(self) -> T:
        """The value; raises the error where there is one."""
        if self._error is not None:
            raise self._error
        return self._value


def capture(work: Callable[[], T]) -> Result[T]:
    """Call `work` now and keep its outcome, which ranks may then exchange."""
    return Result(work)


class raise_on_all_ranks(ContextDecorator):
    """Run a block on every rank, then raise on all ranks whatever any rank raised in it.

    `with raise_on_all_ranks(comm): ...` or `@raise_on_all_ranks(comm)`. Collective at its end; the block
    itself must hold no collective, because other ranks would wait there for one that raised. An
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
        """Raise on all ranks; collective unless the block was left by SystemExit or KeyboardInterrupt."""
        if error is None or isinstance(error, Exception):
            raise_if_any(self._comm, None if error is None else explain(error, self._comm.rank))
        return False


def explain(error: BaseException, rank: int, *, text: bool = True) -> SiloflError:
    """Return a SiloflError itself, and for any other exception one of a single sentence about it.

    `text`: whether with the exception's own words, which may have something of this rank's data.
    """
    if isinstance(error, SiloflError):
        return error
    sentence = f"rank {rank} raised {describe(error, text=text)}"
    explained = SiloflError(sentence, rank=rank)
    explained.__cause__ = error
    return explained


def describe(error: BaseException, *, text: bool = True) -> str:
    """Format an exception's type, message and location on one line: `ValueError: text (file.py:12)`."""
    words = " ".join(str(error).split()) if text else ""
    frames = traceback.extract_tb(error.__traceback__)
    location = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if words else ''}{words}{location}"


def encode_error(error: SiloflError) -> bytes:
    """An error as it travels: its nearest class in `silofl.errors`, its text, the sender that it names."""
    return json.dumps({"error": _encode(error)}).encode()


def decode_error(text: bytes, rank: int) -> SiloflError:
    """The error that `rank` told; ProtocolError, naming the rank, in place of one that is none."""
    try:
        return _decode(_parsed(text, rank)["error"], rank)
    except (errors.ProtocolError, KeyError):
        return errors.ProtocolError(f"rank {rank} sent {len(text)} bytes that are no message", rank=rank)


def _encode(error: SiloflError) -> dict[str, Any]:
    kind = next(cls for cls in type(error).__mro__ if getattr(errors, cls.__name__, None) is cls)
    return {"kind": kind.__name__, "text": str(error), "sender": getattr(error, "sender", None)}


def _decode(content: dict[str, Any], rank: int) -> SiloflError:
    kind, text = getattr(errors, content["kind"]), content["text"]
    text = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."
    if kind is errors.ProtocolError:
        return errors.ProtocolError(text, sender=content["sender"], rank=rank)
    error: SiloflError = kind(text, rank=rank)
    return error


def _parsed(text: bytes, rank: int) -> dict[str, Any]:
    """What a rank sent, of one of the two forms."""
    try:
        found = json.loads(text) if text else {"value": None}
        fits = isinstance(found, dict) and (found.keys() == {"value"} or _is_error(found))
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        raise errors.ProtocolError(f"rank {rank} sent {len(text)} bytes that are no message", rank=0)
    parsed: dict[str, Any] = found
    return parsed


def _is_error(found: dict[str, Any]) -> bool:
    error = found.get("error")
    if found.keys() != {"error"} or not isinstance(error, dict) or error.keys() != {"kind", "text", "sender"}:
        return False
    kind, sender = getattr(errors, str(error["kind"]), None), error["sender"]
    known = isinstance(kind, type) and issubclass(kind, SiloflError)
    return known and isinstance(error["text"], str) and (sender is None or type(sender) is int)
