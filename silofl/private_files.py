"""Files that are opened without following a link; a silo's own may be read by their owner alone."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import IO

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
PRIVATE_FILE, PRIVATE_FOLDER, AS_THE_UMASK_SAYS = 0o600, 0o700, 0o666


def create(path: Path, *, private: bool = True) -> IO[bytes]:
    """A new file, to be written and read; whatever had its name before is removed, a link itself too."""
    path.unlink(missing_ok=True)
    return os.fdopen(_open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, private=private), "w+b")


def append(path: Path, *, private: bool = True) -> IO[bytes]:
    """A file whose end is written, made when missing. OSError where it is a link."""
    return os.fdopen(_open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, private=private), "a+b")


def read(path: Path) -> BufferedReader:
    """A file that is there. OSError where it is a link, or a pipe, which would be waited for."""
    file = os.fdopen(_open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return file


def read_bytes(path: Path) -> bytes:
    """All of a file. OSError where it is a link."""
    with read(path) as file:
        return file.read()


def make_folder(path: Path) -> None:
    """A folder that its owner alone may enter, below one that exists; one that is there stays as it is.

    OSError where it is a link.
    """
    path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    if path.is_symlink():
        raise _link(path)


def is_readable_by_others(file: IO[bytes]) -> int:
    """The permissions of an open file where others than its owner have any, or 0."""
    mode = os.fstat(file.fileno()).st_mode
    return mode & 0o777 if os.name == "posix" and mode & 0o077 else 0


def _open(path: Path, flags: int, *, private: bool = True) -> int:
    try:
        return os.open(path, flags | _FLAGS, PRIVATE_FILE if private else AS_THE_UMASK_SAYS)
    except OSError as error:
        raise (_link(path) if error.errno == errno.ELOOP else error) from None


def _link(path: Path) -> OSError:
    return OSError(errno.ELOOP, "it is a symbolic link, and none is followed here", str(path))
