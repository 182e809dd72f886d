"""The warm process: `python server.py FOLDER` loads everything once, and forks whenever a stub asks.

Before it forks it has one thread, and neither MPI nor a library of MPI. A fork leaves `serve` with the stub's
request, becomes what the stub is, and runs the program as Python does, down to the end of the interpreter.
Between the two is a shepherd, the fork's parent, which passes on what befalls either.
"""

from __future__ import annotations

import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

Request = dict[str, Any]

READ_ONCE = ("PYTHON", "NUMBA_", "TORCH_", "PYTORCH_", "OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_")
"""How variables begin that libraries or Python read when they are loaded."""
ENDING = 1000
"""Descriptors below are the stub's, once a fork has become it."""
STARTED_WITH = dict(os.environ)


def load() -> None:
    """Import all modules of ours, and what they and tests import late."""
    import sklearn.datasets  # noqa: F401
    import torch

    from silofl.crypto.identity import Identity
    from silofl.preload import preload

    preload()
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)  # the first one loads torch's compiler
    Identity.generate()


def serve(folder: Path) -> Request:
    """Fork for every stub; returns in the forks. Ends when standard input does."""
    assert "mpi4py.MPI" not in sys.modules
    assert len(os.listdir("/proc/self/task")) == 1, "a fork has the thread that forks, and no other"
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(128)
    children, told = os.pipe()
    os.set_blocking(told, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(told)
    os.write(1, b"warm\n")
    while True:
        ready, _, _ = select.select([0, children, listener], [], [])
        if children in ready:
            os.read(children, 512)
            reap()
        if 0 in ready:
            os._exit(0)
        if listener in ready:
            stub, _ = listener.accept()
            if not os.fork():
                return fork(stub, folder / "forks")
            stub.close()


def reap() -> None:
    """Take leave of shepherds that have ended."""
    while True:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return


def fork(stub: socket.socket, forks: Path) -> Request:
    """Become the shepherd of a stub, and return in its fork."""
    length, descriptors, _, _ = socket.recv_fds(stub, 8, 253)
    content = b""
    while len(content) < int.from_bytes(length, "big"):
        content += stub.recv(1 << 20)
    request: Request = json.loads(content)
    changes, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request["received"] = descriptors
        return request
    kept = {stub.fileno(), changes, told}
    for descriptor in set(map(int, os.listdir("/proc/self/fd"))) - kept:
        with suppress(OSError):  # that of the listing
            os.close(descriptor)
    with suppress(OSError):  # it may have done so itself
        os.setpgid(child, child)
    note = forks / str(request["pid"])
    note.write_text(str(child))
    try:
        shepherd(stub, changes, child)
    finally:
        note.unlink(missing_ok=True)
        os._exit(0)


def shepherd(stub: socket.socket, changes: int, child: int) -> None:
    """Pass signals to the fork and its end to the stub; kill it when the stub is gone."""
    while True:
        ready, _, _ = select.select([stub, changes], [], [])
        if changes in ready:
            os.read(changes, 512)
        found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if found and os.WIFSTOPPED(status):
            stub.sendall(b"s" + bytes([signal.SIGSTOP]))
        elif found:
            code = os.waitstatus_to_exitcode(status)
            stub.sendall(b"x" + bytes([code]) if code >= 0 else b"k" + bytes([-code]))
            return
        if stub not in ready:
            continue
        try:
            numbers = stub.recv(512)
        except OSError:
            numbers = b""
        if not numbers:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        for number in numbers:
            if not number:
                return  # the launcher is gone: the fork loses its parent
            os.killpg(child, number)


def become(request: Request) -> None:
    """Take on what the stub has."""
    high = range(ENDING, ENDING + len(request["received"]))
    for descriptor, place in zip(request["received"], high, strict=True):
        os.dup2(descriptor, place, inheritable=False)
    os.closerange(0, ENDING)
    for place, own in zip(high, request["descriptors"], strict=True):
        os.dup2(place, own)
        os.close(place)
    set_by_libraries = {name: value for name, value in os.environ.items() if name not in STARTED_WITH}
    refused = read_already(request["environ"], set_by_libraries)
    os.environ.clear()
    os.environ.update({"SILOFL_ZYGOTE": "0", **set_by_libraries, **request["environ"]})  # all is loaded here
    os.chdir(request["folder"])
    os.sched_setaffinity(0, request["processors"])
    signal.pthread_sigmask(signal.SIG_SETMASK, request["mask"])
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        setattr(sys, name, stream(number, getattr(sys, name)))
        setattr(sys, f"__{name}__", getattr(sys, name))
    if refused:
        raise RuntimeError(f"{', '.join(refused)} cannot be set for a warm Python: start this one cold")
    sys.orig_argv = request["arguments"]
    sys.executable = request["arguments"][0]

    import numpy as np

    from silofl.launcher import process_tree

    np.random.seed()  # every Python has another one
    process_tree.started_by(request["launcher"])  # this process has the shepherd for a parent
    process_tree.end_with = lambda parent: None  # the shepherd sees to it


def read_already(environ: dict[str, str], set_by_libraries: dict[str, str]) -> list[str]:
    """Variables that are other than when a library read them; threads are what OMP_NUM_THREADS says."""
    from silofl.launcher.environment import THREAD_VARIABLES

    asked = {**dict.fromkeys(THREAD_VARIABLES, environ.get("OMP_NUM_THREADS")), **environ}
    names = {name for name in {*STARTED_WITH, *asked} if name.startswith(READ_ONCE)} | {*THREAD_VARIABLES}
    return sorted(
        name for name in names if asked.get(name) not in {STARTED_WITH.get(name), set_by_libraries.get(name)}
    )


def stream(number: int, own: Any) -> Any:
    """A standard stream as Python makes it, given that of the server."""
    raw = io.FileIO(number, "w" if number else "r", closefd=False)
    at_once = own.write_through
    buffer: Any = io.BufferedWriter(raw) if number and not at_once else raw
    return io.TextIOWrapper(
        buffer if number else io.BufferedReader(raw),
        own.encoding,
        own.errors,
        line_buffering=not at_once and (number == 2 or raw.isatty()),
        write_through=at_once,
    )


def run(arguments: list[str]) -> None:
    """Run a program as `python ARGUMENTS` does: `-m module`, `-P -m module`, `-c code` or a file."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    safe_path = arguments[0] == "-P"
    kind, *more = arguments[safe_path:]
    if kind == "-m":
        if safe_path:
            del sys.path[0]
        else:
            sys.path[0] = os.getcwd()
        sys.argv = more
        sys.modules.pop(f"{more[0]}.__main__", None)  # Python would run it, not import it
        runpy._run_module_as_main(more[0])  # type: ignore[attr-defined]
    elif kind == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *more[1:]]
        exec(compile(more[0], "<string>", "exec"), main.__dict__)
    else:
        sys.path[0] = os.path.dirname(os.path.realpath(kind))
        sys.argv = arguments
        main.__file__ = kind
        exec(compile(Path(kind).read_bytes(), kind, "exec"), main.__dict__)


if __name__ == "__main__":
    load()
    work = serve(Path(sys.argv[1]))
    become(work)
    from silofl.launcher.zygote.ending import run_to_end

    run_to_end(lambda: run(work["arguments"][1:]))
