"""No second opening: from one global model, a secure sum is opened for one set of silos, across restarts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from silofl.aggregation.base import Claim
from silofl.aggregation.bucketing import FEWEST_IN_BUCKET, Double, DrawnBuckets
from silofl.aggregation.protocols import choose_protocol
from silofl.checkpoint.checked import each, named, refused
from silofl.checkpoint.draw_log import DrawLog
from silofl.checkpoint.opening_evidence import OpeningEvidence
from silofl.checkpoint.opening_log import Opening, OpeningLog, Silos, log_path
from silofl.comm.collective_errors import allgather_object
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.crypto.secagg import is_double
from silofl.crypto.signer import Signer
from silofl.errors import CheckpointError, MismatchError, SiloflError, StoppedError
from silofl.federation.stateful import Json, Part, State
from silofl.report.round_metrics import silos_text
from silofl.topologies.arrangements.registry import build, with_data

Draw = Callable[[int, Silos], Silos]
"""draw(round, silos): which of them take part in a round."""


class Openings(Part):
    """One rank's record of the silos that each round's sum was opened for.

    Two sums of the same updates that differ by one silo show that silo's update, and a round that a restarted
    job takes again is made of the same updates. So it is opened for the silos of before or not at all: a silo
    that was not among them sits the round out, and without one that was it stays closed.

    Args:
        group: the ranks of the run.
        path: this rank's run directory.
        run: the run's id.
        silos: how many the run has in all.
        fewest: how many silos a round is over at least.
        way: see `Opening.way`; of all rounds.
        signer: see `OpeningEvidence`.
    """

    name = "openings"

    def __init__(
        self,
        group: ElasticGroup,
        path: Path,
        run: str,
        silos: int,
        fewest: int,
        way: str = "",
        signer: Signer | None = None,
    ) -> None:
        self._group, self._silos, self.fewest, self._way = group, silos, fewest, way
        self.buckets = DrawnBuckets(run, DrawLog(path, run, group.silo_id))
        self._evidence = OpeningEvidence(run, silos, signer)
        self._log = OpeningLog(log_path(path, group.silo_id), run, silos)
        self._before: dict[int, list[Opening]] = {}
        """What any silo's log has of rounds that are taken again; the same on every rank."""
        self._written: Opening | None = None

    @classmethod
    def of(
        cls,
        group: ElasticGroup,
        config: Config,
        path: Path,
        run: str,
        silos: int,
        signer: Signer | None = None,
    ) -> Openings | None:
        """This rank's, as [secure] says; None where the protocol keeps no secret."""
        counted = with_data(config.topology, silos)
        protocol = choose_protocol(config.secure, counted)
        if not protocol.private:
            return None
        way = build(config.topology).fingerprint(silos, config.run.seed)
        return cls(group, path, run, silos, protocol.fewest(config.secure, counted), way, signer)

    def newest_with_others(self) -> int:
        """The newest round that any silo's log has as opened with silos that are not here; 0 without one.

        Collective; raises as `begin` does for a log that cannot be read.
        """
        group = self._group

        def ask() -> int:
            error, own = None, list[Opening]()
            try:
                own = [one for one in self._log.openings() if not {*one.silos} <= {*group.members}]
            except SiloflError as found:
                error = found
            newest = [one.to_json() for one in sorted(own, key=lambda one: one.round)[-1:]]
            told = allgather_object(group.comm, {"openings": newest}, error)
            believed = [self._checked(one, silo) for silo, one in zip(group.members, told, strict=True)]
            return max((one.round for openings in believed for one in openings), default=0)

        return group.step(ask)

    def begin(self, committed: int, drawn: Draw = lambda number, silos: silos) -> list[str]:
        """Take up what is in the logs behind round `committed`; notices of `drawn` silos. Collective.

        Raises, on every rank, CheckpointError where logs contradict each other, cannot be read, or are all
        gone; MismatchError where one is of another run; ProtocolError for what no silo of ours tells.
        """
        group, error, own = self._group, None, list[Opening]()
        doubles = list[Any]()
        try:
            own, doubles = self._log.openings(), self._doubles()
        except SiloflError as found:
            error = found
        mine = {
            "exists": self._log.exists,
            "doubles": doubles,
            "openings": [one.to_json() for one in own if one.round > committed],
        }
        told = group.step(lambda: allgather_object(group.comm, mine, error))
        every = {
            silo: self._checked(message, silo) for silo, message in zip(group.members, told, strict=True)
        }
        if committed and not any(message["exists"] for message in told):
            raise CheckpointError(
                f"rounds up to {committed} are committed, and no silo has its record of the silos that sums "
                f"were opened for, such as {self._log.path}: a round that is taken again could show a single "
                "silo's update; put the records back, or name another run directory with --run",
                rank=0,
            )
        self._refuse_contradictions(every)
        convicted = self._convict(told)
        self._take_up([one for openings in every.values() for one in openings], own)
        return convicted + self._notices(drawn)

    def _doubles(self) -> list[Any]:
        return [[silo, one.hex(), other.hex()] for silo, (one, other) in self.buckets.known().items()]

    def _convict(self, told: list[Json]) -> list[str]:
        """Keep silos out of draws that any silo's log convicts; the same on every rank. Notices."""
        signer, found = self._evidence.signer, dict[int, Double]()
        for message in told:
            with suppress(KeyError, TypeError, ValueError):  # what convicts nobody
                for silo, one, other in message["doubles"]:
                    double = bytes.fromhex(one), bytes.fromhex(other)
                    if signer is not None and is_double(signer.roster, silo, *double):
                        found[silo] = double
        for silo, double in found.items():
            self.buckets.convict(silo, double)
        self.buckets.convicted = frozenset(found)
        return [
            f"silo {silo} is in no bucket: it signed two commitments to the seed of one draw"
            for silo in sorted(found)
        ]

    def _checked(self, message: Json, silo: int) -> list[Opening]:
        """What a silo's log has, as it tells it."""
        try:
            told = each(named(message, "it").get("openings"), "its openings")
            openings = [Opening.checked(one, self._silos) for one in told]
        except CheckpointError as error:
            raise refused(silo, error) from None
        for one in openings:
            why = self._evidence.refusal(one)
            if any(len(bucket) < FEWEST_IN_BUCKET for bucket in one.buckets):
                why = f"it tells of a bucket of fewer than {FEWEST_IN_BUCKET} silos"
            if len(one.silos) < self.fewest:
                why = f"it tells of a sum over fewer than {self.fewest} silos"
            if why is not None:
                raise refused(
                    silo, f"{why}; move its silo-{silo:04d}/openings.jsonl away, and the others' count"
                )
        return openings

    def _refuse_contradictions(self, every: dict[int, list[Opening]]) -> None:
        """Raise CheckpointError where a round was opened for two sets of silos already."""
        first: dict[int, tuple[int, Opening]] = {}
        for silo, openings in every.items():
            for one in openings:
                other, found = first.setdefault(one.round, (silo, one))
                silos = found.silos
                if found.buckets != one.buckets:
                    raise CheckpointError(
                        f"silos {other} and {silo} have round {one.round} as opened in other buckets: a copy "
                        "of the run was gone on with; name another run directory with --run",
                        rank=0,
                    )
                if silos != one.silos:
                    raise CheckpointError(
                        f"round {one.round} was opened for {silos_text(silos)} by silo {other}'s record, and "
                        f"for {silos_text(one.silos)} by silo {silo}'s: a copy of the run was gone on with; "
                        "name another run directory with --run",
                        rank=0,
                    )

    def _take_up(self, told: list[Opening], own: list[Opening]) -> None:
        """Keep what was told, on this silo's disk too."""
        self._before = {}
        for one in dict.fromkeys(told):
            self._before.setdefault(one.round, []).append(one)
            if one.buckets:
                self.buckets.earlier[one.round] = one.buckets
        everything = list(dict.fromkeys([*own, *told]))
        if everything or self._log.exists:
            self._log.rewrite(sorted(everything, key=lambda one: one.round))

    def _notices(self, drawn: Draw) -> list[str]:
        """One line for each set of silos that some sit out."""
        everyone = tuple(range(self._silos))
        missing = [(self._left_out(number, drawn(number, everyone)), number) for number in self._before]
        lines = []
        for away, rounds in groupby(sorted(missing), key=lambda pair: pair[0]):
            numbers = [str(number) for _, number in rounds]
            if away:
                which = "round" if len(numbers) == 1 else "rounds"
                which = f"{which} {', '.join(numbers)}"
                lines.append(
                    f"{silos_text(away)} will sit out {which}: its sum may have been opened without before, "
                    "and the difference of the two would be an update"
                )
        return lines

    def _left_out(self, number: int, silos: Silos) -> Silos:
        """Which of `silos` a round that is taken again was not opened for."""
        before = self._before.get(number)
        return () if before is None else tuple(silo for silo in silos if silo not in before[0].silos)

    def was_opened(self, number: int) -> bool:
        """Whether a round that is taken again may have been opened before."""
        return number in self._before

    def opened_for(self, number: int, members: Silos) -> Silos | None:
        """Those of `members` that a round which is taken again was opened for; None where it was not."""
        if number not in self._before:
            return None
        absent = self.absent(number, members)
        return tuple(silo for silo in members if silo not in absent)

    def absent(self, number: int, members: Silos) -> Silos:
        """Which of the round's `members` sit it out; the same on every rank.

        Raises StoppedError, on every rank, where a silo is away that the round was opened for.
        """
        left_out = self._left_out(number, members)
        self._refuse_other(number, tuple(silo for silo in members if silo not in left_out))
        return left_out

    def authorize(self, number: int, silos: Silos) -> Claim | None:
        """See `Authorizer`: all that are there have signed it, and have it on disk, before.

        StoppedError where it must stay closed; ProtocolError names a silo that would open another sum.
        """
        opening = Opening(number, silos, self._group.members, self._way, self.buckets.newest)
        self._refuse_other(number, silos)
        if self._evidence.signer is None:
            self._write(opening)
            return None
        own = self._evidence.sign(opening)
        return Claim(own, lambda told: self._write(self._evidence.signed(opening, told)))

    def _write(self, opening: Opening) -> None:
        if opening.buckets:  # and in no others, should the round be taken again
            self.buckets.earlier[opening.round] = opening.buckets
        if opening != self._written and opening not in self._before.get(opening.round, ()):
            self._log.append(opening)
        self._written = opening

    def _refuse_other(self, number: int, silos: Silos) -> None:
        for before in self._before.get(number, ()):
            if before.way != self._way:
                raise MismatchError(
                    f"round {number} may have been opened with other weights between silos before the job "
                    "was restarted, and two sums of it would show models: give the topology.edges_file of "
                    "then, and a version of NumPy that draws the same graphs",
                    rank=0,
                )
            away = tuple(silo for silo in before.silos if silo not in silos)
            if before.silos != silos:
                raise StoppedError(
                    f"round {number} may have been opened for {silos_text(before.silos)} before the job was "
                    f"restarted, and without {silos_text(away or silos)} it stays closed: --resume takes it "
                    "again with all silos",
                    rank=0,
                )

    def may_show_metrics(self, number: int) -> bool:
        """Whether metrics of a round are sums over the silos that they may have been shown for before."""
        opened, before = self._written, self._before.get(number, ())
        return not before or (opened is not None and all(one.present == opened.present for one in before))

    def rejoin_state(self) -> Json:
        """See `Stateful`."""
        before = [one.to_json() for openings in self._before.values() for one in openings]
        return {"before": before, "doubles": self._doubles()}

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`. What others know counts where this silo's own record is damaged."""
        known = list[Opening]()
        with suppress(CheckpointError):
            known = self._log.openings()
        self._convict([told])
        before = [Opening.checked(one, self._silos) for one in told["before"]]
        self._take_up([one for one in before if self._evidence.refusal(one) is None], known)
