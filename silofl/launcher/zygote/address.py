"""What a process and the zygote that forks for it must have in common, for no fork can change it."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from silofl.launcher.environment import THREAD_VARIABLES

READ_ONCE = (
    *("PYTHON", "LD_", "GLIBC_", "MALLOC_", "LANG", "LC_", "SILOFL_KERNEL_"),
    *("NUMBA_", "TORCH_", "PYTORCH_", "ATEN_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NPY_"),
    *("SCIPY_", "SKLEARN_", "OPENSSL_", "SSL_", "CRYPTOGRAPHY_", "PROTOCOL_BUFFERS_", "ARROW_"),
    *("ONEDNN_", "DNNL_", "TBB_"),
)
"""How the names of variables begin that Python or libraries read when they are loaded."""
FOLDERS = ("HOME", "XDG_CACHE_HOME")
"""Variables that libraries look for their files by."""
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
CONFINED = ("Cap", "NoNewPrivs", "Seccomp", "Mems_allowed_list")
"""How lines of proc(5)'s `status` begin that say what a process may do."""
PACKAGES = ("silofl", "silofl_kernels")
HOME = str(Path(__file__).parents[3])
"""The folder of this package. Where it is the current one, too, it is not always searched for modules."""
_LIMITS = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
_CREDENTIALS = struct.Struct("3i")


def address_for(environ: Mapping[str, str] = os.environ) -> str:
    """The name of the zygote's socket: one of Linux's abstract names, as of unix(7), which are no files.

    It says nothing of the values that it was made of.
    """
    common = [
        interpreter_flags(),
        [sys.executable, sys.version, [path for path in search_path() if path != HOME], HOME],
        sorted((name, _value(name, value)) for name, value in environ.items() if read_once(name)),
        [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), sorted(os.getgroups()), os.nice(0)],
        [resource.getrlimit(getattr(resource, name)) for name in _LIMITS],
        [_namespace(name) for name in NAMESPACES],
        _confinement(),
        _installed(),
    ]
    digest = hashlib.sha256(json.dumps(common).encode()).hexdigest()
    return f"\0silofl-zygote-{os.getuid()}-{digest[:32]}"


def is_own(connection: socket.socket) -> bool:
    """Whether it is a process of this user that is at the other end of a connection."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(found)[1] == os.geteuid())


def interpreter_flags() -> list[str]:
    """Python's own options, but for the safe path (-P), which is about the program's folder."""
    return [one for one in subprocess._args_from_interpreter_flags() if one != "-P"]  # type: ignore[attr-defined]


def read_once(name: str) -> bool:
    """Whether a variable is read when Python starts or libraries are loaded; threads are set afterwards."""
    return name in FOLDERS or (name.startswith(READ_ONCE) and name not in THREAD_VARIABLES)


def _value(name: str, value: str) -> str:
    """A variable's value; of folders, each once: launchers put their own before others' again and again."""
    return ":".join(dict.fromkeys(value.split(":"))) if name == "LD_LIBRARY_PATH" else value


def search_path() -> list[str]:
    """Where modules are looked for, but for the folder of the program itself."""
    script = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv and sys.argv[0] else ""
    return [path for path in map(os.path.abspath, filter(None, sys.path)) if path != script]


def _namespace(name: str) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/self/ns/{name}")
    return ""


def _confinement() -> list[object]:
    """What keeps this process in bounds: root folder, capabilities, labels, control groups, policies."""
    status = [line for line in _lines("status") if line.startswith(CONFINED)]
    memory = [line.split()[1:2] for line in _lines("numa_maps")[:1]]
    top = os.stat("/")
    return [
        [top.st_dev, top.st_ino],
        [status, memory, _lines("attr/current"), _lines("cgroup"), _lines("oom_score_adj")],
        [os.sched_getscheduler(0), os.sched_getparam(0).sched_priority],
    ]


def _lines(name: str) -> list[str]:
    """Of a file of proc(5); empty where it cannot be read."""
    with suppress(OSError):
        return Path(f"/proc/self/{name}").read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def _installed() -> list[tuple[str, int, int]]:
    """The code that is installed: what starts after a change gets another zygote."""
    found = []
    for packages in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):  # one, mostly
        found.append((packages, os.stat(packages).st_mtime_ns, 0))
    for name in PACKAGES:
        spec = find_spec(name)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            found += _modules(folder)
    return found


def _modules(folder: str) -> Iterable[tuple[str, int, int]]:
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        if entry.name.endswith(".py"):
            with suppress(OSError):  # an editor's link to nowhere
                status = entry.stat()
                yield entry.path, status.st_mtime_ns, status.st_size
        elif entry.is_dir() and entry.name != "__pycache__":
            yield from _modules(entry.path)
