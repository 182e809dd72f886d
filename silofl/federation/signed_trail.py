"""The audit trail in a run: after each round all silos sign the same entry, and each keeps all signatures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Self, final

import numpy as np

from silofl import config as configuration
from silofl.checkpoint.audit_trail import (
    PURPOSE,
    Entry,
    SignedEntry,
    TrailFile,
    TrailHead,
    common_prefix,
    trail_path,
    verify,
)
from silofl.checkpoint.checked import hexadecimal, whole
from silofl.checkpoint.manifest import SHA256_BYTES
from silofl.checkpoint.trust import Trust
from silofl.comm.collective_errors import allgather_object, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.crypto.signer import Signer
from silofl.errors import CheckpointError, OtherTrailError, ProtocolError
from silofl.federation.agreed_state import agreed_state
from silofl.federation.stateful import Json, Part, State
from silofl.report.round_metrics import RoundMetrics, silos_text
from silofl.topologies.base import Topology
from silofl.training.flat import FlatModel

DECIDED = ("rejected", "scores", "suspicious", "left_out", "excluded", "reinstated", "failed", "rejoined")
"""What of a round's line is signed: what all silos have the same of, whatever their clocks say."""


@final
class SignedTrail(Part):
    """One rank's; all ranks have the same entries.

    Attributes:
        notices: what a resume has found.
    """

    name = "audit trail"

    def __init__(self, group: ElasticGroup, config: Config, signer: Signer, file: TrailFile) -> None:
        self._group, self._signer, self._file = group, signer, file
        self._config = configuration.digest(config).hex()
        self.notices: list[str] = []

    @classmethod
    def of(
        cls, group: ElasticGroup, config: Config, model: FlatModel, path: Path, trust: Trust
    ) -> Self | None:
        """That of a run; None where none is kept, and in a context for measurements."""
        signer = trust.signer
        if not config.audit.trail or signer is None or trust.run is None:
            return None
        ends = [*model.tensor_ends, *(model.trainable + end for end in model.buffer_ends)]
        names = [*model.tensor_names, *model.buffer_names]
        sizes = np.diff(np.asarray([0, *ends], np.int64)).tolist()
        layout = tuple(zip(names, sizes, strict=True))
        head = TrailHead(signer.roster, signer.of_first_start, layout, model.wire_dtype.name)
        return cls(group, config, signer, TrailFile(trail_path(path, group.silo_id), trust.run, head))

    def record(self, metrics: RoundMetrics, topology: Topology) -> None:
        """Have all silos sign what a round has decided, and each keep it; collective.

        ProtocolError, on every rank, which names a silo whose entry is another.
        """
        model = hashlib.sha256(np.ascontiguousarray(topology.values).data).hexdigest()
        line = metrics.to_json()
        decisions: Json = json.loads(json.dumps({name: line[name] for name in DECIDED if line[name]}))
        previous, members = self._before(metrics.round), metrics.survivors

        def sign() -> None:
            comm = self._group.comm
            entry = Entry(metrics.round, comm.members, members, model, self._config, decisions, previous)
            signature = self._signer.sign(PURPOSE, entry.digest)
            told = comm.allgather_bytes(entry.digest + signature)
            with raise_on_all_ranks(comm):
                given = dict(zip(comm.members, told, strict=True))
                self._refuse_other(given, entry)
                signatures = {silo: one[SHA256_BYTES:].hex() for silo, one in given.items()}
                self._file.put(SignedEntry(entry, signatures))

        self._group.step(sign)

    def _before(self, round_number: int) -> str:
        """The digest that the entry of a round names."""
        before = [one.entry for one in self._file.signed if one.entry.round < round_number]
        return before[-1].digest.hex() if before else self._file.head.start(self._file.run)

    def _refuse_other(self, given: dict[int, bytes], entry: Entry) -> None:
        for silo, message in given.items():
            told, signature = message[:SHA256_BYTES], message[SHA256_BYTES:]
            if told != entry.digest:
                raise ProtocolError(
                    f"silo {silo} has another entry of round {entry.round} for the audit trail than silo "
                    f"{self._group.silo_id}: it has another model, other members, or decided otherwise",
                    sender=silo,
                )
            if not self._signer.verify(silo, signature, PURPOSE, entry.digest):
                raise ProtocolError(
                    f"silo {silo} does not sign the entry of round {entry.round} of the audit trail",
                    sender=silo,
                )

    def state(self) -> State:
        """See `Stateful`: which entry is the newest; the file has them all."""
        signed = self._file.signed
        return {"round": signed[-1].entry.round if signed else 0, "digest": self._file.newest}

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`. Later entries are dropped, for their rounds come again; a lost file is copied.

        CheckpointError, on every rank, where no silo has the trail as it was committed.
        """
        own = None if state is None or not member else [state["round"], state["digest"]]
        until, newest = agreed_state(self._group, own, _newest, "the end of the audit trail")
        mine = [one for one in self._file.on_disk() if one.entry.round <= until]
        intact = self._holds(mine, newest)
        self._file.signed = mine if intact else []

        def copy() -> tuple[list[int], str]:
            comm = self._group.comm
            have = allgather_object(comm, intact)
            lacking = [silo for silo, one in zip(comm.members, have, strict=True) if one is not True]
            if len(lacking) == len(comm.members):
                raise CheckpointError(
                    f"no silo has the audit trail of rounds 1 to {until} as it was signed: put "
                    f"{self._file.path} back from a copy",
                    rank=0,
                )
            if not lacking:
                return [], ""
            giver = have.index(True)
            lines = [one.to_json() for one in self._file.signed] if comm.rank == giver else []
            return lacking, comm.broadcast_bytes(json.dumps(lines).encode(), giver).decode()

        lacking, told = self._group.step(copy)
        if lacking:
            self._group.step(lambda: self._take_copy(told, newest, intact=intact))
            self.notices.append(
                f"{silos_text(tuple(lacking))} had no whole audit trail of rounds 1 to {until}, and copied "
                "another silo's"
            )
        self._group.step(self._rewrite)

    def _take_copy(self, told: str, newest: str, *, intact: bool) -> None:
        with raise_on_all_ranks(self._group.comm):
            if not intact:
                signed = _parsed(json.loads(told))
                if not self._holds(signed, newest):
                    raise CheckpointError("the audit trail that another silo gives is not what was signed")
                self._file.signed = signed

    def _rewrite(self) -> None:
        with raise_on_all_ranks(self._group.comm):
            self._file.rewrite()

    def _holds(self, signed: list[SignedEntry], newest: str) -> bool:
        """Whether these are all entries up to the one of that digest (hex), as they were signed."""
        try:
            verify(signed, self._file.head, self._file.run)
        except CheckpointError:
            return False
        return (signed[-1].entry.digest.hex() if signed else self._file.head.start(self._file.run)) == newest

    def rejoin_state(self) -> Json:
        """See `Stateful`: all entries, each signed."""
        return {"signed": [one.to_json() for one in self._file.signed]}

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`. OtherTrailError where it is not the one that this silo has signed before.

        The newest entry of its own may be one that the others signed anew when it failed.
        """
        try:
            signed = _parsed(told["signed"])
            verify(signed, self._file.head, self._file.run)
        except (CheckpointError, LookupError, TypeError, ValueError) as error:
            raise OtherTrailError(f"the audit trail that the others tell is refused: {error}") from None
        kept = self._file.on_disk()
        if common_prefix(kept, signed) < len(kept) - 1:
            raise OtherTrailError(
                "the audit trail that the others tell is not the one that this silo has signed before"
            )
        self._file.signed = signed
        self._file.rewrite()


def _parsed(told: Any) -> list[SignedEntry]:
    return [SignedEntry.checked(one) for one in told]


def _newest(told: Any) -> tuple[int, str]:
    number, digest = told
    return whole(number, "a round"), hexadecimal(digest, "a digest", SHA256_BYTES)
