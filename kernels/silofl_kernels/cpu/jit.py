"""The one door to numba: typed, without the GIL, compiled once and kept on disk.

numba's own cache keeps an index beside its data and stamps only the file a function is written in. Two
processes that start together with different signatures, or two kinds of node on one file system, can then
read each other's code, and a change in an imported file goes unseen. Here an entry is one file, named by a
digest of all sources of this package, the versions, the processor and the signature; it is written under a
temporary name and renamed. Two processes that race write the same bytes; a torn file is a miss.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import pickle
import platform
import re
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite
import numba
from numba import types
from numba.core import caching, serialize

from silofl_kernels.cpu import features

Kernel = Callable[..., Any]

_FunctionCache: Any = caching.FunctionCache  # numba's internals have no types
_dumps: Any = serialize.dumps
_njit: Any = numba.njit
_numba_config: Any = numba.config

_LOCK_SECONDS = 60.0  # after that a waiting process compiles for itself: slower, never wrong
_compiling = threading.RLock()


def array(dtype: str, ndim: int = 1, *, readonly: bool = False) -> types.Array:
    """numba's type of a C-contiguous array; a `readonly` parameter takes writable arrays too."""
    return types.Array(getattr(types, dtype), ndim, "C", readonly=readonly)


def device(function: Kernel, label: str) -> Kernel:
    """A helper that kernels call, compiled into each of them.

    `label` tells variants made by one factory apart; it becomes part of the symbol, so that two variants
    loaded from the cache never share one.
    """
    compiled: Any = _named(function, label, no_cpython_wrapper=True)
    if not features.without_jit():
        template = compiled.get_call_template
        # A helper called with `0` is compiled for any integer: numba would do it for the literal, too, and a
        # counter is a literal until its loop is seen.
        compiled.get_call_template = lambda given, named: template([*map(types.unliteral, given)], named)
    helper: Kernel = compiled
    return helper


def kernel(function: Kernel, label: str, *parameters: types.Type) -> Kernel:
    """`function` compiled for exactly `parameters`, from the cache where it is there already."""
    dispatcher = _named(function, label)
    compiled: Kernel = dispatcher
    if features.without_jit():
        return compiled
    with _compiling:
        cache = _cache_of(dispatcher, label)
        if cache is not None:
            dispatcher._cache = cache
        waiting = contextlib.nullcontext() if cache is None else cache.first_compiler(parameters, dispatcher)
        with waiting:
            dispatcher.compile(tuple(parameters))
        dispatcher.disable_compile()
    return compiled


def _named(function: Kernel, label: str, **options: bool) -> Any:
    name = re.sub(r"\W", "_", f"{function.__name__}_{label}")
    named = FunctionType(function.__code__, function.__globals__, name, None, function.__closure__)
    named.__module__, named.__qualname__ = function.__module__, name
    return _njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, **options)(named)


@functools.cache
def source_digest() -> str:
    """Digest of every source file of this package and of the versions that turn it into code."""
    digest = hashlib.sha256()
    for part in (numba.__version__, llvmlite.__version__, platform.python_version(), platform.machine()):
        digest.update(part.encode() + b"\0")
    root = Path(__file__).parents[1]
    archive = [path for path in root.parents if path.is_file()]  # a zip that is imported from
    for file in archive or sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(file.parent if archive else root)).encode() + b"\0")
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _cache_of(dispatcher: Any, label: str) -> _KernelCache | None:
    with contextlib.suppress(RuntimeError, OSError):  # numba finds nowhere to write
        return _KernelCache(dispatcher.py_func, label)
    before = _numba_config.CACHE_DIR
    try:
        _numba_config.CACHE_DIR = str(_own_folder())
        return _KernelCache(dispatcher.py_func, label)
    except (RuntimeError, OSError):  # compile in this process only
        return None
    finally:
        _numba_config.CACHE_DIR = before


def _own_folder() -> Path:
    """This user's folder for kernels among temporary files, where neither sources nor home can be written.

    Compilation would else take every process minutes, and a respawned silo longer than the others wait. What
    is read from it is run: OSError unless it is a folder that this user alone may enter.
    """
    folder = Path(tempfile.gettempdir()) / f"silofl-kernels-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise PermissionError(errno.EACCES, "others may write there", str(folder))
    return folder


class _KernelCache(_FunctionCache):  # type: ignore[misc]
    """numba's function cache with one self-checking file per entry and no index."""

    def __init__(self, function: Kernel, label: str) -> None:
        super().__init__(function)
        self._label = f"{function.__name__}-{label}"
        self._cache_file = _EntryFile(Path(self.cache_path))

    def _index_key(self, sig: Any, codegen: Any) -> str:
        text = "\0".join([source_digest(), self._label, str(sig), *map(str, codegen.magic_tuple())])
        return f"{self._py_func.__name__[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled; a disk that refuses costs a compilation next time, nothing else."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)

    @contextlib.contextmanager
    def first_compiler(self, parameters: tuple[types.Type, ...], dispatcher: Any) -> Iterator[None]:
        """Let one process compile while those which started with it wait for its file."""
        codegen = dispatcher.targetctx.codegen()
        entry = self._cache_file.path(self._index_key(parameters, codegen))
        lock = None if entry.exists() else _lock(entry.with_suffix(".lock"))
        try:
            yield
        finally:
            if lock is not None:
                os.close(lock)


class _EntryFile:
    """`save` and `load` of one entry: SHA-256 of the payload, then the payload."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, key: str) -> Path:
        return self._folder / f"{key}.nbk"

    def save(self, key: str, data: Any) -> None:
        payload = _dumps(data)
        temporary = self._folder / f"{key}.{uuid.uuid4().hex[:12]}.tmp"
        try:
            temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
            temporary.replace(self.path(key))
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, key: str) -> Any:
        try:
            content = self.path(key).read_bytes()
        except OSError:
            return None
        payload = content[32:]
        if hashlib.sha256(payload).digest() != content[:32]:
            return None
        return pickle.loads(payload)


def _lock(file: Path) -> int | None:
    """Descriptor that holds an advisory lock on `file`; None where that cannot be had (and needs not be)."""
    try:
        import fcntl

        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (ImportError, OSError):
        return None
    patience = time.monotonic() + _LOCK_SECONDS
    while time.monotonic() < patience:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:
            break
        else:
            return descriptor
    os.close(descriptor)
    return None
