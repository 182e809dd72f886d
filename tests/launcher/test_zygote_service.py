"""Whom a zygote serves and for how long, and where there is none."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from silofl.launcher.zygote import address, stub
from tests.launcher.forks import begin, eventually, first_line, outcome, parent, program, zygotes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="zygotes are Linux's")


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


@pytest.mark.long
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


@pytest.mark.covering(0)
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


@pytest.mark.covering(0)
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


@pytest.mark.covering(0)
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

    @pytest.mark.covering(0)
    @pytest.mark.parametrize(
        "name", ["LD_PRELOAD", "PYTHONPATH", "NUMBA_CACHE_DIR", "MKL_CBWR", "SILOFL_KERNEL_PATH"]
    )
    def test_variables_that_are_read_once_count(self, name: str) -> None:
        assert address.address_for({name: "a"}) != address.address_for({name: "b"}) != address.address_for({})

    @pytest.mark.parametrize("name", ["OPENSSL_CONF", "HOME"])
    def test_so_do_those_by_which_files_are_found(self, name: str) -> None:
        assert address.address_for({name: "a"}) != address.address_for({name: "b"})

    @pytest.mark.covering(0)
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

    @pytest.mark.covering(0)
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


@pytest.mark.covering(0)
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
