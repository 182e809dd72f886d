"""What is committed is the state at the instant of `begin`, whatever becomes of its arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from silofl.checkpoint.snapshot import Snapshot
from silofl.checkpoint.store import CheckpointStore
from tests.checkpoint.run_of_silos import Silos, same, state_of


def test_training_goes_on_while_the_files_are_written(tmp_path: Path) -> None:
    silos = Silos(tmp_path, 2, shared=True)

    def work(store: CheckpointStore, silo: int) -> None:
        for number in (1, 2, 3):
            state = state_of(silo, number)
            store.commit_pending()
            store.begin(number, state)
            state["slice"][:] = -1
        store.flush()

    silos.together(silos.everybody, work)
    for silo, found in silos.latest().items():
        assert found is not None
        assert same(found.state, state_of(silo, 3))


def test_memory_is_used_again_while_arrays_keep_their_shape() -> None:
    snapshot = Snapshot()
    live = {"a": np.arange(6.0), "b": [np.arange(4)], "n": 1}
    _, first = snapshot.take(live)
    live["n"] = 2
    _, second = snapshot.take(live)
    assert {name: id(array) for name, array in first.items()} == {n: id(a) for n, a in second.items()}
    assert not any(np.shares_memory(array, live["a"]) for array in second.values())
    _, third = snapshot.take({"a": np.arange(6.0, dtype=np.float32), "b": []})
    assert list(third) == ["/a"]
    assert third["/a"].dtype == np.float32
