"""Calls of a task's own code: what goes wrong there is one sentence with its file and line."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch

import silofl
from silofl import private_files
from silofl.errors import SiloflError, UserCodeError

_OURS = f"{Path(silofl.__file__).parent}{os.sep}"
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_REMEDIES = {
    "data": "lower train.batch_size",
    "loss": "lower train.batch_size",
    "metrics": "lower train.eval_batch_size",
    "evaluate": "lower train.eval_batch_size",
}
"""What helps where memory runs out, by what was called."""
ASYNCHRONOUS: tuple[type[Exception], ...] = (
    (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
)
"""What a GPU did not do, which a later call raises."""
LATE = (
    "a GPU tells of errors late, and a label or an index out of range is the usual cause: set "
    "CUDA_LAUNCH_BLOCKING=1, or train.device = 'cpu', to be told the line"
)


_TYPES = re.compile(
    r"expected scalar type|same dtype|dtypes match|bias type|matrix, got|"
    r"not implemented for '(Half|BFloat16|Double)"
)
"""What torch says where it meets tensors of types that it does not take together, or not at all."""
MIXED = (
    "the model's and the batch's tensors are of train.dtype, and what the code makes itself, or an operation "
    "of the model, is not: make tensors by x.new_zeros() or .to(x.dtype), or set train.dtype = 'float32'"
)


TWICE = (
    "what is kept of a batch for the next, such as a hidden state or a cache, has its gradients: detach() it"
)
"""What helps where torch was to go backward to an earlier step."""


class UserCode:
    """The calls of one silo's task.

    The text of an exception may hold values of the data. So the sentence that all silos see has its type,
    file and line, and the full traceback goes to a file that is the silo's own.

    Args:
        silo: its number.
        folder: where tracebacks are written; None: nowhere.
        alone: whether one person's process is all that there is, so that the sentence may have the text.
    """

    def __init__(self, silo: int, folder: Path | None = None, *, alone: bool = False) -> None:
        self.silo, self.folder, self._alone = silo, folder, alone

    @contextmanager
    def calling(self, what: str, code: Callable[..., Any] | None = None, when: str = "") -> Iterator[None]:
        """Raise UserCodeError for what a block raises; a SiloflError passes.

        Args:
            what: the method of the task that the block calls.
            code: the same, which is named where no line of it ran.
            when: what is unusual about the call, such as `in evaluation`.
        """
        gradients = torch.is_grad_enabled()
        try:
            yield
        except (SiloflError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # of one rank alone, whose peers would wait
            if type(error).__module__.startswith("silofl."):
                raise
            raise self._explained(what, code, when, error) from error
        finally:
            torch.set_grad_enabled(gradients)  # as it was: a task may turn it off for what it does itself

    def _explained(
        self, what: str, code: Callable[..., Any] | None, when: str, error: BaseException
    ) -> UserCodeError:
        lines = (_text(error).strip().splitlines() if self._alone else []) or [""]
        text = f": {lines[0]}" if lines[0] else ""
        parts = [
            f"silo {self.silo}: the task's {what}() raised {type(error).__name__}"
            f"{place_of(error.__traceback__, code)}{f', {when}' if when else ''}{text}"
        ]
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) and what in _REMEDIES:
            parts.append(_REMEDIES[what])
        if isinstance(error, (RuntimeError, NotImplementedError)) and _TYPES.search(_text(error)):
            parts.append(MIXED)
        if isinstance(error, RuntimeError) and "through the graph a second time" in _text(error):
            parts.append(TWICE)
        if isinstance(error, ASYNCHRONOUS):
            parts.append(LATE)
        path = self._write(error)
        if path is not None:
            parts.append(f"the silo's own traceback is in {path}")
        return UserCodeError("; ".join(parts), rank=self.silo)

    def _write(self, error: BaseException) -> Path | None:
        """Write the whole traceback to a file that others may not read; its path, None without one."""
        if self.folder is None:
            return None
        path = self.folder / f"traceback-silo-{self.silo:04d}.txt"
        try:
            with private_files.create(path) as file:
                file.write("".join(traceback.format_exception(error)).encode(errors="backslashreplace"))
        except OSError:
            return None
        return path


def _text(error: BaseException) -> str:
    """What an exception says; nothing where that raises, too."""
    try:
        return str(error)
    except Exception:
        return ""


def own_files(code: object) -> dict[str, str]:
    """SHA-256 (hex) by name of the loaded Python files that `code` was written in: its own, and beside it.

    Nothing where it is installed, or comes with silofl: that has a version.
    """
    own = getattr(sys.modules.get(type(code).__module__), "__file__", None)
    if own is None or _is_installed(own) or own.startswith(_OURS):
        return {}
    folder = f"{Path(own).parent}{os.sep}"
    # By type: cffi's `lib` says that it is a module, and makes all that it has when it is asked for its dict,
    # which in two threads at once ended the process. `vars`: some modules load others when they are asked.
    modules = [one for one in list(sys.modules.values()) if issubclass(type(one), ModuleType)]
    files = {vars(one).get("__file__") for one in modules}
    found = {}
    for file in sorted(one for one in files if isinstance(one, str) and one.startswith(folder)):
        if not _is_installed(file) and file.endswith(".py"):
            with suppress(OSError):
                now = os.stat(file)
                found[file.removeprefix(folder)] = _digest(file, now.st_ino, now.st_mtime_ns, now.st_size)
    return found


@cache
def _digest(file: str, *version: int) -> str:
    """SHA-256 (hex) of one version of a file."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def place_of(trace: TracebackType | None, code: Callable[..., Any] | None = None) -> str:
    """` at task.py:12, in loss`: the innermost line of the user's own files, else where `code` begins.

    The user's own is what lies neither in the standard library, nor among installed packages, nor here; a
    task that is installed itself is known by the outermost frame that is not ours.
    """
    frames = [one for one in traceback.extract_tb(trace) if not one.filename.startswith(_OURS)]
    own = [one for one in frames if not _is_installed(one.filename)]
    if own or frames:
        frame = own[-1] if own else frames[0]
        return f" at {Path(frame.filename).name}:{frame.lineno}, in {frame.name}"
    definition = getattr(code, "__code__", None)
    if definition is None:
        return ""
    return f" as it was called; it begins at {Path(definition.co_filename).name}:{definition.co_firstlineno}"


def _is_installed(filename: str) -> bool:
    return filename.startswith((*_LIBRARIES, "<")) or "site-packages" in filename
