"""Files that hold a secret: readable by their owner alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from silofl.config import silo_path
from silofl.crypto.secret import Secret
from silofl.errors import ConfigError, StorageError

SILO_KEY_BYTES = 32


def refuse_open_permissions(path: Path) -> None:
    """Raise ConfigError where a private key cannot be read, or may be by others than its owner."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"the private key {path} cannot be read: {error.strerror}") from None
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"{path} may be read by others (mode {mode & 0o777:04o}); run `chmod 600 {path}`")


def load_or_make(path: Path, length: int) -> Secret:
    """The secret of `length` bytes that a file holds in hexadecimal; a missing file is made, mode 0600.

    Of several processes that make it at once one wins, and all get the same. Raises ConfigError for a file
    that others may read or that holds something else, StorageError where it cannot be made.
    """
    if not path.exists():
        _make(path, secrets.token_hex(length))
    refuse_open_permissions(path)
    try:
        value = bytes.fromhex(path.read_text())
    except (OSError, ValueError):
        value = b""
    if len(value) != length:
        raise ConfigError(f"{path} does not hold a key of {length} bytes; name another file or remove it")
    return Secret(value)


def _make(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(content + "\n")
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
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = silo_path(key_file or f"{state}/silofl/checkpoint-silo-{{silo}}.key", silo)
    return load_or_make(path, SILO_KEY_BYTES)
