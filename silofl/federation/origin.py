"""What a silo's earlier rounds were trained on and with, held against what a resumed process has.

It lies in the silo's own checkpoint alone, and no other rank is told more than that something differs.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import Any

import torch

from silofl.comm.collective_errors import allgather_parsed, raise_on_all_ranks, texts
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.errors import ChangedDataError
from silofl.federation.new_samples import NewSamples
from silofl.federation.silo import Silo
from silofl.federation.stateful import Json, Part, State
from silofl.launcher.environment import planned_threads
from silofl.tasks.user_code import own_files
from silofl.training.device import kind

SALT_BYTES = 16
_MOST_FILES = 3
_MEASURES = {"torch": "torch", "processor": "vector units", "device": "train.device"}
"""What decides the last bits of training and cannot be set back here, with its name for people."""


class Origin(Part):
    """One silo's: a keyed digest of its data, its task's files, torch's threads, and what else matters."""

    name = "origin"

    def __init__(self, group: ElasticGroup, config: Config, silo: Silo) -> None:
        self._group, self._silo = group, silo
        self._private = config.privacy.unit != "none"
        self._accept = config.data.accept_changes and not self._private
        self._salt = secrets.token_bytes(SALT_BYTES)
        self._code = own_files(silo.task)
        self._ranks = config.train.ranks_per_silo
        self.new_samples = NewSamples.of(silo, group.silo_id, config)
        """What comes between rounds; None where a task has everything at the start."""
        self.other_ranks = False
        """Whether this silo had another number of ranks: what is random in its training is another draw."""
        self.notices: list[str] = []
        """Of all silos, after `restore`."""

    def state(self) -> State:
        """See `Stateful`."""
        return {
            "salt": self._salt.hex(),
            "data": self._digest(),
            "samples": [self._silo.samples, self._silo.test_samples],
            "threads": torch.get_num_threads(),
            "ranks": self._ranks,
            "code": dict(self._code),
            "arrived": 0 if self.new_samples is None else self.new_samples.round,
            **_measures(self._silo),
        }

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`. ChangedDataError, on every rank, where a silo has other data than it had."""
        comm, own = self._group.comm, list[str]()
        with raise_on_all_ranks(comm):
            own = self._compare(state)
        self.notices = [line for lines in allgather_parsed(comm, own, texts, "its data") for line in lines]

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`. ChangedDataError on this rank alone, where its data is not what it was."""
        self._compare(own)

    def _compare(self, state: State | None) -> list[str]:
        """Take up a state: set threads back, return what else differs. Not collective."""
        if not state:
            return []
        self._salt = bytes.fromhex(state["salt"])
        who, ranks = f"silo {self._group.silo_id}", state.get("ranks", 1)
        self.other_ranks = ranks != self._ranks
        key = f"train.ranks_per_silo = {self._ranks}"
        told = f"{who} goes on with {key}, which was {ranks}: what is random in its training differs"
        if self.new_samples is not None:  # what had come is part of the data, and of its digest
            self.new_samples.arrive(state.get("arrived", 0))
        return [
            *self._changed_data(who, state),
            *self._changed_code(who, state.get("code", {})),
            *([told] if self.other_ranks else _threads(who, state["threads"])),
            *self._other(who, state),
        ]

    def _changed_data(self, who: str, state: State) -> list[str]:
        counts = state["samples"] == [self._silo.samples, self._silo.test_samples]
        if counts and state["data"] == self._digest():
            return []
        what = f"{who} has other {'data' if counts else 'numbers of samples'} than the run was trained on"
        if self._accept:
            return [f"{what}, as data.accept_changes allows: the model is of both"]
        remedy = "restore it (a split that is drawn at random needs a seed), or begin another run with --run"
        more = (
            "; under [privacy] no other data is accepted, for the ledger counts what was spent of this"
            if self._private
            else ", or accept it with --set data.accept_changes=true"
        )
        raise ChangedDataError(f"{what}: {remedy}{more}")

    def _changed_code(self, who: str, before: Any) -> list[str]:
        """Which of the task's files are others: of two that are loaded at both times."""
        changed = [name for name, digest in self._code.items() if before.get(name, digest) != digest]
        if not changed:
            return []
        listed = ", ".join(changed[:_MOST_FILES]) + (" and others" if len(changed) > _MOST_FILES else "")
        return [f"{who} goes on with a changed {listed}: the rounds before were trained with what it was"]

    def _other(self, who: str, state: State) -> list[str]:
        now = _measures(self._silo)
        differs = [
            f"{name} {now[key]} (was {state[key]})"
            for key, name in _MEASURES.items()
            if now[key] != state[key]
        ]
        what = ", ".join(differs)
        return [f"{who} goes on with {what}: the model's last bits may differ"] if differs else []

    def _digest(self) -> str:
        return hashlib.blake2b(self._silo.data_digest(), key=self._salt, digest_size=32).hexdigest()


def _measures(silo: Silo) -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": kind(silo.model.vector.device),
    }


def _threads(who: str, before: int) -> list[str]:
    """Go on with as many threads of torch as before, unless the user has set another number."""
    now = torch.get_num_threads()
    if now == before:
        return []
    if os.environ.get("OMP_NUM_THREADS") and planned_threads(os.environ) is None:
        return [
            f"{who} goes on with torch's threads at {now}, by OMP_NUM_THREADS, which were {before}: the "
            "model's last bits may differ"
        ]
    torch.set_num_threads(before)
    return [
        f"{who} goes on with torch's threads at {before} as before, for the model's last bits depend on "
        f"them; this start would have {now}, and OMP_NUM_THREADS={now} takes them"
    ]
