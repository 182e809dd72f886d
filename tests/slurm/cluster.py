"""A real Slurm in a folder of its own: this machine plays two nodes, each with two pretended GPUs."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import descendants

PACKAGES = ["slurm-wlm", "munge", "libpmix-dev"]  # slurmd loads the last as it starts, for srun --mpi=pmix
PROGRAMS = ["slurmctld", "slurmd", "munged", "sbatch", "srun", "scancel"]
HOST = socket.gethostname().partition(".")[0]
NODES = [HOST, f"{HOST}-again"]  # a PMIx client starts only on a node that is called as its host is
GPUS = "/dev/null,/dev/zero"  # two devices that any machine has: Slurm counts them and opens none
CORES = 12  # for each node; more than there are, so that small jobs run side by side
INSTALL_TIMEOUT_S = 300
COMMAND_TIMEOUT_S = 60
PATIENCE_S = 60.0

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={nodes[0]}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
# A job that is queued again waits for cred_expire: 120 s if not given, 5 s at least.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
# Neither control groups nor their accounting: a container has none to give.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
# A busy machine may need longer than the minute that is the shortest limit.
OverTimeLimit=2
KillWait=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
GresTypes=gpu
NodeName=DEFAULT CPUs={cores} RealMemory=4000 Gres=gpu:2 State=UNKNOWN
NodeName={nodes[0]} NodeHostname={nodes[0]} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName={nodes[1]} NodeHostname={nodes[0]} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why there can be no Slurm here; empty where there is one, installed now if need be."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    if all(map(shutil.which, PROGRAMS)) and ctypes.util.find_library("pmix"):
        return ""
    if shutil.which("apt-get") is None:
        return f"not all of {', '.join(PROGRAMS)} and libpmix are here, and no apt-get to install them with"
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for line in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]):
        try:
            done = subprocess.run(
                line, env=env, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"{' '.join(line)} took longer than {INSTALL_TIMEOUT_S} s"
        if done.returncode:
            return f"{' '.join(line)} failed: {' '.join((done.stderr or done.stdout).split()[-30:])}"
    return ""


class Cluster:
    """munged, slurmctld and a slurmd a node, which keep all they write in `folder`.

    `env` makes Slurm's commands speak to them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Return when every node takes jobs; AssertionError with the daemons' output after a minute."""
        self._configure()
        ends = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "seed-file": "seed",
            "log-file": "log",
        }
        munge = [f"--{option}={self.folder}/munge.{end}" for option, end in ends.items()]
        self._start("munged", "--foreground", "--force", *munge)
        self.wait_until("munged has a socket", (self.folder / "munge.socket").exists)
        self._start("slurmctld", "-D")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        idle = ["idle"] * len(NODES)
        states = ["sinfo", "--noheader", "--Node", "--format=%t"]
        self.wait_until("nodes are idle", lambda: self.ask(*states, check=False).split() == idle)

    def _configure(self) -> None:
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        values = {
            "folder": self.folder,
            "nodes": NODES,
            "ports": free_ports(3),
            "cores": CORES,
        }
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        gpus = [f"NodeName={node} Name=gpu File={GPUS}\n" for node in NODES]
        (self.folder / "gres.conf").write_text("".join(gpus))
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

    def ask(self, *command: str, check: bool = True) -> str:
        """Standard output of one of Slurm's commands, which may fail only without `check`."""
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
        assert not (check and done.returncode), f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def wait_until(self, what: str, true: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        """Return as soon as `true()`; AssertionError after `patience_s`, or when a daemon has died."""
        deadline = time.monotonic() + patience_s
        while not true():
            dead = any(daemon.poll() is not None for daemon in self._daemons)
            if dead or time.monotonic() > deadline:
                logs = "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.out")))
                raise AssertionError(f"waited in vain until {what}\n{logs}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Cancel every job, then end the daemons and their children."""
        self.ask("scancel", "--user=root", check=False)
        with contextlib.suppress(AssertionError):
            self.wait_until("no job is left", lambda: not self.ask("squeue", "-h"), 20.0)
        for daemon in reversed(self._daemons):
            for pid in [daemon.pid, *descendants(daemon.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}{len(self._daemons)}.out").open("wb") as out:
            line = [shutil.which(name) or name, *options]
            self._daemons.append(
                subprocess.Popen(line, env=self.env, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
            )


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
