"""A silo that loses its disk gets its files back from a buddy, who could read nothing of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl.checkpoint.atomic_files import PieceWriter
from silofl.checkpoint.buddies import Buddies
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.names import sealed_name
from silofl.checkpoint.store import CheckpointStore
from silofl.comm.protocol import RankFailedError
from silofl.crypto.chunked_aead import CHUNK_BYTES
from silofl.crypto.key_file import silo_key
from silofl.crypto.secret import Secret
from silofl.errors import CheckpointError, ProtocolError, StorageError
from tests.checkpoint.run_of_silos import Silos, same, state_of

KEYS = [Secret(bytes([k]) * 32) for k in range(4)]


def with_buddies(path: Path, count: int = 3, host_of: Callable[[int], int] = lambda silo: 0) -> Silos:
    return Silos(path, count, shared=False, host_of=host_of, buddy_key=lambda silo: KEYS[silo])


LAYOUTS = {"2, 2": (0, 0, 1, 1), "3, 1": (0, 0, 0, 1), "1, 3": (0, 1, 1, 1), "one each": (0, 1, 2, 3)}


@pytest.mark.covering(0)
@pytest.mark.parametrize("hosts", LAYOUTS.values(), ids=LAYOUTS)
def test_a_host_that_is_lost_takes_no_silos_state_with_it(tmp_path: Path, hosts: tuple[int, ...]) -> None:
    for lost in set(hosts):
        silos = with_buddies(tmp_path / f"{lost}", 4, lambda silo: hosts[silo])
        silos.commit(silos.everybody, 1, 2)
        gone = [silo for silo in silos.everybody if hosts[silo] == lost]
        for silo in gone:
            shutil.rmtree(silos.folder(silo))
        silos.host_of = lambda silo: 0  # the job is started again on one host
        for silo, found in silos.latest().items():
            assert found is not None
            assert found.round == 2
            assert same(found.state, state_of(silo, 2))
            assert len(found.notices) == len(gone)
        assert all(found and not found.notices for found in silos.latest().values())


def test_a_copy_that_lies_where_it_does_not_today_is_found(tmp_path: Path) -> None:
    """What was kept under an earlier rule, or when silos were on other hosts."""
    silos = with_buddies(tmp_path, 4)
    silos.commit(silos.everybody, 1)  # silo 2 keeps silo 1's
    silos.host_of = lambda silo: silo // 2
    silos.commit(silos.everybody, 2)  # silo 3 keeps it now
    for number in (2, 1):
        shutil.rmtree(silos.folder(1))
        for silo in silos.everybody:
            shutil.rmtree(silos.folder(silo) / f"round-{number + 1:06d}", ignore_errors=True)
        found = silos.latest()[1]
        assert found is not None
        assert found.round == number
        assert same(found.state, state_of(1, number))


def test_the_buddy_of_many_keeps_each_or_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three silos whose copies silo 3 keeps, one cannot be written: the others' are there."""
    silos = with_buddies(tmp_path, 4, lambda silo: int(silo == 3))
    works = PieceWriter.write

    def full(writer: PieceWriter, piece: bytes) -> None:
        if "silo-0001.sealed" in str(writer._path):
            raise StorageError("cannot write silo-0001.sealed: No space left on device")
        works(writer, piece)

    monkeypatch.setattr(PieceWriter, "write", full)
    with pytest.raises(StorageError, match=r"silo-0001\.sealed: No space left"):
        silos.commit(silos.everybody, 1)
    silos.wait_for_threads()
    assert sorted(one.name for one in silos.folder(3).glob("round-000001/*.sealed")) == [
        "silo-0000.sealed",
        "silo-0002.sealed",
    ]


def test_a_host_lost_in_the_middle_of_copying_leaves_the_round_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is killed while copies of round 2 cross, and two disks are gone: resumed twice, one truth."""
    silos = with_buddies(tmp_path, 4, lambda silo: silo // 2)
    silos.commit(silos.everybody, 1)
    with monkeypatch.context() as patch:
        patch.setattr(PieceWriter, "finish", lambda self: None)
        silos.commit(silos.everybody, 2)
    for silo in (2, 3):
        shutil.rmtree(silos.folder(silo))
    silos.host_of = lambda silo: 0
    for _ in range(2):
        for silo, found in silos.latest().items():
            assert found is not None
            assert found.round == 1
            assert same(found.state, state_of(silo, 1))
    silos.commit(silos.everybody, 2, tag=1)
    assert all(found and found.round == 2 for found in silos.latest().values())


def test_a_buddy_that_comes_back_itself_keeps_copies_again(tmp_path: Path) -> None:
    """Silo 2 keeps silo 0's copy, loses its own disk, comes back, and keeps the next round's."""
    silos = with_buddies(tmp_path, 4, lambda silo: silo // 2)
    silos.commit(silos.everybody, 1)
    shutil.rmtree(silos.folder(2))
    silos.start_again([2])
    silos.together(silos.everybody, lambda store, silo: store.own_state({2}))
    silos.commit(silos.everybody, 2)
    shutil.rmtree(silos.folder(0))
    found = silos.latest()[0]
    assert found is not None
    assert found.round == 2
    assert same(found.state, state_of(0, 2))


@pytest.mark.covering(0)
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_run_directory_comes_back(tmp_path: Path, lost: int) -> None:
    silos = with_buddies(tmp_path)
    silos.commit(silos.everybody, 1, 2, 3)
    before = (silos.folder(lost) / f"round-000003/silo-{lost:04d}.safetensors").read_bytes()
    shutil.rmtree(silos.folder(lost))
    for silo, found in silos.latest().items():
        assert found is not None
        assert found.round == 3
        assert same(found.state, state_of(silo, 3))
        assert len(found.notices) == 1
        assert f"silo {lost} got its file of round 3 back from silo {(lost + 1) % 3}" in found.notices[0]
    assert (silos.folder(lost) / f"round-000003/silo-{lost:04d}.safetensors").read_bytes() == before
    assert all(found and not found.notices for found in silos.latest().values())


def test_files_of_many_pieces_and_of_different_lengths(tmp_path: Path) -> None:
    silos = with_buddies(tmp_path)
    lengths = [10, CHUNK_BYTES // 3, CHUNK_BYTES // 2]  # of values of 4 bytes: 1, 2 and 3 pieces
    states = {
        silo: {"values": np.random.default_rng(silo).standard_normal(n).astype(np.float32)}
        for silo, n in enumerate(lengths)
    }

    def commit(store: CheckpointStore, silo: int) -> None:
        store.begin(1, states[silo])
        store.flush()

    silos.together(silos.everybody, commit)
    shutil.rmtree(silos.folder(1))
    shutil.rmtree(silos.folder(2))  # it held silo 1's copy, but only silo 0 its own
    with pytest.raises(CheckpointError, match="no other silo has a copy"):
        silos.latest()
    silos.together(silos.everybody, commit)
    for path in (silos.folder(1), silos.folder(2)):
        (path / "round-000001" / f"silo-{int(path.parent.name[-1]):04d}.safetensors").unlink()
    for silo, found in silos.latest().items():
        assert found is not None
        assert found.state is not None
        assert found.state["values"].tobytes() == states[silo]["values"].tobytes()


@pytest.mark.covering(0)
@pytest.mark.parametrize("shared", [True, False])
def test_a_silo_that_comes_back_without_its_disk(tmp_path: Path, shared: bool) -> None:
    silos = Silos(tmp_path, 4, shared=shared, buddy_key=lambda silo: KEYS[silo])
    silos.commit(silos.everybody, 1, 2)
    silos.commit([0, 1, 3], 3, 4, 5)
    for path in silos.folder(2).glob("round-*/silo-0002.safetensors"):
        path.unlink()
    silos.start_again([2])
    own = silos.together(silos.everybody, lambda store, silo: store.own_state({2}))[2]
    assert own is not None
    assert own[0] == 2
    assert same(own[1], state_of(2, 2))
    silos.commit(silos.everybody, 6)
    assert all(found and found.round == 6 for found in silos.latest().values())


def test_what_a_buddy_keeps_tells_nothing(tmp_path: Path) -> None:
    silos = with_buddies(tmp_path)
    silos.commit(silos.everybody, 1)
    plain = (silos.folder(0) / "round-000001/silo-0000.safetensors").read_bytes()
    kept = (silos.folder(1) / "round-000001/silo-0000.sealed").read_bytes()
    assert len(kept) - len(plain) == 48
    assert all(plain[at : at + 8] not in kept for at in range(0, len(plain) - 8, 8))
    histogram = np.bincount(np.frombuffer(kept, np.uint8), minlength=256)
    expected = len(kept) / 256
    assert ((histogram - expected) ** 2 / expected).sum() < 400  # chi squared, 255 degrees of freedom


@pytest.mark.parametrize("how", ["altered", "other round", "other silo", "cut", "other key"])
def test_a_copy_that_is_not_the_one_gives_way_to_the_round_before(tmp_path: Path, how: str) -> None:
    silos = with_buddies(tmp_path)
    silos.commit(silos.everybody, 1, 2)
    (silos.folder(0) / "round-000002/silo-0000.safetensors").unlink()
    copy = silos.folder(1) / "round-000002/silo-0000.sealed"
    content = copy.read_bytes()
    if how == "altered":
        copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "other round":
        shutil.copy(silos.folder(1) / "round-000001/silo-0000.sealed", copy)
    elif how == "other silo":
        shutil.copy(silos.folder(2) / "round-000002/silo-0001.sealed", copy)
    elif how == "cut":
        copy.write_bytes(content[:-1])
    else:
        silos = Silos(tmp_path, 3, shared=False, buddy_key=lambda silo: KEYS[silo + 1])
    for silo, found in silos.latest().items():
        assert found is not None
        assert found.round == 1
        assert same(found.state, state_of(silo, 1))
        assert "round 2 cannot be used" in found.notices[0]
    assert not list(silos.folder(0).glob("round-000002/silo-0000*"))


def test_a_copy_of_another_attempt_gives_way_to_another_keepers(tmp_path: Path) -> None:
    """Round 2 is begun again without silo 1: silo 2 then keeps its second attempt, silo 1 the first."""
    silos = with_buddies(tmp_path)
    silos.commit(silos.everybody, 1, 2, tag=1)
    silos.commit([0, 2], 2, tag=2)
    for path in silos.folder(0).glob("round-000002/silo-0000*"):
        path.unlink()
    for silo, found in silos.latest().items():
        assert found is not None
        assert (found.round, found.members) == (2, (0, 2))
        if silo != 1:
            assert same(found.state, state_of(silo, 2, tag=2))


def test_a_loss_in_the_middle_of_a_transfer_endangers_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silos = with_buddies(tmp_path)
    silos.commit(silos.everybody, 1)

    def lose(*_: Any) -> None:
        raise RankFailedError

    def until_the_transfer(store: CheckpointStore, silo: int) -> None:
        store.begin(2, state_of(silo, 2))
        store.commit_pending()
        with pytest.raises(RankFailedError):
            store.commit_pending()

    with monkeypatch.context() as patch:
        patch.setattr(PieceWriter, "write", lose)
        silos.together(silos.everybody, until_the_transfer)
    silos.together([0, 2], lambda store, silo: None)
    assert all(found and found.round == 2 for found in silos.latest().values())
    assert not list(tmp_path.glob("**/*.tmp"))
    silos.commit([0, 2], 3)
    shutil.rmtree(silos.folder(0))
    found = silos.latest()[0]
    assert found is not None
    assert same(found.state, state_of(0, 3))


@pytest.mark.parametrize("step", ["__init__", "write", "finish"])
def test_a_buddys_full_disk_is_one_sentence_and_the_round_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    silos = with_buddies(tmp_path)
    works = getattr(PieceWriter, step)

    def full(writer: PieceWriter, *arguments: Any) -> None:
        path = arguments[0] if step == "__init__" else writer._path
        if "silo-0001.sealed" in str(path):
            raise StorageError(f"cannot write {path}: No space left on device")
        works(writer, *arguments)

    monkeypatch.setattr(PieceWriter, step, full)
    with pytest.raises(StorageError, match=r"silo-0001\.sealed: No space left"):
        silos.commit(silos.everybody, 1)
    silos.wait_for_threads()
    assert all(found and found.round == 1 for found in silos.latest().values())


@pytest.mark.parametrize("size", [1 << 28, 1 << 50])
def test_a_file_that_no_state_needs_is_kept_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    silos = with_buddies(tmp_path)
    silos.commit(silos.everybody, 1)
    honest = CheckpointDirectory.write_state

    def lie(directory: CheckpointDirectory, *given: Any) -> Any:
        entry = honest(directory, *given)
        return replace(entry, bytes=size) if directory.silo == 1 else entry

    monkeypatch.setattr(CheckpointDirectory, "write_state", lie)
    with pytest.raises(ProtocolError, match=rf"silo 1's .*its file of round 2 has {size} bytes, and none is"):
        silos.commit(silos.everybody, 2)
    assert not list(tmp_path.glob("**/round-000002/*.sealed"))


@pytest.mark.parametrize("spoil", [lambda box: box * 3, lambda box: box[:-1]], ids=["longer", "shorter"])
def test_a_piece_of_another_length_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any
) -> None:
    silos = with_buddies(tmp_path)
    honest = Buddies._boxes
    monkeypatch.setattr(
        Buddies,
        "_boxes",
        lambda self, *given: (
            spoil(box) if self._directory.silo == 1 else box for box in honest(self, *given)
        ),
    )
    with pytest.raises(ProtocolError, match=r"silo 1's .*a piece of its file to keep has \d+ bytes, not"):
        silos.commit(silos.everybody, 1)
    assert not list(silos.folder(2).glob("round-000001/*.sealed"))
    assert list(silos.folder(0).glob("round-000001/*.sealed"))


def test_where_a_silos_key_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    key = silo_key("", 3)
    assert key == silo_key(str(tmp_path / "state/silofl/checkpoint-silo-{silo}.key"), 3)
    assert key != silo_key("", 4)
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    silo_key("", 3)
    assert (tmp_path / "home/.local/state/silofl/checkpoint-silo-3.key").exists()
    silo_key("~/own-{silo}.key", 5)
    assert (tmp_path / "home/own-5.key").exists()
    assert sealed_name(5) == "silo-0005.sealed"
