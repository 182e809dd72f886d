"""Files that hold a secret: readable by their owner alone."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from silofl import private_files
from silofl.config import silo_path
from silofl.crypto.core_dumps import forbid_core_dumps
from silofl.crypto.secret import Secret
from silofl.errors import ConfigError, StorageError

SILO_KEY_BYTES = 32


def read_secret(path: Path, what: str) -> bytes:
    """All of a file that is `what`; from here on this process leaves no core dump.

    Raises ConfigError where it cannot be read, is a link, or may be read by others than its owner.
    """
    forbid_core_dumps()
    with _private(path, what) as file:
        return file.read()


def refuse_unreadable(path: Path, what: str) -> None:
    """Raise the ConfigError that `read_secret` would, without reading the secret."""
    with _private(path, what):
        pass


@contextmanager
def _private(path: Path, what: str) -> Iterator[IO[bytes]]:
    try:
        with private_files.read(path) as file:
            mode = private_files.is_readable_by_others(file)
            if mode:
                raise ConfigError(f"{path} may be read by others (mode {mode:04o}); run `chmod 600 {path}`")
            yield file
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}") from None


def load_or_make(path: Path, length: int) -> Secret:
    """The secret of `length` bytes that a file holds in hexadecimal; a missing file is made, mode 0600.

    Of several processes that make it at once one wins, and all get the same. Raises ConfigError for a file
    that others may read or that holds something else, StorageError where it cannot be made.
    """
    if not path.exists():
        _make(path, secrets.token_hex(length))
    content = read_secret(path, "the key file")
    try:
        value = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        value = b""
    if len(value) != length:
        raise ConfigError(f"{path} does not hold a key of {length} bytes; name another file or remove it")
    return Secret(value)


def _make(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with private_files.create(temporary) as file:
                file.write(content.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # unlike a rename, this never takes the place of another's key
        except FileExistsError:
            return
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"the key file {path} cannot be made: {error.strerror}") from None


def silo_key(key_file: str, silo: int) -> Secret:
    """The 32 bytes of `checkpoint.key_file`, made when missing; in the user's state directory when empty.

    That is outside of the run directory: who loses that must not lose the key with it. Raises ConfigError or
    StorageError as `load_or_make` does.
    """
    return load_or_make(silo_key_path(key_file, silo), SILO_KEY_BYTES)


def silo_key_path(key_file: str, silo: int) -> Path:
    """Where `silo_key` lies, whether it is there or not."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return silo_path(key_file or f"{state}/silofl/checkpoint-silo-{{silo}}.key", silo, "checkpoint.key_file")
