"""Ranks as forks of one process that has loaded everything: what they are, and how each ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from silofl.launcher.zygote import address, stub
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="zygotes are Linux's")

SCRIPT = """#!{python}
import sys
sys.path[:] = [path for path in sys.path if path != {here!r}]
if {root!r} not in sys.path:
    sys.path.insert(0, {root!r})
from silofl.launcher.zygote import stub
stub.START = stub.START.replace(
    "from silofl.launcher.zygote.server import main",
    "from silofl.launcher.zygote import server\\n"
    "server.PRELOAD = server.COMMAND = 'tests.launcher.zygote_program'\\n"
    "server.LINGER_S = {linger_s}\\n"
    "main = server.main",
)
if {forks}:
    stub.take_place()
    print("cold", flush=True)
from tests.launcher import zygote_program
zygote_program.main()
"""


def program(folder: Path, name: str, *, forks: bool = True, linger_s: float = 1.0) -> str:
    path = folder / name
    text = SCRIPT.format(
        python=sys.executable, here=str(folder), root=str(ROOT), forks=forks, linger_s=linger_s
    )
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Variables by which a zygote is this test's own."""
    return {**os.environ, "LC_SILOFL_TEST": str(tmp_path)}


@pytest.fixture
def forked(tmp_path: Path, environ: dict[str, str]) -> Iterator[str]:
    """A program that runs code in a fork of this test's zygote."""
    yield program(tmp_path, "forked")
    assert eventually(lambda: zygotes(tmp_path) == [], 20), "the zygote outlives what it serves"


@pytest.fixture(params=["cold", "forked"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "cold":
        return program(tmp_path, "cold", forks=False)
    return str(request.getfixturevalue("forked"))


def zygotes(folder: Path) -> list[int]:
    """Processes whose environment is that of this test's zygote."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                line = (process / "cmdline").read_bytes()
                own = f"LC_SILOFL_TEST={folder}".encode() in (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if own and b"zygote import server" in line:
                found.append(int(process.name))
    return found


def eventually(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return False


def begin(line: list[str], environ: dict[str, str], **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        line,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def outcome(line: list[str], environ: dict[str, str], **options: object) -> tuple[int, str, str]:
    process = begin(line, environ, **options)
    out, err = process.communicate("given", timeout=60)
    return process.returncode, out, err


SEEN = """
import json, os, random, resource, signal, sys, tempfile, time
print(json.dumps({
    "arguments": sys.argv, "path": sys.path, "folder": os.getcwd(), "executable": sys.executable,
    "environ": dict(os.environ), "umask": os.umask(0), "processors": sorted(os.sched_getaffinity(0)),
    "stdin": sys.stdin.read(), "temporary": tempfile.gettempdir(), "zone": time.tzname,
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "handled": [str(signal.getsignal(one)) for one in sorted(signal.valid_signals())],
    "descriptors": sorted(one for one in map(int, os.listdir("/proc/self/fd")) if one < 1000),
    "limits": [resource.getrlimit(one) for one in range(7)],
    "streams": [
        (one.encoding, one.errors, one.line_buffering, one.write_through, type(one.buffer).__name__)
        for one in (sys.stdin, sys.stdout, sys.stderr)
    ],
}), flush=True)
print("to", "stderr", file=sys.stderr)
"""


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_fork_is_what_the_process_was(
    forked: str, tmp_path: Path, environ: dict[str, str], unbuffered: bool
) -> None:
    cold = program(tmp_path, "cold", forks=False)
    environ |= {"TZ": "Asia/Tokyo", "TMPDIR": str(tmp_path), "NAME": "odd \udcff"}
    environ |= {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
    read, write = os.pipe()

    def before() -> None:
        os.umask(0o27)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})

    seen = []
    for one in (cold, forked):
        line = [one, "-c", SEEN, "a", "b c"]
        code, out, err = outcome(line, environ, cwd=tmp_path, preexec_fn=before, pass_fds=[read])
        assert (code, err) == (0, "to stderr\n")
        seen.append(json.loads(out))
    for end in (read, write):
        os.close(end)
    expected, found = seen
    libraries = {name for name in found["environ"] if name not in expected["environ"]}
    assert all(name.startswith("KMP_") for name in libraries), libraries
    found["environ"] = {name: found["environ"][name] for name in expected["environ"]}
    assert {key: (found[key], expected[key]) for key in found if found[key] != expected[key]} == {}
    assert read in found["descriptors"]


ENDS = {
    "returns": "pass",
    "exits": "import sys; sys.exit(7)",
    "exits with words": "import sys; sys.exit('so it is')",
    "raises": "[].pop()",
    "kills itself": "import os; os.kill(os.getpid(), 9)",
    "crashes": "import os; os.abort()",
    "is terminated": "import os; os.kill(os.getpid(), 15)",
    "leaves by atexit": "import atexit; atexit.register(print, 'bye')",
    "waits for its threads": "import threading; threading.Timer(0.1, lambda: print('done')).start()",
}


@pytest.mark.parametrize("ulfm", [True, False])
@pytest.mark.parametrize("how", ENDS)
def test_it_ends_as_the_rank_does(
    forked: str, tmp_path: Path, environ: dict[str, str], how: str, ulfm: bool
) -> None:
    cold = program(tmp_path, "cold", forks=False)
    environ |= {"ulfm": ""} if ulfm else {}
    ways = [
        outcome(
            [one, "-w", "-c", "from silofl.launcher import watchdog; watchdog.mpi_ready()\n" + ENDS[how]],
            environ,
        )
        for one in (cold, forked)
    ]
    assert ways[0][:2] == ways[1][:2]
    assert ways[0][2].splitlines()[-1:] == ways[1][2].splitlines()[-1:]


READY = "from silofl.launcher import watchdog; watchdog.mpi_ready()\n"
HEARS = """
import os, select, signal
heard, told = os.pipe()  # a signal that comes before anybody waits for it is not lost
os.set_blocking(told, False)
signal.set_wakeup_fd(told)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda *_: None)
print("up", flush=True)
while select.select([heard], [], [], 20)[0]:
    print(signal.Signals(os.read(heard, 1)[0]).name, flush=True)
"""
SLEEPS = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def gone(pid: int) -> bool:
    def ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    return eventually(ended, 20)


def test_signals_reach_the_rank(either: str, environ: dict[str, str]) -> None:
    process = begin([either, "-w", "-c", HEARS], environ)
    assert first_line(process) == "up\n"
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        send = os.killpg if number == signal.SIGINT else os.kill  # as a terminal and launchers do
        send(process.pid, number)
        assert first_line(process) == f"{number.name}\n"
    process.kill()
    process.communicate(timeout=30)


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGSTOP])
def test_a_stop_stops_the_rank_and_it_goes_on(either: str, environ: dict[str, str], number: int) -> None:
    process = begin([either, "-w", "-c", SLEEPS], environ)
    rank = int(first_line(process))
    os.killpg(process.pid, number)  # as launchers do, which turn the one into the other
    assert eventually(lambda: state(rank) == "T", 20)
    assert os.waitpid(process.pid, os.WUNTRACED)[0] == process.pid, "its launcher does not see it stopped"
    os.killpg(process.pid, signal.SIGCONT)
    assert eventually(lambda: state(rank) != "T", 20)
    process.kill()
    process.communicate(timeout=30)
    assert gone(rank)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


STARTS_OTHERS = """
import os, subprocess, time
nothing = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
other = subprocess.Popen(["sleep", "60"], **nothing)
print(other.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_rank_has_started_ends_with_a_job_that_is_ended(
    either: str, environ: dict[str, str], number: int
) -> None:
    process = begin([either, "-w", "-c", STARTS_OTHERS], environ)
    other = int(first_line(process))
    os.killpg(process.pid, number)
    process.communicate(timeout=30)
    assert gone(other)


def test_the_rank_dies_with_the_process_that_stands_for_it(either: str, environ: dict[str, str]) -> None:
    process = begin([either, "-w", "-c", SLEEPS], environ)
    rank = int(first_line(process))
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert gone(rank)


def test_it_dies_with_a_rank_that_is_killed(either: str, environ: dict[str, str]) -> None:
    process = begin([either, "-w", "-c", READY + SLEEPS], environ | {"ulfm": ""})
    os.kill(int(first_line(process)), signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


def test_a_rank_notices_that_its_launcher_is_gone(either: str, environ: dict[str, str]) -> None:
    launched = begin(["sh", "-c", '"$@" & wait', "sh", either, "-w", "-c", SLEEPS], environ)
    rank = int(first_line(launched))
    launched.kill()
    assert gone(rank)
    _, err = launched.communicate(timeout=30)
    assert "rank 0 lost its launcher before its first round: killed" in err


def test_a_killed_zygote_takes_no_rank_with_it_and_another_starts(
    forked: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    process = begin([forked, "-w", "-c", "print('up', flush=True); print(input())"], environ)
    assert first_line(process) == "up\n"
    [zygote] = [one for one in zygotes(tmp_path) if parent(one) == process.pid]
    os.kill(zygote, signal.SIGKILL)
    assert outcome([forked, "-c", "print(1)"], environ)[:2] == (0, "1\n")
    out, _ = process.communicate("given", timeout=30)
    assert (process.returncode, out) == (0, "given\n")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_many_that_start_at_once_share_one_zygote(forked: str, environ: dict[str, str]) -> None:
    code = "import os; print(os.getppid()); input()"
    running = [begin([forked, "-c", code], environ) for _ in range(8)]
    assert len({first_line(one) for one in running}) == 1
    for one in running:
        one.communicate("given", timeout=30)
    assert {one.returncode for one in running} == {0}


def test_no_two_forks_have_the_same_random_numbers(forked: str, environ: dict[str, str]) -> None:
    code = """
import multiprocessing.process, random, secrets, uuid, os
import numpy as np
key = multiprocessing.process.current_process().authkey.hex()
print(key, random.random(), np.random.rand(), secrets.token_hex(8), uuid.uuid4())
"""
    keeps = begin([forked, "-c", "print('up', flush=True); input()"], environ)  # the zygote stays
    assert first_line(keeps) == "up\n"
    texts = [outcome([forked, "-c", code], environ)[1].split() for _ in range(3)]
    assert all(len(set(column)) == 3 for column in zip(*texts, strict=True))
    keeps.communicate("given", timeout=30)


def test_nothing_of_a_rank_is_in_the_zygote(forked: str, tmp_path: Path, environ: dict[str, str]) -> None:
    words = [f"{kind}-{os.urandom(12).hex()}" for kind in ("secret", "argument")]
    line = [forked, "-c", "print('up', flush=True); input()", words[1]]
    process = begin(line, environ | {"PASSWORD": words[0]})
    assert first_line(process) == "up\n"
    [zygote] = [one for one in zygotes(tmp_path) if parent(one) == process.pid]
    [rank] = [one for one in zygotes(tmp_path) if parent(one) == zygote]
    assert [word.encode() in memory(rank) for word in words] == [True, True]
    assert [word.encode() in memory(zygote) for word in words] == [False, False]
    process.communicate("given", timeout=30)


def memory(pid: int) -> bytes:
    """What a process has in its own memory, and has been started with."""
    found = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline")]
    with Path(f"/proc/{pid}/mem").open("rb") as pages:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area, rights, *_ = line.split()
            if rights.startswith("rw"):
                start, end = (int(one, 16) for one in area.split("-"))
                pages.seek(start)
                try:
                    found.append(pages.read(end - start))
                except OSError:
                    continue
    return b"".join(found)


@pytest.mark.parametrize("tried", ["dies", "has threads", "has MPI"])
def test_where_there_can_be_no_zygote_the_rank_loads_everything(
    tmp_path: Path, environ: dict[str, str], tried: str
) -> None:
    environ |= {"LC_SILOFL_TEST_ZYGOTE": tried}
    assert outcome([program(tmp_path, "forked"), "-c", "print(1)"], environ)[:2] == (0, "cold\n1\n")


def test_it_can_be_switched_off(tmp_path: Path, environ: dict[str, str]) -> None:
    environ |= {stub.VARIABLE: "0"}
    assert outcome([program(tmp_path, "forked"), "-c", "print(1)"], environ)[:2] == (0, "cold\n1\n")
    assert zygotes(tmp_path) == []


@pytest.mark.parametrize("count", [30, 240])
def test_many_descriptors_are_passed_on(forked: str, environ: dict[str, str], count: int) -> None:
    many = [os.dup(0) for _ in range(count)]
    line = [forked, "-w", "-c", "import os, time; time.sleep(0.3); print(len(os.listdir('/proc/self/fd')))"]
    code, out, _ = outcome(line, environ, pass_fds=many)
    for one in many:
        os.close(one)
    assert (code, out) == (0, f"{count + 4}\n")


def test_a_process_with_too_many_descriptors_goes_on_by_itself(forked: str, environ: dict[str, str]) -> None:
    many = [os.dup(0) for _ in range(300)]
    code, out, _ = outcome(
        [forked, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"], environ, pass_fds=many
    )
    for one in many:
        os.close(one)
    assert (code, out) == (0, "cold\n304\n")


@pytest.mark.parametrize(
    "more", [{"OMP_PROC_BIND": "true"}, {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}]
)
def test_threads_that_no_fork_could_have_are_no_fork_s(
    tmp_path: Path, environ: dict[str, str], more: dict[str, str]
) -> None:
    line = [program(tmp_path, "forked"), "-c", "print(1)"]
    assert outcome(line, environ | more)[:2] == (0, "cold\n1\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_s_full_queue_holds_nobody_up(tmp_path: Path, environ: dict[str, str]) -> None:
    line = [sys.executable, "-c", FULL, address.address_for(environ)[1:]]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "full\n"
        began = time.monotonic()
        with pytest.raises(OSError, match=r"temporarily unavailable|no zygote"):
            stub.connect(environ)
        assert time.monotonic() - began < stub.LOADING_TIMEOUT_S / 2
        other.communicate("", timeout=30)


FULL = """
import os, socket, sys
os.setuid(65534)
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0" + sys.argv[1])
listener.listen(0)
waiting = []
try:
    while True:
        waiting.append(socket.socket(socket.AF_UNIX))
        waiting[-1].setblocking(False)
        waiting[-1].connect("\\0" + sys.argv[1])
except BlockingIOError:
    print("full", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_nobody_else_is_served_and_nobody_else_serves(tmp_path: Path, environ: dict[str, str]) -> None:
    line = [sys.executable, "-c", OTHER, address.address_for(environ)[1:]]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "listening\n"
        with pytest.raises(ConnectionError):
            stub.connect(environ)
        other.communicate("", timeout=30)
    before, kept = names(), program(tmp_path, "forked")
    process = begin([kept, "-c", "print('up', flush=True); input()"], environ)
    assert first_line(process) == "up\n"
    [name] = names() - before
    done = subprocess.run(
        [sys.executable, "-c", ASKS, name], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "b''\n"
    process.communicate("given", timeout=30)


def names() -> set[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()
    return {line.split()[-1] for line in lines if "silofl-zygote" in line}


ASKS = """
import os, socket, sys
os.setuid(65534)
asking = socket.socket(socket.AF_UNIX)
asking.connect("\\0" + sys.argv[1][1:])
try:
    asking.sendall(b"f")
    print(asking.recv(1))
except (BrokenPipeError, ConnectionResetError):
    print(b"")
"""
OTHER = """
import os, socket, sys
os.setuid(65534)
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0" + sys.argv[1])
listener.listen()
print("listening", flush=True)
sys.stdin.read()
"""


class TestAddress:
    def test_it_is_the_same_again(self) -> None:
        assert address.address_for(os.environ) == address.address_for(dict(os.environ))

    @pytest.mark.parametrize(
        "name", ["LD_PRELOAD", "PYTHONPATH", "NUMBA_CACHE_DIR", "MKL_CBWR", "SILOFL_KERNEL_PATH"]
    )
    def test_variables_that_are_read_once_count(self, name: str) -> None:
        assert address.address_for({name: "a"}) != address.address_for({name: "b"}) != address.address_for({})

    @pytest.mark.parametrize("name", ["OPENSSL_CONF", "HOME"])
    def test_so_do_those_by_which_files_are_found(self, name: str) -> None:
        assert address.address_for({name: "a"}) != address.address_for({name: "b"})

    @pytest.mark.parametrize(
        "bound",
        [
            "ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)",  # PR_SET_NO_NEW_PRIVS
            "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
            "os.nice(3)",
            "stat = os.stat; os.stat = lambda path, **more: stat('/proc' if path == '/' else path, **more)",
        ],
    )
    def test_what_confines_a_process_counts(self, bound: str) -> None:
        code = "import ctypes, os\nfrom silofl.launcher.zygote.address import address_for\n"
        code += (
            f"before = address_for({{}})\n{bound}\nprint(before != address_for({{}}) == address_for({{}}))"
        )
        line = [sys.executable, "-c", code]
        done = subprocess.run(line, capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout == "True\n"

    @pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "PMIX_RANK", "CUDA_VISIBLE_DEVICES", "PASSWORD"])
    def test_others_do_not(self, name: str) -> None:
        assert address.address_for({name: "a"}) == address.address_for({})

    def test_a_folder_of_libraries_counts_once(self) -> None:
        one, more = ({"LD_LIBRARY_PATH": text} for text in ("/a:/b", "/a:/a:/b:/a"))
        assert address.address_for(one) == address.address_for(more)
        assert address.address_for(one) != address.address_for({"LD_LIBRARY_PATH": "/b:/a"})

    def test_limits_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = address.address_for({})
        real = resource.getrlimit
        monkeypatch.setattr(
            resource, "getrlimit", lambda kind: (7, 7) if kind == resource.RLIMIT_CORE else real(kind)
        )
        assert address.address_for({}) != before

    def test_changed_code_counts(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(address, "PACKAGES", ("some_code",))
        (tmp_path / "some_code").mkdir()
        module = tmp_path / "some_code" / "__init__.py"
        module.write_text("x = 1")
        before = address.address_for({})
        assert address.address_for({}) == before
        module.write_text("x = 12")
        assert address.address_for({}) != before


class TestHold:
    """`silofl launch` keeps it while it runs."""

    def held(self, folder: Path, code: str) -> str:
        text = program(folder, "holder", forks=False)
        path = Path(text)
        path.write_text(
            path.read_text().replace("from tests.launcher import", f"{code}\nfrom tests.launcher import")
        )
        return text

    def test_it_stays_while_it_is_held_and_ends_then(self, tmp_path: Path, environ: dict[str, str]) -> None:
        code = "hold = stub.Hold(__import__('os').environ)"
        holder = begin([self.held(tmp_path, code), "-c", "print('up', flush=True); input()"], environ)
        assert first_line(holder) == "up\n"
        forked = program(tmp_path, "forked")
        parents = {outcome([forked, "-c", "import os; print(os.getppid())"], environ)[1] for _ in range(3)}
        assert len(parents) == 1
        assert not eventually(lambda: zygotes(tmp_path) == [], 1.5), "it lingers 1 s alone"
        holder.communicate("given", timeout=30)
        assert eventually(lambda: zygotes(tmp_path) == [], 0.9)

    def test_one_that_still_loads_ends_with_who_held_it(
        self, tmp_path: Path, environ: dict[str, str]
    ) -> None:
        code = "with stub.Hold(__import__('os').environ): pass"
        assert outcome([self.held(tmp_path, code), "-c", "print(1)"], environ)[:2] == (0, "1\n")
        assert eventually(lambda: zygotes(tmp_path) == [], 0.9)


@pytest.mark.parametrize(
    ("code", "stays"), [("pass", False), ("raise SystemExit(2)", False), ("raise SystemExit(75)", True)]
)
def test_it_waits_for_ranks_that_may_start_again_only(
    tmp_path: Path, environ: dict[str, str], code: str, stays: bool
) -> None:
    forked = program(tmp_path, "forked", linger_s=3)
    outcome([forked, "-c", code], environ)
    assert eventually(lambda: zygotes(tmp_path) == [], 1.5) is not stays
    assert eventually(lambda: zygotes(tmp_path) == [], 20)


@pytest.mark.long
def test_a_thousand_starts_leave_nobody(tmp_path: Path, environ: dict[str, str]) -> None:
    forked = program(tmp_path, "forked", linger_s=0.2)
    for _ in range(125):
        running = [begin([forked, "-w", "-c", f"raise SystemExit({k})"], environ) for k in range(8)]
        for code, one in enumerate(running):
            assert one.communicate("", timeout=30) == ("", "")
            assert one.returncode == code
    assert eventually(lambda: zygotes(tmp_path) == [], 20)
    with socket.socket(socket.AF_UNIX) as again:
        assert again.fileno() < 100
