"""Silos are lost, go on without each other and come back; no committed round is lost with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from silofl.checkpoint.directory import CheckpointDirectory, kept_rounds
from silofl.checkpoint.store import CheckpointStore
from silofl.errors import CheckpointError, MismatchError
from tests.checkpoint.run_of_silos import Silos, own_round, same, state_of

LAYOUTS = pytest.mark.parametrize("shared", [True, False], ids=["one folder", "a folder each"])
LOST = pytest.mark.parametrize("lost", [{0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}], ids=str)


@pytest.mark.covering(1)
@LAYOUTS
@LOST
def test_a_job_resumes_from_survivors_and_from_what_the_lost_had(
    tmp_path: Path, shared: bool, lost: set[int]
) -> None:
    silos = Silos(tmp_path, 3, shared=shared)
    left = tuple(k for k in silos.everybody if k not in lost)
    silos.commit(silos.everybody, 1, 2)
    silos.commit(left, 3, 4, 5)
    for silo, found in silos.latest().items():
        assert found is not None
        assert (found.round, found.members, found.notices) == (5, left, [])
        assert own_round(found) == (2 if silo in lost else 5)
        assert same(found.state, state_of(silo, own_round(found)))


@pytest.mark.covering(1)
@LAYOUTS
@LOST
def test_a_silo_that_comes_back_finds_its_own_state(tmp_path: Path, shared: bool, lost: set[int]) -> None:
    silos = Silos(tmp_path, 3, shared=shared)
    silos.commit(silos.everybody, 1, 2)
    silos.commit(set(silos.everybody) - lost, 3, 4, 5)
    silos.start_again(lost)
    for silo, own in silos.together(silos.everybody, lambda store, silo: store.own_state(lost)).items():
        if silo not in lost:
            assert own is None
        else:
            assert own is not None
            assert own[0] == 2
            assert same(own[1], state_of(silo, 2))
    for newest in (6, 7):
        silos.commit(silos.everybody, newest)
        for silo in silos.everybody:
            assert silos.committed(silo) == [newest - 1, newest]
    assert {folder.name for path in silos.folders() for folder in path.iterdir()} == {
        "round-000006",
        "round-000007",
    }
    assert all(found and own_round(found) == 7 for found in silos.latest().values())


@LAYOUTS
def test_pruning_spares_what_a_lost_silo_needs(tmp_path: Path, shared: bool) -> None:
    silos = Silos(tmp_path, 4, shared=shared)
    silos.commit(silos.everybody, 1, 2)
    silos.commit([0, 2, 3], 3, 4, 5)
    silos.commit([2, 3], 6, 7, 8, 9)
    assert silos.committed(3) == [2, 5, 8, 9]
    found = silos.latest()
    assert [own_round(r) for r in found.values() if r] == [5, 2, 9, 9]


@LAYOUTS
def test_a_silo_that_never_took_part_has_no_state(tmp_path: Path, shared: bool) -> None:
    silos = Silos(tmp_path, 3, shared=shared)
    silos.commit([0, 2], 1, 2)
    found = silos.latest()[1]
    assert found is not None
    assert (found.round, found.state, own_round(found)) == (2, None, 0)
    silos.start_again([1])
    assert silos.together(silos.everybody, lambda store, silo: store.own_state({1}))[1] is None


@LAYOUTS
def test_survivors_commit_what_a_leader_died_before_publishing(
    tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    silos = Silos(tmp_path, 3, shared=shared)
    silos.commit(silos.everybody, 1)
    publish = CheckpointDirectory.publish

    def refuse(directory: CheckpointDirectory, manifest: Any) -> None:
        if directory.silo != 0:
            publish(directory, manifest)

    def until_files_are_there(store: CheckpointStore, silo: int) -> None:
        store.begin(2, state_of(silo, 2))
        store.commit_pending()

    with monkeypatch.context() as dead_leader:
        dead_leader.setattr(CheckpointDirectory, "publish", refuse)
        silos.together(silos.everybody, until_files_are_there)
        silos.together([1, 2], lambda store, silo: None)
    for silo, found in silos.latest().items():
        assert found is not None
        assert (found.round, found.members) == (2, (0, 1, 2))
        assert same(found.state, state_of(silo, 2))


@LAYOUTS
def test_a_round_begun_again_spoils_no_manifest_of_its_first_attempt(tmp_path: Path, shared: bool) -> None:
    """Silo 1's process ends before the second attempt is committed: the first is still the truth."""
    silos = Silos(tmp_path, 3, shared=shared)
    silos.commit(silos.everybody, 1, 2, tag=1)

    def again(store: CheckpointStore, silo: int) -> None:
        store.begin(2, state_of(silo, 2, tag=2))
        store.reform(store._comm)  # which waits for the file

    silos.together([1, 2], again)
    for silo, found in silos.latest().items():
        assert found is not None
        assert (found.round, found.members) == (2, (0, 1, 2))
        assert same(found.state, state_of(silo, 2, tag=1))
    silos.commit(silos.everybody, 3)
    assert all(found and found.round == 3 for found in silos.latest().values())


@LAYOUTS
def test_the_second_attempt_is_the_truth_once_it_is_committed(tmp_path: Path, shared: bool) -> None:
    silos = Silos(tmp_path, 3, shared=shared)
    silos.commit(silos.everybody, 1, 2, tag=1)
    silos.commit([0, 2], 2, tag=2)
    for silo, found in silos.latest().items():
        assert found is not None
        assert (found.round, found.members) == (2, (0, 2))
        if silo != 1:
            assert same(found.state, state_of(silo, 2, tag=2))
        else:
            assert own_round(found) == 2, "what it had committed is lost"
            assert same(found.state, state_of(silo, 2, tag=1))


@LAYOUTS
def test_what_it_had_committed_outlives_the_rounds_after_it(tmp_path: Path, shared: bool) -> None:
    silos = Silos(tmp_path, 3, shared=shared, keep=1)
    silos.commit(silos.everybody, 1, 2, tag=1)
    silos.commit([0, 2], 2, 3, 4, 5, tag=2)
    found = silos.latest()[1]
    assert found is not None
    assert (found.round, own_round(found)) == (5, 2)
    assert same(found.state, state_of(1, 2, tag=1))


@LAYOUTS
def test_what_a_silo_had_committed_outlives_its_rounds_second_attempt(tmp_path: Path, shared: bool) -> None:
    """It comes back and takes part in a third; then it is lost for good, and the others go on."""
    silos = Silos(tmp_path, 3, shared=shared, keep=1)
    silos.commit(silos.everybody, 1, 2, tag=1)
    silos.commit([0, 2], 2, tag=2)
    silos.start_again({1})
    own = silos.together(silos.everybody, lambda store, silo: store.own_state({1}))[1]
    assert own is not None
    assert own[0] == 2
    assert same(own[1], state_of(1, 2, tag=1))

    def third(store: CheckpointStore, silo: int) -> None:
        store.begin(2, state_of(silo, 2, tag=3))
        store.reform(store._comm)  # its files are there, and no manifest says so

    silos.together(silos.everybody, third)
    silos.start_again({1})
    own = silos.together(silos.everybody, lambda store, silo: store.own_state({1}))[1]
    assert own is not None
    assert same(own[1], state_of(1, 2, tag=1)), "a file that a manifest names was written over"
    silos.commit([0, 2], 3, 4, 5, tag=4)
    assert silos.committed(0) == [2, 5]
    found = silos.latest()[1]
    assert found is not None
    assert (found.round, own_round(found)) == (5, 2)
    silos.start_again({1})
    silos.together(silos.everybody, lambda store, silo: store.own_state({1}))
    silos.commit(silos.everybody, 6, 7)
    assert silos.committed(0) == [7]


def test_a_damaged_manifest_gives_way_to_another_silos_copy(tmp_path: Path) -> None:
    silos = Silos(tmp_path, 3, shared=False)
    silos.commit(silos.everybody, 1, 2)
    path = silos.folder(0) / "round-000002/manifest.json"
    intact = path.read_text()
    path.write_text(intact.replace('"lr": 0.05', '"lr": 0.04'))
    for found in silos.latest().values():
        assert found is not None
        assert found.round == 2
        assert found.notices == ["the manifest of round 2 is damaged at silo 0; another silo's copy is used"]
    assert path.read_text() == intact


@LAYOUTS
def test_a_damaged_file_gives_way_to_the_round_before(tmp_path: Path, shared: bool) -> None:
    silos = Silos(tmp_path, 3, shared=shared)
    silos.commit(silos.everybody, 1, 2)
    path = silos.folder(1) / "round-000002/silo-0001.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    for silo, found in silos.latest().items():
        assert found is not None
        assert found.round == 1
        assert same(found.state, state_of(silo, 1))
        assert len(found.notices) == 1
        assert "round 2 cannot be used" in found.notices[0]
        assert "silo-0001" in found.notices[0]
    (silos.folder(1) / "round-000001/silo-0001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        silos.latest()


@LAYOUTS
def test_a_lost_silos_damaged_state_gives_way_to_an_older_one_of_its_own(
    tmp_path: Path, shared: bool
) -> None:
    silos = Silos(tmp_path, 3, shared=shared, keep=4)
    silos.commit(silos.everybody, 1, 2)
    silos.commit([0, 1], 3)
    (silos.folder(2) / "round-000002/silo-0002.safetensors").write_bytes(b"torn")
    found = silos.latest()
    assert [(r.round, own_round(r)) for r in found.values() if r] == [(3, 3), (3, 3), (3, 1)]
    notices = found[0].notices if found[0] else []
    assert len(notices) == 1
    assert notices[0].endswith("an older one is used")
    silos.start_again([2])
    own = silos.together(silos.everybody, lambda store, silo: store.own_state({2}))[2]
    assert own is not None
    assert own[0] == 1


def test_another_number_of_silos_or_another_format_is_refused(tmp_path: Path) -> None:
    Silos(tmp_path, 3, shared=True).commit([0, 1, 2], 1)
    with pytest.raises(MismatchError, match="holds a run of 3 silos and this one has 2"):
        Silos(tmp_path, 2, shared=True).latest()
    path = tmp_path / "all/checkpoints/round-000001/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    with pytest.raises(MismatchError, match="format 1"):
        Silos(tmp_path, 3, shared=True).latest()


def test_which_rounds_stay() -> None:
    everybody, some = (0, 1, 2), (0, 2)
    assert kept_rounds({1: everybody, 2: everybody, 3: everybody}, 3, 2) == [3, 2]
    assert kept_rounds({1: everybody, 2: everybody, 3: some, 4: some, 5: some}, 3, 2) == [5, 4, 2]
    assert kept_rounds({1: some}, 3, 2) == [1]
