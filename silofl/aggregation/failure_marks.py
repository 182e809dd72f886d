"""Errors of one rank between the messages of a collective: told in place of its next, so that all ranks end.

A rank that raises alone between two messages would leave the others waiting for its next. Instead it sends
its error there, marked. Usual messages stay as they are, and there is none more of them. What is told is not
signed: it ends a sum and opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from silofl.comm.collective_errors import decode_error, encode_error
from silofl.comm.protocol import Communicator, RankFailedError, SharedBuffer
from silofl.errors import SiloflError

MARK = b"\0silofl: this rank has failed\0"
"""Begins no other message but by chance, with a probability of 2^-240."""


class FailureMarks:
    """A communicator in whose byte messages a rank may tell its error; in all else it is the one that it has.

    Attributes:
        messages: byte messages since the last `begin`, as many on every rank.
        told: the error that all ranks raise since a message had one.
    """

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self.begin()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    @property
    def communicator(self) -> Communicator:
        """Itself, by the type that collectives take."""
        return cast(Communicator, self)

    def begin(self) -> None:
        """Count from here on."""
        self.messages = 0
        self.told: SiloflError | None = None

    def allgather_bytes(self, payload: bytes) -> list[bytes]:
        """See `Communicator`; raises the error of all, where a rank tells one."""
        self.messages += 1
        return self._heard(self._comm.allgather_bytes(payload))

    def alltoall_bytes(self, payloads: Sequence[bytes]) -> list[bytes]:
        """See `Communicator`; raises the error of all, where a rank tells one."""
        self.messages += 1
        return self._heard(self._comm.alltoall_bytes(payloads))

    def shared_buffer(self, nbytes: int) -> SharedBuffer | None:
        """See `Communicator`; after an empty message, in whose place ranks may tell errors from before it."""
        self.allgather_bytes(b"")
        return self._comm.shared_buffer(nbytes)

    def tell(self, error: SiloflError, *, to_each: bool = False) -> NoReturn:
        """Send the error in place of this rank's next message; raise what all ranks raise. Collective.

        `to_each`: whether that message is an alltoall's.
        """
        mark = MARK + encode_error(error)
        if to_each:
            self.alltoall_bytes([mark] * self._comm.size)
        else:
            self.allgather_bytes(mark)
        raise error  # not reached: this rank hears its own mark

    def _heard(self, messages: list[bytes]) -> list[bytes]:
        found = {
            rank: decode_error(message[len(MARK) :], rank)
            for rank, message in enumerate(messages)
            if message.startswith(MARK)
        }
        if found:
            self.told = joint_error(found, len(messages))
            raise self.told
        return messages


def of_transport(comm: Any) -> tuple[type[BaseException], ...]:
    """What the communicator raises itself: after it no message passes."""
    return RankFailedError, *([comm.mpi_error] if hasattr(comm, "mpi_error") else [])


class Deferred:
    """Work between exchanges that go on whatever happens: after its first error the rest is left out.

    Attributes:
        error: the first error, or one from before.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def do(self, work: Callable[..., None], *arguments: Any) -> None:
        """Call it, unless there is an error."""
        if self.error is None:
            try:
                work(*arguments)
            except Exception as error:
                self.error = error

    def finish(self) -> None:
        """Raise the error, where there is one."""
        if self.error is not None:
            raise self.error


def joint_error(found: dict[int, SiloflError], ranks: int) -> SiloflError:
    """The one error of `ranks` ranks of which some have these: the first's, with those ranks' numbers."""
    first = min(found)
    text = str(found[first])
    alike = len(found) == ranks and {str(one) for one in found.values()} == {text}
    if not alike and not text.startswith(f"rank {first} "):
        found[first].args = (f"{ranks_text(sorted(found))}: {text}",)
    return found[first]


def ranks_text(ranks: Sequence[int]) -> str:
    """`rank 1`, `ranks 0 and 2`, `ranks 0, 1 and 2`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
