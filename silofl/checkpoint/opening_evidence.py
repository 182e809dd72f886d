"""What a record of an opening is believed by: signatures of the silos that were there, more than half of all.

A record decides in which sums a round that is taken again is opened. A silo may have anything in its own, so
that all sign what they are about to open, and each has all signatures on disk before any sum opens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from silofl.checkpoint.opening_log import Opening
from silofl.crypto.signer import Signer
from silofl.errors import ProtocolError, StoppedError

PURPOSE = "opening"


@dataclass
class OpeningEvidence:
    """Signs and checks openings of one run.

    Attributes:
        run: the run's id.
        silos: how many ranks it has in all.
        signer: this silo's; None where silos have no identities, and records are taken at their word.
    """

    run: str
    silos: int
    signer: Signer | None
    _known: set[tuple[Opening, tuple[str, ...]]] = field(default_factory=set, repr=False)
    """Checked already: all silos tell the same ones."""

    @property
    def quorum(self) -> int:
        """How many silos sign at least; fewer open no sum."""
        return self.silos // 2 + 1

    def sign(self, opening: Opening) -> str:
        """This silo's signature (hex). StoppedError where too few are there to open anything."""
        if self.signer is None:
            return ""
        if len(opening.present) < self.quorum:
            raise StoppedError(
                f"round {opening.round}: {len(opening.present)} of {self.silos} silos are left, and "
                f"{self.quorum} sign what is opened at least; nothing was opened: --resume goes on from the "
                "last committed round with the silos that are back",
                rank=0,
            )
        return self.signer.sign(PURPOSE, self._message(opening)).hex()

    def signed(self, opening: Opening, signatures: Sequence[object]) -> Opening:
        """The opening with a signature (hex) of each silo that is there, in their order.

        ProtocolError names a silo that has signed something else.
        """
        for silo, one in zip(opening.present, signatures, strict=True):
            if not self._is_signed(opening, silo, one):
                raise ProtocolError(
                    f"silo {silo} and this silo were given different silos, buckets or weights of the sum of "
                    f"round {opening.round}: nothing was opened",
                    sender=silo,
                )
        return replace(opening, signatures=tuple(map(str, signatures)))

    def refusal(self, opening: Opening) -> str | None:
        """Why a record is not believed; None where it is."""
        found = opening, opening.signatures
        if self.signer is None or found in self._known:
            return None
        record = f"its record of round {opening.round} is not signed by"
        if len(opening.present) < self.quorum:
            return f"{record} {self.quorum} silos or more, without whom no sum opens"
        if len(opening.signatures) != len(opening.present):
            return f"{record} each of the {len(opening.present)} silos that it has as there"
        for silo, one in zip(opening.present, opening.signatures, strict=True):
            if not self._is_signed(opening, silo, one):
                return f"{record} silo {silo}, which it has as there"
        self._known.add(found)
        return None

    def _is_signed(self, opening: Opening, silo: int, signature: object) -> bool:
        assert self.signer is not None, "asked for with identities"
        try:
            told = bytes.fromhex(str(signature))
        except ValueError:
            return False
        return self.signer.verify(silo, told, PURPOSE, self._message(opening))

    def _message(self, opening: Opening) -> bytes:
        claim = replace(opening, signatures=()).to_json()
        return json.dumps({"run": self.run, **claim}, sort_keys=True).encode()
