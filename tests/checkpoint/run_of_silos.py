"""A run's checkpoints without a run: stores in threads, some of which are away from time to time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from silofl.checkpoint.store import CheckpointStore, Restored
from silofl.checkpoint.trust import Trust
from silofl.comm import run_in_threads

Result = TypeVar("Result")

RUN = "5" * 32
IDENTITY = {"config": {"train": {"lr": 0.05}}, "model": "linear"}


class Seated:
    """A communicator of threads whose ranks are those of some silos."""

    def __init__(self, comm: Any, silos: list[int]) -> None:
        self._comm = comm
        self.members = tuple(silos)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)


def state_of(silo: int, round_number: int, tag: int = 0) -> dict[str, Any]:
    """A silo's tree, different for each silo, round and `tag`."""
    values = np.arange(1000, dtype=np.float32) + 1000 * silo + round_number / 8 + tag / 64
    return {"slice": values, "own": {"silo": silo, "round": round_number, "tag": tag}}


def own_round(found: Restored) -> int:
    """Of which round a silo's own tree is, 0 without one."""
    return 0 if found.state is None else int(found.state["own"]["round"])


class Silos:
    """The stores of all silos, each with a folder of its own or all with one.

    `trust` gives a silo's, `host_of` the host that it pretends to be on; `more` are further arguments of its
    store, each a function of the silo.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        *,
        shared: bool,
        keep: int = 2,
        trust: Callable[[int], Trust] = lambda silo: Trust(RUN),
        host_of: Callable[[int], int] = lambda silo: 0,
        **more: Any,
    ) -> None:
        self.count, self.everybody = count, list(range(count))
        self._path, self._shared, self._keep, self._more = path, shared, keep, more
        self._stores: dict[int, CheckpointStore] = {}
        self.trust, self.host_of = trust, host_of

    def folder(self, silo: int) -> Path:
        """Where a silo keeps its checkpoints."""
        return self._path / ("all" if self._shared else f"silo-{silo}") / "checkpoints"

    def folders(self) -> list[Path]:
        """All that exist."""
        return sorted({self.folder(silo) for silo in self.everybody if self.folder(silo).exists()})

    def committed(self, silo: int) -> list[int]:
        """Rounds of which a silo sees a manifest."""
        return sorted(int(p.parent.name[6:]) for p in self.folder(silo).glob("round-*/manifest.json"))

    def start_again(self, silos: Iterable[int] | None = None) -> None:
        """Let processes be new: whoever comes next has a new store."""
        for silo in list(self._stores) if silos is None else silos:
            self._stores.pop(silo, None)

    def wait_for_threads(self) -> None:
        """Return when no store does anything any more, whatever became of it."""
        for store in self._stores.values():
            for work in (store._writer, store._publisher):
                with suppress(BaseException):
                    work.result()

    def together(
        self, silos: Iterable[int], function: Callable[[CheckpointStore, int], Result]
    ) -> dict[int, Result]:
        """Call `function(store, silo)` on these silos alone; their results."""
        present = sorted(silos)

        def rank(comm: Any) -> Result:
            silo = present[comm.rank]
            seated: Any = Seated(comm, present)
            if silo in self._stores:
                self._stores[silo].reform(seated)
            else:
                more = {name: value(silo) for name, value in self._more.items()}
                self._stores[silo] = CheckpointStore(
                    seated,
                    self.folder(silo),
                    IDENTITY,
                    self.trust(silo),
                    silos=self.count,
                    keep=self._keep,
                    **more,
                )
            return function(self._stores[silo], silo)

        found = run_in_threads(
            len(present), rank, timeout_s=30, host_of=lambda rank: self.host_of(present[rank])
        )
        return dict(zip(present, found, strict=True))

    def commit(self, silos: Iterable[int], *rounds: int, tag: int = 0) -> None:
        """Let these silos commit rounds, for good."""

        def work(store: CheckpointStore, silo: int) -> None:
            for number in rounds:
                store.commit_pending()
                store.begin(number, state_of(silo, number, tag))
            store.flush()

        self.together(silos, work)

    def latest(self) -> dict[int, Restored | None]:
        """What all silos of a new job find."""
        self.start_again()
        return self.together(self.everybody, lambda store, silo: store.latest())


def same(found: Any, wanted: dict[str, Any]) -> bool:
    """Whether a tree is another's, bit for bit."""
    return found["own"] == wanted["own"] and found["slice"].tobytes() == wanted["slice"].tobytes()
