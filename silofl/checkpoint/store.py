"""Rounds on disk: `round-000012/silo-0003.safetensors` from every silo, then `manifest.json`.

A round exists once its manifest does. Every rank writes its file and renames it into place; the ranks
exchange digests; then the manifest is renamed into every folder that a rank has: one, if they share it. A
kill at any instruction leaves the newest round with a manifest as the truth. Any rank's copy of a manifest is
as good as another's, so that no single rank is needed to find it. Files are written by a background thread
while the next round trains, so the newest manifest is at most one round behind.

Of a peer's message nothing is used before it was checked: `commit_message.py`, `manifest.py`, `trust.py`.
Silos may be lost and come back: `reform` gives the store the ranks that are there now. A manifest names the
silos that took part, and for one that did not, the newest round in which it did stays on disk.
"""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from silofl.background import Background
from silofl.checkpoint import adoption
from silofl.checkpoint.atomic_files import read_tree
from silofl.checkpoint.buddies import Buddies
from silofl.checkpoint.catalogue import gather_manifests
from silofl.checkpoint.checked import refused
from silofl.checkpoint.commit_message import CommitMessage
from silofl.checkpoint.directory import CheckpointDirectory, kept_rounds
from silofl.checkpoint.manifest import FileEntry, Manifest
from silofl.checkpoint.run_id import untrusted
from silofl.checkpoint.snapshot import Snapshot
from silofl.checkpoint.trust import Trust
from silofl.comm.collective_errors import allgather_object, allgather_parsed, raise_on_all_ranks, texts
from silofl.comm.protocol import Communicator
from silofl.crypto.secret import Secret
from silofl.errors import CheckpointError, ConfigError, SiloflError

Tree = dict[str, Any]


@dataclass(frozen=True)
class Restored:
    """A committed round as one rank finds it again."""

    round: int
    """The newest that all its members could read; the same on every rank."""
    state: Tree | None
    """This silo's tree: of `round` for its members, for others of the newest before it that they committed;
    None where it has none."""
    members: tuple[int, ...]
    """The silos that took part in `round`, ascending: their trees together are the whole of it."""
    notices: list[str]
    """One line for each thing that was not as it should be."""


@dataclass
class _Own:
    """What a silo finds of its own."""

    state: Tree | None = None
    round: int = 0
    lines: dict[str, list[str]] = field(default_factory=lambda: {"bad": [], "restored": []})


def _lines(told: Any) -> dict[str, list[str]]:
    return {kind: texts(told[kind]) for kind in ("bad", "restored")}


class CheckpointStore:
    """One run's checkpoints, seen from one rank.

    Args:
        comm: the ranks that are there now; `comm.members` are their silos.
        directory: this rank's `checkpoints` folder; made when first needed. May be shared.
        identity: what must be equal for a resume, such as configuration and model; JSON.
        trust: by which manifests are signed and believed; its run is this one.
        silos: how many silos the run has in all.
        keep: how many committed rounds stay.
        buddy_key: 32 bytes that only this silo holds: its buddy then keeps a sealed copy of its files.
            None on all ranks or on none.
    """

    def __init__(
        self,
        comm: Communicator,
        directory: Path,
        identity: dict[str, Any],
        trust: Trust,
        *,
        silos: int,
        keep: int,
        buddy_key: Secret | None = None,
    ) -> None:
        self._comm, self._trust, self._silos, self._keep = comm, trust, silos, keep
        self._identity = json.loads(json.dumps(identity))  # as it is read again
        self._directory = CheckpointDirectory(directory, comm.members[comm.rank])
        self._directory.remove_stale()
        self._buddies = Buddies(comm, self._directory, buddy_key) if buddy_key is not None else None
        self._writer: Background[FileEntry] = Background()
        self._publisher: Background[None] = Background()
        self._snapshot = Snapshot()
        self._begun, self._attempt = 0, 0
        self._published: Manifest | None = None
        self._history: dict[int, tuple[int, ...]] | None = None
        self._confirmed: deque[int] = deque(maxlen=keep)
        """The rounds that this process saw committed last: they stay whatever another rank says."""

    def begin(self, round_number: int, state: Tree, common: str = "") -> None:
        """Start to commit a round, the one before being settled: files are written while the caller goes on.

        The arrays of `state` are copied and may change at once. After `reform` the same round may be begun
        again. `common` is a digest of what the files of all silos together have copies of, equal in all:
        without it the round exists for nobody unless all files are there (`adoption.py`). Not collective.
        """
        self._attempt = self._attempt + 1 if round_number == self._begun else 0
        self._begun, attempt = round_number, self._attempt
        skeleton, arrays = self._snapshot.take(state | adoption.mark(common, self._comm.members))

        def write() -> FileEntry:
            self._comm.mark("checkpoint write")
            return self._directory.write_state(round_number, attempt, skeleton, arrays)

        self._writer.start(write)

    def commit_pending(self, note: Any = None, *, problem: SiloflError | None = None) -> list[Any]:
        """Once every rank's file is written, write the manifest in the background; collective.

        Returns every rank's `note`, which rides along. Raises on every rank what any rank's disk refused, or
        any caller's `problem`, and ProtocolError for what no silo of ours tells; rounds committed before stay
        as they are.
        """
        mine = CommitMessage(note, signs=self._trust.signer is not None)
        try:
            if self._writer.busy:
                mine.entry = self._writer.result()
            if self._publisher.busy:
                self._publisher.result()
            if self._buddies is not None:
                self._buddies.result()
            if self._published is not None and self._comm.rank == 0:
                mine.kept = self._kept(self._published)
        except SiloflError as error:
            problem = problem or error
        committing = mine.entry is not None
        every = {
            silo: CommitMessage.checked(message, silo, committing=committing)
            for silo, message in zip(
                self._comm.members, allgather_object(self._comm, mine.to_json(), problem), strict=True
            )
        }
        published = self._agree(every) if committing else None
        confirmed, self._published = self._published, published
        kept = next(iter(every.values())).kept
        if published or (confirmed and kept):
            self._publisher.start(lambda: self._publish(published, confirmed, kept))
        if self._buddies is not None and published is not None:
            self._buddies.give(published)
        return [one.note for one in every.values()]

    def _agree(self, every: dict[int, CommitMessage]) -> Manifest:
        """The manifest of the round that was begun, signed by all where they have identities; collective."""
        files = {silo: one.entry for silo, one in every.items() if one.entry is not None}
        signing = {silo for silo, one in every.items() if one.signs}
        if signing and len(signing) < len(every):
            silo = min(every.keys() - signing)
            raise ConfigError(f"silo {silo} has no secure.identity and others have: set all or none", rank=0)
        return self._signed(self._begun, files)

    def _signed(self, round_number: int, files: dict[int, FileEntry]) -> Manifest:
        """The manifest of these files, one of each rank's silo; collective."""
        assert self._trust.run is not None
        manifest = Manifest(self._trust.run, round_number, self._silos, self._identity, files)
        signatures = self._comm.allgather_bytes(self._trust.sign(manifest))
        signed = {
            silo: signature.hex() for silo, signature in zip(files, signatures, strict=True) if signature
        }
        manifest = replace(manifest, signatures=signed)
        unsigned = self._trust.unsigned_by(manifest)
        if unsigned is not None:
            raise refused(unsigned, f"it does not sign the manifest of round {round_number}")
        return manifest

    def flush(self) -> None:
        """Return when the newest round is committed for good; collective."""
        self.commit_pending()
        self.commit_pending()
        if self._publisher.busy:
            self._publisher.result()

    def reform(self, comm: Communicator) -> None:
        """Go on with other ranks. What is under way is waited for, then dropped: begin its round again.

        A round whose files were all in place is committed still, whichever rank was to do it. Not collective;
        raises nothing.
        """
        for work in (self._writer, self._publisher):
            if work.busy:
                with suppress(SiloflError):  # begun again, it fails again and is reported then
                    work.result()
        if self._published is not None:
            with suppress(SiloflError):
                self._directory.publish(self._published)
        if self._buddies is not None:
            self._buddies.reform(comm)
        self._comm, self._published, self._history = comm, None, None

    def latest(self, opened: int = 0) -> Restored | None:
        """The newest round whose members can all read it back, or None where nothing was committed.

        Collective. For all silos of the run, or for those that go on without the others: these then commit
        what they have written of a newer round. Of none before `opened`, the newest of which the sum may have
        been opened with the others: that one waits for them, who have to come back to it as they were.

        Raises:
            MismatchError: the run was of another configuration, model or number of silos.
            CheckpointError: rounds were committed and none can be read, or one is not of this run's members.
        """
        manifests, notices, refusals = gather_manifests(self._comm, self._directory, self._trust)
        if refusals:
            raise CheckpointError(untrusted(self._directory.directory, refusals[0]), rank=0)
        adopted = self._adopted(max(opened - 1, manifests[0].round if manifests else 0))
        if adopted is not None:
            manifests.insert(0, adopted[0])
            notices.append(
                f"round {adopted[0].round} is committed by the silos that are here, which had written it"
            )
        for place, manifest in enumerate(manifests):
            manifest.check(self._identity, self._silos, str(self._directory.directory))
            mine = [m for m in manifests[place:] if self._directory.silo in m.files]
            if self._directory.silo in manifest.files:
                mine = mine[:1]
            own = self._own(mine, len(manifests))
            told = allgather_parsed(self._comm, own.lines, _lines, "checkpoints")
            every = dict(zip(self._comm.members, told, strict=True))
            reasons = [reason for silo in manifest.members if silo in every for reason in every[silo]["bad"]]
            if not reasons:
                self._level(manifests[place:])
                notices += [line for lines in every.values() for line in lines["restored"]]
                notices += [
                    f"{line}; an older one is used" for lines in every.values() for line in lines["bad"]
                ]
                members = adopted[1] if adopted is not None and place == 0 else manifest.members
                return Restored(manifest.round, own.state, members, notices)
            notices.append(f"the checkpoint of round {manifest.round} cannot be used ({reasons[0]})")
        if notices:
            raise CheckpointError(
                f"no checkpoint in {self._directory.directory} can be read: {'; '.join(notices)}", rank=0
            )
        return None

    def _adopted(self, committed: int) -> tuple[Manifest, tuple[int, ...]] | None:
        """The manifest of a round after `committed` that silos which are away have not committed; collective.

        And the silos that it was begun by. None where there is no such round, or no silo is away.
        """
        if len(self._comm.members) == self._silos:
            return None
        found = adoption.newest_of_all(self._comm, self._directory, committed)
        return None if found is None else (self._signed(found[0], found[2]), found[1])

    def own_state(self, silos: set[int]) -> tuple[int, Tree] | None:
        """For `silos`, which have just come back: their newest committed round and their tree of it.

        None for the others, and for a silo that has no round that can be read; manifests of others than this
        run's members are passed over. Collective, after `reform` to the ranks that are there now.
        """
        manifests = gather_manifests(self._comm, self._directory, self._trust).manifests
        silo = self._directory.silo
        mine = [m for m in manifests if silo in m.files] if silo in silos else []
        own = self._own(mine, len(manifests))
        self._level(manifests)
        return None if own.state is None else (own.round, own.state)

    def _own(self, choices: list[Manifest], most: int) -> _Own:
        """This silo's tree of the first of these rounds of which it can be had; collective.

        No silo has more than `most` choices, on whose word the others would go on for ever.
        """
        own, left = _Own(), list(choices)
        for _ in range(max(1, most)):
            wanted = left.pop(0) if own.state is None and left else None
            problem = self._read(wanted, own) if wanted is not None else ""
            if self._buddies is not None:
                keeper, reason = self._buddies.ask(wanted if problem else None)
                if keeper is not None and wanted is not None:
                    own.lines["restored"].append(
                        f"{problem}: silo {self._directory.silo} got its file of round {wanted.round} back "
                        f"from silo {keeper}"
                    )
                    problem = self._read(wanted, own)
                elif problem:
                    problem = f"{problem}; {reason}"
            if problem:
                own.lines["bad"].append(problem)
            if not any(allgather_object(self._comm, own.state is None and bool(left))):
                break
        return own

    def _read(self, manifest: Manifest, own: _Own) -> str:
        """Read this silo's file of a round into `own`; why that failed, or an empty string."""
        entry = manifest.files[self._directory.silo]
        try:
            own.state = read_tree(self._directory.folder(manifest.round) / entry.name, entry.sha256)
        except CheckpointError as error:
            return str(error)
        own.round = manifest.round
        return ""

    def _level(self, manifests: list[Manifest]) -> None:
        """Give every folder the manifests that it lacks, so that any rank may lead from here; collective."""
        first: dict[int, Manifest] = {}
        for manifest in manifests:
            first.setdefault(manifest.round, manifest)
        with raise_on_all_ranks(self._comm):
            for manifest in first.values():
                self._directory.publish(manifest)
        self._history = _history(manifests)

    def _kept(self, newest: Manifest) -> list[int]:
        """Rank 0: the rounds that stay now that `newest` is committed everywhere."""
        if self._history is None:
            self._history = _history(self._directory.manifests()[0])
        earlier = self._history.get(newest.round, ())
        self._history[newest.round] = tuple(sorted({*earlier, *newest.members}))
        before = {found: members for found, members in self._history.items() if found <= newest.round}
        kept = kept_rounds(before, self._silos, self._keep)
        self._history = {found: before[found] for found in kept}
        return kept

    def _publish(self, manifest: Manifest | None, confirmed: Manifest | None, kept: list[int] | None) -> None:
        """Make a round exist; then forget what is older than the last one that exists in every folder."""
        self._comm.mark("checkpoint rename")
        if manifest is not None and self._directory.leads(manifest):
            self._directory.publish(manifest)
        if confirmed is not None and kept:
            self._confirmed.append(confirmed.round)
            self._directory.prune({*kept, *self._confirmed}, confirmed.round)


def _history(manifests: list[Manifest]) -> dict[int, tuple[int, ...]]:
    """Who took part in which committed round, in any of its attempts."""
    members: dict[int, set[int]] = {}
    for manifest in manifests:
        members.setdefault(manifest.round, set()).update(manifest.members)
    return {found: tuple(sorted(silos)) for found, silos in members.items()}
