"""The audit trail in a run: after each round all silos sign the same entry, and each keeps all signatures.

What was signed stays. A resume that goes back behind it makes rounds again: an entry that comes out as it was
is there already, and another one is put behind all that there are.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import torch

from silofl import config as configuration
from silofl.checkpoint.audit_trail import (
    PURPOSE,
    Entry,
    SignedEntry,
    TrailFile,
    TrailHead,
    common_prefix,
    trail_path,
)
from silofl.checkpoint.checked import hexadecimal, whole
from silofl.checkpoint.manifest import SHA256_BYTES
from silofl.checkpoint.trail_rules import departed, verified_part, verify
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
from silofl.types import Vector

DECIDED = ("rejected", "scores", "suspicious", "left_out", "excluded", "reinstated", "failed", "rejoined")
"""What of a round's line is signed: what all silos have the same of, whatever their clocks say."""


STANDINGS = "standings"


@final
class SignedTrail(Part):
    """One rank's; all ranks have the same entries.

    Attributes:
        notices: what a resume has found.
    """

    name = "audit trail"

    def __init__(
        self,
        group: ElasticGroup,
        config: Config,
        signer: Signer,
        file: TrailFile,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._group, self._signer, self._file, self._dtype = group, signer, file, dtype
        self._config = lasting_digest(config)
        self._place = 0
        """How many entries the course has that the run is on; those behind are of rounds to come again."""
        self.notices: list[str] = []

    @classmethod
    def of(
        cls, group: ElasticGroup, config: Config, model: FlatModel, path: Path, trust: Trust
    ) -> Self | None:
        """That of a run; None where none is kept, and in a context for measurements."""
        signer = trust.signer
        if not config.audit.trail or signer is None or trust.run is None:
            return None
        layout = tuple((name, tuple(shape)) for name, shape in model.shapes)
        head = TrailHead(signer.roster, signer.of_first_start, layout, model.wire_dtype.name)
        file = TrailFile(trail_path(path, group.silo_id), trust.run, head)
        return cls(group, config, signer, file, model.vector.dtype)

    def record(self, metrics: RoundMetrics, topology: Topology, standings: Json | None = None) -> None:
        """Have all silos sign what a round has decided, and each keep it; collective.

        `standings`: of silos after it, where updates are scored.

        ProtocolError, on every rank, which names a silo whose entry is another.
        """
        model = hashlib.sha256(self._published(topology.values).data).hexdigest()
        line = metrics.to_json()
        decisions: Json = json.loads(json.dumps({name: line[name] for name in DECIDED if line[name]}))
        if standings is not None:
            decisions[STANDINGS] = standings
        kept, place = self._file.signed, self._place

        def entry_at(index: int) -> Entry:
            before, comm = self._before(index), self._group.comm
            gone = departed(before, metrics.survivors, comm.members)
            back = tuple(silo for silo in comm.members if silo not in before)
            who = comm.members, gone, back, metrics.survivors
            previous = self._file.digest_at(index)
            return Entry(metrics.round, *who, model, self._config, decisions, previous)

        def sign() -> None:
            comm, at = self._group.comm, place
            entry = entry_at(at)
            if at < len(kept) and entry != kept[at].entry:
                at = len(kept)
                entry = entry_at(at)
            signature = self._signer.sign(PURPOSE, entry.digest)
            told = comm.allgather_bytes(entry.digest + signature)
            with raise_on_all_ranks(comm):
                given = dict(zip(comm.members, told, strict=True))
                self._refuse_other(given, entry)
                signatures = {silo: one[SHA256_BYTES:].hex() for silo, one in given.items()}
                if at == len(kept):
                    self._file.put(SignedEntry(entry, signatures), at)
                else:
                    self._file.cut(len(kept))  # of what was signed before a silo failed in this step
            self._place = at + 1

        self._group.step(sign)

    def _published(self, values: Vector) -> Vector:
        """The values (d,) as `model.safetensors` has them: rounded where the model's numbers are shorter."""
        if self._dtype != torch.bfloat16:
            return np.ascontiguousarray(values)
        return np.asarray(torch.from_numpy(values).to(self._dtype).float().numpy())

    def _before(self, place: int) -> tuple[int, ...]:
        """Which silos were there for the last of the first `place` entries; before them, all."""
        return self._file.signed[place - 1].entry.present if place else (*range(len(self._file.head.roster)),)

    def standings_signed(self, round_number: int) -> Json | None:
        """What was signed of silos after a round that comes again; None where it does not."""
        later = [one.entry for one in self._file.signed[self._place :] if one.entry.round == round_number]
        return later[-1].decisions.get(STANDINGS) if later else None

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
        """See `Stateful`: which entry the round's is; the file has them all."""
        place = self._place
        number = self._file.signed[place - 1].entry.round if place else 0
        return {"round": number, "digest": self._file.digest_at(place)}

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`. Later entries stay: the longest that any silo has; a lost file is copied.

        CheckpointError, on every rank, where no silo has the trail as it was committed.
        """
        own = None if state is None or not member else [state["round"], state["digest"]]
        until, newest = agreed_state(self._group, own, _newest, "the end of the audit trail")
        file = self._file
        mine = verified_part(file.on_disk(), file.head, file.run)
        intact = self._place_of(mine, newest) is not None

        def copy() -> tuple[list[int], str]:
            comm = self._group.comm
            have = allgather_object(comm, len(mine) if intact else -1)
            lacking = [silo for silo, one in zip(comm.members, have, strict=True) if one == -1]
            if len(lacking) == len(comm.members):
                raise CheckpointError(
                    f"no silo has the audit trail of rounds 1 to {until} as it was signed: put "
                    f"{self._file.path} back from a copy",
                    rank=0,
                )
            giver = have.index(max(have))
            lines = [one.to_json() for one in mine] if comm.rank == giver else []
            return lacking, comm.broadcast_bytes(json.dumps(lines).encode(), giver).decode()

        lacking, told = self._group.step(copy)
        self._group.step(lambda: self._take_copy(told, newest))
        if lacking:
            self.notices.append(
                f"{silos_text(tuple(lacking))} had no whole audit trail of rounds 1 to {until}, and copied "
                "another silo's"
            )
        if self._place < len(file.signed):
            signed = sorted({one.entry.round for one in file.signed[self._place :]})
            self.notices.append(
                f"rounds {signed[0]} to {signed[-1]} come again, and what was signed of them stays in the "
                "audit trail"
            )

    def _take_copy(self, told: str, newest: str) -> None:
        """Take up the trail that one silo gives to all."""
        with raise_on_all_ranks(self._group.comm):
            try:
                signed = _parsed(json.loads(told))
                verify(signed, self._file.head, self._file.run)
            except (CheckpointError, LookupError, RecursionError, TypeError, ValueError):
                signed = []
            place = self._place_of(signed, newest)
            if place is None:
                raise CheckpointError("the audit trail that another silo gives is not what was signed")
            if signed and signed[-1].entry.config != self._config:
                raise CheckpointError(
                    "the audit trail was signed with another configuration, or by another version of silofl: "
                    "go on with those, or begin another run with --run"
                )
            self._file.signed, self._place = signed, place
            self._file.rewrite()

    def _place_of(self, signed: list[SignedEntry], newest: str) -> int | None:
        """How many entries there are up to the one of that digest (hex); None where it is not there."""
        if newest == self._file.head.start(self._file.run):
            return 0
        digests = [one.entry.digest.hex() for one in signed]
        return digests.index(newest) + 1 if newest in digests else None

    def rejoin_state(self) -> Json:
        """See `Stateful`: all entries, each signed, and how many the course has that the run is on."""
        return {"signed": [one.to_json() for one in self._file.signed], "place": self._place}

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`. OtherTrailError where it is not the one that this silo has signed before.

        The newest entry of its own may be one that the others signed anew when it failed, and says so.
        """
        file = self._file
        try:
            signed = _parsed(told["signed"])
            verify(signed, file.head, file.run)
            place = whole(told["place"], "the place of an entry", 0, len(signed))
        except (CheckpointError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise OtherTrailError(f"the audit trail that the others tell is refused: {error}") from None
        kept = verified_part(file.on_disk(), file.head, file.run)
        same = common_prefix(kept, signed)
        anew = same == len(kept) - 1 and same < len(signed) and self._silo in signed[same].entry.departed
        if same < len(kept) and not anew:
            raise OtherTrailError(
                "the audit trail that the others tell is not the one that this silo has signed before"
            )
        file.signed, self._place = signed, place
        file.rewrite()

    @property
    def _silo(self) -> int:
        return self._group.silo_id


def lasting_digest(config: Config) -> str:
    """SHA-256 (hex) of the configuration, but for what a resume may change."""
    tables = configuration.resumption_tables(config)
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()


def _parsed(told: Any) -> list[SignedEntry]:
    return [SignedEntry.checked(one) for one in told]


def _newest(told: Any) -> tuple[int, str]:
    number, digest = told
    return whole(number, "a round"), hexadecimal(digest, "a digest", SHA256_BYTES)
