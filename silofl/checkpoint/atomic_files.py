"""Files that are whole or absent: temporary name, fsync, rename. Those of a silo are its owner's alone."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save_file

from silofl import private_files
from silofl.checkpoint.tree import Arrays, unpack
from silofl.errors import CheckpointError, StorageError


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn a failed write into one sentence that names the file and the reason."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in reason
        hint = "; free some space and run again with --resume" if full else ""
        raise StorageError(f"cannot write {path}: {reason}{hint}") from None


def write_bytes(path: Path, data: bytes, writer: int = 0, *, private: bool = True) -> None:
    """Write a file that appears under its name only when all of it is on disk.

    Of several processes that write the same bytes under one name, each is another `writer`. What is not
    `private` may be read by whomever the umask lets.
    """
    temporary = path.with_name(f".{path.name}.{writer}.tmp")
    with storage(path):
        try:
            with private_files.create(temporary, private=private) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def write_json(path: Path, value: Any, *, private: bool = True) -> None:
    """`write_bytes` of JSON, keys sorted."""
    write_bytes(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n", private=private)


def write_packed(path: Path, skeleton: Any, arrays: Arrays) -> tuple[str, int]:
    """Write a packed state tree as a safetensors file; returns its SHA-256 (hex) and its size in bytes."""
    return write_arrays(path, arrays, {"state": json.dumps(skeleton)})


def write_arrays(
    path: Path, arrays: dict[str, NDArray[Any]], metadata: dict[str, str], *, private: bool = True
) -> tuple[str, int]:
    """Write named arrays as a safetensors file; returns its SHA-256 (hex) and its size in bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    with storage(path):
        try:
            with private_files.create(temporary, private=private) as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
            save_file(arrays, temporary, metadata)  # into this file, or into another in its place
            if len(metadata) > 1:
                _order_metadata(temporary)
            with private_files.read(temporary) as file:
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = os.fstat(file.fileno()).st_size
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    return digest, size


def _order_metadata(path: Path) -> None:
    """Put a safetensors file's metadata into the order of their names: the library writes them in any."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        head = json.loads(file.read(length))
        head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
        text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # spaces behind it are part of the format
            file.seek(8)
            file.write(text.ljust(length))


def file_entry(path: Path) -> tuple[str, int]:
    """SHA-256 (hex) of a file that was written before, and its size in bytes. Raises OSError."""
    with private_files.read(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, os.fstat(file.fileno()).st_size


class PieceWriter:
    """A file written piece by piece, which appears under its name at `finish`. Raises StorageError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        with storage(path):
            self._file = private_files.create(self._temporary)

    def write(self, piece: bytes) -> None:
        """Add a piece."""
        with storage(self._path):
            self._file.write(piece)

    def finish(self) -> None:
        """Make it durable and give it its name; leave nothing behind where that fails."""
        try:
            with storage(self._path):
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._temporary.rename(self._path)
                sync_directory(self._path.parent)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink()


def read_tree(path: Path, digest: str) -> dict[str, Any]:
    """The tree that `write_packed` wrote. Raises CheckpointError where a byte is not as it was."""
    try:
        data = private_files.read_bytes(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in its manifest")
    try:
        length = int.from_bytes(data[:8], "little")
        skeleton = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["state"])
        tree = unpack(skeleton, {name: np.array(value) for name, value in load_arrays(data).items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
        raise CheckpointError(f"{path} holds no state") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} holds no state")
    return tree


def read_skeleton(path: Path, digest: str) -> dict[str, Any]:
    """The tree that `write_packed` wrote, with None for its arrays: only the file's head is kept in memory.

    Raises CheckpointError where a byte is not as it was, FileNotFoundError where there is no such file.
    """
    try:
        with private_files.read(path) as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            head = file.read(int.from_bytes(file.read(8), "little")) if whole == digest else b""
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    if whole != digest:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in its manifest")
    try:
        tree = unpack(json.loads(json.loads(head)["__metadata__"]["state"]), defaultdict(lambda: None))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} holds no state") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} holds no state")
    return tree


def sync_directory(path: Path) -> None:
    """Make the renames in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
