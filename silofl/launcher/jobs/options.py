"""What a job is asked for, whatever the queue; and which words may stand in a job's text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from silofl.errors import ConfigError

WARNING_S = 120
"""Seconds before the time limit at which a job is warned; sbatch(1): Slurm may be up to 60 s earlier."""

WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:/@+-]*")
"""No blank, no quote, and nothing that a shell or a queue reads as anything but itself."""
_EXPRESSION = re.compile(r"[A-Za-z0-9_(\[][A-Za-z0-9_.,:/@+&|*()\[\]=!-]*")
"""A `--constraint`: features with & | * and brackets. No shell reads it."""
_FILE_PATTERN = re.compile(r"[A-Za-z0-9_./~%][A-Za-z0-9_.,:/@+%=-]*")
"""An `--output`, in which a queue reads %j and its like."""
_VALUE = re.compile(r"[A-Za-z0-9_.,:/@+%&|*()\[\]=!~-]+")
"""Of `--sbatch`: no blank, quote, backslash, #, $ or other sign that begins something in a shell."""
_LIMIT = re.compile(r"([0-9]+-)?[0-9]+(:[0-9]{1,2}){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)
_PATTERNS = {"constraint": _EXPRESSION, "output": _FILE_PATTERN}
_WORDS = ("time", "partition", "account", "mpi", "mem", "qos", "constraint", "output")


@dataclass(frozen=True)
class Job:
    """Options of a job; the defaults give `slurm/train.sbatch`.

    Attributes:
        config: path of the TOML configuration, relative to the folder that the job is submitted from.
        silos: ranks in all, dealt over `nodes` nodes, each with `cores` processor cores.
        time: the limit as sbatch takes it, such as "30" (minutes), "4:00:00" or "2-0";
            the site's where empty.
        partition: the site's default where empty; PBS and LSF call it a queue.
        account: the user's default where empty; LSF calls it a project.
        gpus: one GPU for each silo.
        mpi: what `srun --mpi` is to start the ranks with, such as "pmix"; mpirun starts them where empty.
        run: the run directory; `runs/<config>-<job id>` where empty.
        more: further options of `silofl train`, word by word.
        program: the command `silofl`, word by word.
        mem: memory of a node as the queue takes it, such as "64G"; the site's default where empty.
        qos: quality of service.
        constraint: features that nodes must have, such as "a100&ib".
        output: file of what the job prints, with the queue's own signs such as %j.
        modules: environment modules that are loaded before the start.
        prologue: lines of shell before the start, as the user wrote them.
        sbatch: further directives of Slurm, `KEY=VALUE` or `KEY`.
        container: Apptainer image that `program` runs in.
    """

    config: str = "launch/digits.toml"
    silos: int = 4
    nodes: int = 1
    cores: int = 1
    time: str = "4:00:00"
    partition: str = ""
    account: str = ""
    gpus: bool = False
    mpi: str = ""
    run: str = ""
    more: Sequence[str] = ()
    program: Sequence[str] = ("silofl",)
    mem: str = ""
    qos: str = ""
    constraint: str = ""
    output: str = ""
    modules: Sequence[str] = ()
    prologue: Sequence[str] = ()
    sbatch: Sequence[str] = ()
    container: str = ""

    @property
    def per_node(self) -> int:
        """Most ranks of one node."""
        return -(-self.silos // self.nodes)

    @property
    def command(self) -> list[str]:
        """`program`, in its image where there is one."""
        if not self.container:
            return list(self.program)
        return ["apptainer", "exec", *(["--nv"] if self.gpus else []), self.container, *self.program]


def refuse_impossible(job: Job) -> None:
    """Raise ConfigError for what no queue can give, and for words that would not be read as one word."""
    if job.silos < 1 or job.cores < 1:
        raise ConfigError(f"--silos {job.silos} --cores {job.cores}: give at least 1 of each")
    if not 1 <= job.nodes <= job.silos:
        raise ConfigError(f"--nodes {job.nodes} with --silos {job.silos}: give 1 to {job.silos} nodes")
    for option in _WORDS:
        _refuse_unfit(option, getattr(job, option), _PATTERNS.get(option, WORD))
    for module in job.modules:
        if not WORD.fullmatch(module):
            raise ConfigError(f"--module {module!r}: give one name, such as openmpi/5.0; repeat the option")
    if job.time and not _LIMIT.fullmatch(job.time):
        raise ConfigError(
            f'--time {job.time!r}: give minutes, "4:00:00" or days as in "2-0", as sbatch takes it'
        )
    seconds = seconds_of(job.time)
    if seconds is not None and seconds <= WARNING_S:
        raise ConfigError(
            f"--time {job.time} is {seconds / 60:g} min, and a job is warned {WARNING_S} s before its end: "
            "give more"
        )
    _refuse_container(job)


def seconds_of(limit: str) -> int | None:
    """A time limit as sbatch takes it, in seconds; None without one, and for 0, which is none."""
    if not limit or not limit[0].isdigit():
        return None
    days, dash, rest = limit.rpartition("-")
    numbers = [int(one) for one in rest.split(":")]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:  # minutes[:seconds]
        hours, minutes, seconds = 0, *(*numbers, 0)[:2]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds or None


REPLACED = ("signal", "job-name", "no-requeue")
"""Options of sbatch that take the place of the job's own, which has to know them."""


def directives_of(given: Iterable[str], taken: dict[str, str]) -> dict[str, str]:
    """Options of `--sbatch` by name, the value empty for those without one.

    `taken` are those that the job's text sets itself, with what to give instead. Raises ConfigError for
    these, for their abbreviations, which sbatch understands, for what is no option word, and for two of one
    name.
    """
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", key) or len(key) < 2:
            raise ConfigError(f"--sbatch {text!r}: give KEY=VALUE with a long option of sbatch as KEY")
        if equals and not _VALUE.fullmatch(value):
            raise ConfigError(
                f"--sbatch {text!r}: give one value of letters, digits and _.,:/@+%&|*()[]=!~-, no blank"
            )
        own = next((name for name in REPLACED if name != key and name.startswith(key)), None)
        if own is not None:
            raise ConfigError(f"--sbatch {text!r} is short for {own}: write {own} in full")
        same = next((name for name in taken if name == key or name.startswith(key)), None)
        if same is not None:
            raise ConfigError(f"--sbatch {text!r}: the job sets {same} itself; {taken[same]}")
        if key in found:
            raise ConfigError(f"--sbatch {key} is given twice: give it once")
        found[key] = value
    return found


def _refuse_unfit(option: str, value: str, pattern: re.Pattern[str]) -> None:
    if value and not pattern.fullmatch(value):
        more = {"constraint": ", &|*()[]=!", "output": " and %=~"}.get(option, "")
        raise ConfigError(
            f"--{option} {value!r}: give one word of letters, digits and _.,:/@+-{more}, as a queue's are"
        )


def _refuse_container(job: Job) -> None:
    if not job.container:
        return
    if job.container.startswith("-") or not job.container.isprintable():
        raise ConfigError(f"--container {job.container!r} is no image: give a file, or docker://NAME")
    if job.nodes > 1 and not job.mpi:
        raise ConfigError(
            "--container with --nodes: mpirun inside an image does not reach other nodes; let srun start the "
            "ranks with --mpi pmix"
        )
