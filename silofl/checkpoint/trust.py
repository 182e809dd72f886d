"""Which manifests a silo makes use of: those of its run that every member has signed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from silofl.checkpoint.manifest import Manifest
from silofl.crypto.signer import Signer

PURPOSE = "manifest"


@dataclass(frozen=True)
class Trust:
    """One silo's.

    Attributes:
        run: the run's id; None as long as it is not known.
        signer: None where silos have no identities, and nobody can tell who wrote a manifest.
        fewest: with a signer, how many silos a round is over at least: fewer may lie together.
    """

    run: str | None
    signer: Signer | None = None
    fewest: int = 1

    def sign(self, manifest: Manifest) -> bytes:
        """This silo's signature (64 bytes); nothing without a signer."""
        return b"" if self.signer is None else self.signer.sign(PURPOSE, manifest.digest)

    def unsigned_by(self, manifest: Manifest) -> int | None:
        """The first member that did not sign; None where all did, or where that cannot be told."""
        if self.signer is None:
            return None
        message = manifest.digest
        for silo in manifest.members:
            signature = bytes.fromhex(manifest.signatures.get(silo, ""))
            if not self.signer.verify(silo, signature, PURPOSE, message):
                return silo
        return None

    def refusal(self, manifest: Manifest) -> str:
        """Why no use is made of a manifest, after "the manifest of round 3"; empty where it is."""
        if self.run is not None and manifest.run != self.run:
            return "is of another run"
        if self.signer is not None and len(manifest.members) < self.fewest:
            return f"is of {len(manifest.members)} silos, and a round is over {self.fewest} at least"
        unsigned = self.unsigned_by(manifest)
        return "" if unsigned is None else f"is not signed by silo {unsigned}, one of its members"

    def of_run(self, run: str) -> Trust:
        """The same, for a run whose id is known now."""
        return replace(self, run=run)
