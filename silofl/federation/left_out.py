"""Silos that a resumed run goes on without: their files were lost with their host, or their disk.

Under `failure.policy = "shrink"` only. What is asked here is what a silo needs to be itself, its key and a
file of a round, before its data is read: on another host a path may lead to another institution's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silofl.checkpoint import run_keys
from silofl.checkpoint.checked import each, named, whole
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.comm.collective_errors import allgather_parsed, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config, for_silo
from silofl.crypto.key_file import silo_key_path
from silofl.crypto.roster import Roster
from silofl.errors import LeftOutError, SiloflError, StoppedError
from silofl.federation.failure.policy import why_not_without
from silofl.federation.run_trust import CHECKPOINTS
from silofl.report.round_metrics import silos_text

Silos = tuple[int, ...]


def leave_out(group: ElasticGroup, config: Config, path: Path, silos: int) -> list[str]:
    """Go on without the silos whose files are gone, with a notice where there are any. Collective.

    `path` is this rank's run directory, `silos` how many the run has in all.

    Raises:
        LeftOutError: on the ranks of those silos, which the others do not wait for.
        StoppedError: on every rank, where the run cannot go on without them.
    """
    lost, of_key_alone = group.step(lambda: lost_silos(group, config, path, silos))
    if not lost:
        return []
    named = [silo for silo in lost if silo in config.failure.leave_out]
    has = "has lost the files of this run" if not named else "is named by failure.leave_out"
    if len(lost) > 1:
        has = has.replace("has ", "have ").replace("is ", "are ", 1)
    who = f"{silos_text(lost)} {has}"
    left = tuple(silo for silo in group.members if silo not in lost)
    why = why_not_without(config, silos, left)
    if why and of_key_alone:
        return []  # each says which file it misses
    if why:
        raise StoppedError(
            f"{who}, and {why}: put key and checkpoints back, and start the same command with --resume",
            rank=0,
        )
    part = group.step(lambda: group.comm.part(left))
    if part is None:
        raise LeftOutError(f"{who}: the others go on", rank=group.comm.rank)
    group.adopt(part)
    return [f'{who} and {"is" if len(lost) == 1 else "are"} left out, by failure.policy = "shrink"']


def lost_silos(group: ElasticGroup, config: Config, path: Path, silos: int) -> tuple[Silos, bool]:
    """The silos of this job that have no key by which they are themselves, or no file of what they committed.

    Nor a copy of one; and those that `failure.leave_out` names. None before a first round is committed, and
    where that holds for all: their errors say more. And whether any of them misses its key alone. Collective,
    within a step. StoppedError, on every rank, where one is named and no round is committed.
    """
    comm, silo = group.comm, group.silo_id
    with raise_on_all_ranks(comm):
        mine = _files(config, path, silo, silos)
    every = allgather_parsed(comm, mine.to_json(), _Files.checked, "its files")
    has_key = mine.key or _has_derived_key(config, silo, every)
    keys = allgather_parsed(comm, has_key, bool, "its key")
    committed = {one for files in every for one in files.members}
    copied = {one for files in every for one in files.copies}
    lost, of_key_alone = list[int](), False
    if config.failure.leave_out and not committed:
        raise StoppedError(
            "failure.leave_out names silos, and there is no committed round that could go on without them: "
            "start the same command with --resume when all are there",
            rank=0,
        )
    for one, files, key in zip(comm.members, every, keys, strict=True):
        kept = files.state or one in copied
        if one in config.failure.leave_out:
            lost.append(one)
        elif (committed and not key) or (one in committed and not kept):
            lost.append(one)
            of_key_alone = of_key_alone or kept
    return (tuple(lost), of_key_alone) if len(lost) < comm.size else ((), False)


@dataclass(frozen=True)
class _Files:
    """What a rank has of a run.

    Attributes:
        key: whether its silo's own key is there.
        state: whether any file of its silo's is.
        members: the silos that committed a round, by its manifests.
        copies: the silos of whose files it has a sealed copy.
        run: the run's id, by its manifests; empty without one.
        roster: the public keys of the first start; empty where it has kept none.
    """

    key: bool
    state: bool
    members: list[int]
    copies: list[int]
    run: str
    roster: str

    def to_json(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def checked(cls, told: Any) -> _Files:
        told = named(told, "it")
        members, copies = (_silos(told[of]) for of in ("members", "copies"))
        key, state = told["key"] is True, told["state"] is True
        return cls(key, state, members, copies, str(told["run"]), str(told["roster"]))


def _silos(told: Any) -> list[int]:
    return [whole(one, "a silo") for one in each(told, "a list of silos")]


def _files(config: Config, path: Path, silo: int, silos: int) -> _Files:
    directory, secure = CheckpointDirectory(path / CHECKPOINTS, silo), for_silo(config, silo).secure
    manifests, _ = directory.manifests()
    kept = run_keys.kept(path, silo)
    return _Files(
        Path(secure.identity).exists() if secure.identity else kept.identity is not None,
        any(directory.own_files(number) for number in directory.rounds()),
        sorted({one for manifest in manifests for one in manifest.members}),
        [one for one in range(silos) if directory.has_sealed(one)],
        manifests[0].run if manifests else "",
        kept.roster.dumps() if kept.roster is not None else "",
    )


def _has_derived_key(config: Config, silo: int, every: list[_Files]) -> bool:
    """Whether `checkpoint.key_file` is here, and what is derived from it is the key of the first start."""
    key_file = config.checkpoint.key_file
    run = next((files.run for files in every if files.run), "")
    roster = next((files.roster for files in every if files.roster), "")
    if not (config.checkpoint.buddy and run and roster and silo_key_path(key_file, silo).exists()):
        return False
    try:
        known = Roster.parse(roster.encode(), Path(run_keys.ROSTER))
        return known.silo_of(run_keys.derived(key_file, silo, run).public) == silo
    except (SiloflError, ValueError):
        return False
