"""Which updates are in the model: each silo's, by the round that it was trained from, counted once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from silofl.errors import ProtocolError
from silofl.federation.stateful import Json

Silos = tuple[int, ...]


@dataclass
class UpdateLedger:
    """The count that all ranks have alike of the updates of each silo.

    A silo begins to train from the result of a round that has its last update, or a later one. So of the
    updates that count no two are of one silo and one base, and none is of a base before its last round.

    Attributes:
        last: by silo, the round whose sum had its last update.
        counts: by silo, how many updates have counted.
    """

    last: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def refuse_repeated(self, bases: Mapping[int, int], number: int) -> None:
        """Raise ProtocolError, by name, for a base that a silo cannot have in round `number`."""
        for silo, base in bases.items():
            last = self.last.get(silo, 0)
            if not last <= base < number:
                raise ProtocolError(
                    f"silo {silo} tells in round {number} that it trains from the result of round {base}, "
                    f"and its last update is in that of round {last}: an update would count twice",
                    sender=silo,
                    rank=0,
                )

    def count(self, silos: Silos, number: int) -> None:
        """The updates of `silos` are in the result of round `number`; those of a round are counted once."""
        for silo in silos:
            if self.last.get(silo, 0) < number:
                self.last[silo] = number
                self.counts[silo] = self.counts.get(silo, 0) + 1

    def to_json(self) -> Json:
        """As checkpoints and a silo that rejoins have it."""
        return {str(silo): [self.last[silo], self.counts[silo]] for silo in sorted(self.last)}

    @classmethod
    def from_json(cls, told: Json) -> UpdateLedger:
        """The ledger again."""
        last = {int(silo): int(one[0]) for silo, one in told.items()}
        return cls(last, {int(silo): int(one[1]) for silo, one in told.items()})
