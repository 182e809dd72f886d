"""A file sealed in pieces opens as it was, and in no other way."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from silofl.crypto import chunked_aead
from silofl.crypto.chunked_aead import SALT_BYTES, TAG_BYTES, Opener, Sealer, piece_count, sealed_bytes
from silofl.crypto.key_file import load_or_make
from silofl.crypto.secret import Secret
from silofl.errors import CheckpointError, ConfigError, StorageError

KEY = Secret(bytes(range(32)))
PIECES = [b"first" * 100, b"second" * 100, b"third"]


def sealed(
    pieces: list[bytes], silo: int = 3, round_number: int = 7, key: Secret = KEY, bound_to: bytes = b"run"
) -> list[bytes]:
    sealer = Sealer(key, silo, round_number, bound_to)
    return [sealer.seal(piece, last=k == len(pieces) - 1) for k, piece in enumerate(pieces)]


def opened(
    boxes: list[bytes], silo: int = 3, round_number: int = 7, key: Secret = KEY, bound_to: bytes = b"run"
) -> list[bytes]:
    opener = Opener(key, silo, round_number, bound_to)
    return [opener.open(box, last=k == len(boxes) - 1) for k, box in enumerate(boxes)]


@pytest.mark.parametrize("pieces", [PIECES, PIECES[:1], [b""]], ids=len)
def test_what_was_sealed_opens(pieces: list[bytes]) -> None:
    boxes = sealed(pieces)
    assert opened(boxes) == pieces
    assert [len(box) for box in boxes[1:]] == [len(piece) + TAG_BYTES for piece in pieces[1:]]
    assert len(boxes[0]) == SALT_BYTES + len(pieces[0]) + TAG_BYTES
    assert all(piece not in box for piece, box in zip(pieces, boxes, strict=True) if piece)


def _flip(box: bytes) -> bytes:
    return box[:-1] + bytes([box[-1] ^ 1])


SPOILED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a bit flipped": lambda b: [b[0], _flip(b[1]), b[2]],
    "its salt flipped": lambda b: [bytes([b[0][0] ^ 1]) + b[0][1:], *b[1:]],
    "cut off after a piece": lambda b: b[:2],
    "cut off within a piece": lambda b: [*b[:2], b[2][:-1]],
    "cut off within the salt": lambda b: [b[0][:10]],
    "empty": lambda b: [b""],
    "pieces exchanged": lambda b: [b[0][:SALT_BYTES] + b[1], b[0][SALT_BYTES:], b[2]],
    "a piece left out": lambda b: [b[0], b[2]],
    "a piece twice": lambda b: [b[0], b[1], b[1], b[2]],
    "a piece of the same file sealed again": lambda b: [b[0], sealed(PIECES)[1], b[2]],
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_what_was_altered_does_not_open(spoil: Callable[[list[bytes]], list[bytes]]) -> None:
    with pytest.raises(CheckpointError, match="does not open"):
        opened(spoil(sealed(PIECES)))


@pytest.mark.parametrize(
    "other",
    [{"silo": 4}, {"round_number": 8}, {"key": Secret(bytes(32))}, {"bound_to": b"another run"}],
    ids=["silo", "round", "key", "run"],
)
def test_another_silos_or_rounds_copy_does_not_open(other: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match="silo"):
        opened(sealed(PIECES), **other)


def test_no_nonce_is_used_twice() -> None:
    boxes = [sealed(PIECES) for _ in range(3)]
    assert len({box for file in boxes for box in file}) == 9
    sealer = Sealer(KEY, 0, 0, b"")
    sealer.seal(b"all", last=True)
    with pytest.raises(ValueError, match="last piece"):
        sealer.seal(b"more", last=True)


def test_lengths() -> None:
    size = chunked_aead.CHUNK_BYTES
    assert [piece_count(n) for n in (0, 1, size, size + 1, 2 * size)] == [1, 1, 1, 2, 2]
    assert sealed_bytes(size + 1) == size + 1 + SALT_BYTES + 2 * TAG_BYTES


def test_a_missing_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "own.key"
    with ThreadPool(8) as pool:
        keys = pool.map(lambda _: load_or_make(path, 32), range(8))
    assert all(key == keys[0] for key in keys)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["own.key"]
    assert keys[0] != load_or_make(tmp_path / "other.key", 32)


def test_a_key_that_is_open_to_others_torn_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.key"
    load_or_make(path, 32)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"mode 0640.*chmod 600"):
        load_or_make(path, 32)
    path.chmod(0o600)
    path.write_text("00" * 31)
    with pytest.raises(ConfigError, match="32 bytes") as refused:
        load_or_make(path, 32)
    assert "00" * 31 not in str(refused.value)
    with pytest.raises(StorageError, match="cannot be made"):
        load_or_make(path / "below" / "a.key", 32)
    assert os.listdir(tmp_path) == ["own.key"]
