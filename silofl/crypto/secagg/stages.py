"""What all stages of a party share: an identity in a round, and a step that is taken once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from silofl.crypto.secret import Unpicklable
from silofl.errors import ProtocolError

Result = TypeVar("Result")


class Stage(Unpicklable):
    """A party between two steps of a round. The next step is taken once.

    A step that raises leaves the stage as it was, so that it can be taken again without the culprit.
    Asked again for the same, it hands out the same result; asked for something else, it refuses: two
    answers could together open what neither opens alone.
    """

    def __init__(self, me: int, number: int) -> None:
        self.me = me
        self._number = number
        self._done: tuple[object, object] | None = None

    def once(self, step: str, request: object, make: Callable[[], Result]) -> Result:
        """The step's result for `request`; ProtocolError when it was already taken for another."""
        if self._done is None:
            self._done = (request, make())
        elif self._done[0] != request:
            raise ProtocolError(
                f"silo {self.me} has already taken the step {step} in round {self._number} for another "
                "request; a second answer could open secrets and is refused"
            )
        return cast(Result, self._done[1])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(silo {self.me}, round {self._number})"
