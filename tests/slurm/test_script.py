"""The text of a job, what its shell does with each ending, and `silofl submit`; no Slurm is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from silofl.errors import ConfigError
from silofl.launcher.jobs.options import Job
from silofl.launcher.jobs.slurm import job_text
from tests.conftest import ROOT

PATIENCE_S = 30.0
NAMES = ("partition", "account", "mpi", "time")
HOSTILE = (
    ";touch${IFS}pwned;",
    "$(touch${IFS}pwned)",
    "`touch${IFS}pwned`",
    "|x",
    "&x",
    ">x",
    "'",
    '"',
    "\\",
    "\n",
)

SILOFL = """\
#!/bin/bash
printf '%s\\n' "$@" > arguments
echo "$OMP_NUM_THREADS $TMPDIR" > environment
trap 'warned=yes' USR1
if [ "$ENDS" = warned ]; then
  touch waiting
  until [ "$warned" ]; do sleep 0.02; done
  CODE=75
fi
if [ "$COMMITS" ]; then
  mkdir -p "$COMMITS/checkpoints/round-000002"
  touch "$COMMITS/checkpoints/round-000002/manifest.json"
fi
exit "$CODE"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, and programs that stand for silofl and for Slurm's."""
    programs = {
        "silofl": SILOFL,
        "scontrol": '#!/bin/bash\necho "$@" > requeued\n',
        "sbatch": '#!/bin/bash\ncat > submitted\necho "$@" > options\necho "77;cluster"\n',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def environment(folder: Path, **more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TMPDIR"))}
    return {
        **plain,
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "SLURM_JOB_ID": "5",
        "SLURM_NTASKS": "4",
        **more,
    }


def begin(folder: Path, text: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
    (folder / "script").write_text(text)
    return subprocess.Popen(
        ["bash", "script", *arguments],
        cwd=folder,
        env=environment(folder, **env),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code of a job's script, and what it said; one that hangs is ended with its children."""
    try:
        _, printed = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, printed


def run(folder: Path, text: str, *arguments: str, **env: str) -> int:
    """The exit code of a job's script."""
    code, printed = finish(begin(folder, text, *arguments, **env))
    assert printed == ""
    return code


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_the_file_is_the_text_of_the_default_choices() -> None:
    assert (ROOT / "slurm/train.sbatch").read_text() == job_text(Job())


@pytest.mark.parametrize(
    ("job", "directives"),
    [
        (Job(silos=6, nodes=4), ["nodes=4", "ntasks=6", "ntasks-per-node=2"]),
        (Job(cores=8), ["cpus-per-task=8"]),
        (Job(silos=6, nodes=4, gpus=True), ["gpus-per-node=2"]),
        (Job(silos=6, nodes=4, gpus=True, mpi="pmix"), ["gpus-per-task=1"]),
        (Job(time="30", partition="gpu", account="lab"), ["time=30", "partition=gpu", "account=lab"]),
    ],
)
def test_choices_become_directives(job: Job, directives: list[str]) -> None:
    head = job_text(job).partition("\n\n")[0].splitlines()
    assert {f"#SBATCH --{option}" for option in directives} <= set(head)
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=B:USR1@120"} <= set(head)
    assert all(line.startswith("#") for line in head)  # sbatch reads no further than the first command


def test_what_is_not_chosen_is_the_site_s_own() -> None:
    text = job_text(Job(time=""))
    assert not any(f"--{option}" in text for option in ("time", "partition", "account", "gpus", "ntasks-per"))


@pytest.mark.parametrize(
    ("job", "word"),
    [
        (Job(silos=0), "--silos 0"),
        (Job(cores=0), "--cores 0"),
        (Job(silos=2, nodes=3), "--nodes 3"),
        (Job(nodes=0), "--nodes 0"),
        (Job(partition="a\n#SBATCH --exclusive"), "--partition"),
        (Job(account="a b"), "--account"),
        (Job(time="1 h"), "--time"),
        (Job(time="banana"), "--time 'banana'"),
        (Job(time="4:00:00:00"), "--time"),
        (Job(time="2"), "--time 2 is 2 min, and a job is warned 120 s before its end"),
        (Job(mpi="pmix; true"), "--mpi"),
        *((Job(**{option: f"a{sign}b"}), f"--{option}") for option in NAMES for sign in HOSTILE),
        *((Job(**{option: "-x"}), f"--{option}") for option in NAMES),
        (Job(time="\N{ARABIC-INDIC DIGIT THREE}0"), "--time"),
    ],
)
def test_a_job_that_cannot_be_is_refused(job: Job, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        job_text(job)


def test_srun_is_told_the_cores_of_a_task() -> None:
    assert 'srun --mpi=pmi2 --cpus-per-task="$SLURM_CPUS_PER_TASK" silofl train' in job_text(Job(mpi="pmi2"))


def test_words_reach_silofl_as_they_were_given(folder: Path) -> None:
    job = Job(
        config="my $HOME's }.toml", run="it's `here`", more=["--set=run.name='a b'"], program=["silofl"]
    )
    assert run(folder, job_text(job), CODE="0") == 0
    assert lines(folder / "arguments") == [
        *("launch", "--restarts", "0", "-n", "4", "my $HOME's }.toml", "--run", "it's `here`", "--resume"),
        "--set=run.name='a b'",
    ]


@pytest.mark.parametrize("sign", [*HOSTILE, "\n#SBATCH --uid=0\ntouch pwned\n", "} touch pwned", "-"])
def test_no_word_of_a_job_is_run_by_its_shell(folder: Path, sign: str) -> None:
    words = [f"-{sign}{place}" for place in range(3)]
    job = Job(config=words[0], run=words[1], more=[words[2]], program=["bin/silofl"])
    assert run(folder, job_text(job), CODE="0") == 0
    given = "\n".join(["--resume", words[2], ""])
    arguments = (folder / "arguments").read_text()
    assert arguments == f"launch\n--restarts\n0\n-n\n4\n./{words[0]}\n--run\n{words[1]}\n{given}"
    assert not list(folder.glob("**/*pwned*"))
    (folder / "bin/silofl").rename(folder / f"bin/silofl{sign.replace('/', '')}")
    assert run(folder, job_text(Job(program=[f"bin/silofl{sign.replace('/', '')}"])), CODE="0") == 0
    assert not list(folder.glob("pwned"))


def test_the_file_takes_a_configuration_a_run_and_options(folder: Path) -> None:
    env = {"CODE": "0", "SLURM_CPUS_PER_TASK": "3", "SLURM_TMPDIR": "/local"}
    assert run(folder, job_text(Job()), "a/b.toml", "", "--set", "run.rounds=3", **env) == 0
    assert lines(folder / "arguments")[5:] == [
        *("a/b.toml", "--run", "runs/b-5", "--resume", "--set", "run.rounds=3")
    ]
    assert (folder / "environment").read_text() == "3 /local\n"


@pytest.mark.parametrize(
    ("code", "commits", "queued_again"),
    [
        ("75", "runs/digits-5", True),
        ("75", "", False),
        ("74", "runs/digits-5", False),
        ("0", "runs/digits-5", False),
    ],
)
def test_only_a_resumable_run_that_came_further_is_queued_again(
    folder: Path, code: str, commits: str, queued_again: bool
) -> None:
    before = folder / "runs/digits-5/checkpoints/round-000001"
    before.mkdir(parents=True)
    (before / "manifest.json").touch()
    assert run(folder, job_text(Job()), CODE=code, COMMITS=commits) == int(code)
    assert (folder / "requeued").exists() == queued_again
    if queued_again:
        assert (folder / "requeued").read_text() == "requeue 5\n"


@pytest.mark.parametrize("silo", [0, 3])
@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("place", ["runs/own-{silo}/a b", "{silo}/{silo}", "~/own-{silo}", "~/one"])
def test_a_run_directory_a_silo_is_queued_again_where_any_came_further(
    folder: Path, place: str, silo: int, commits: bool
) -> None:
    """`{silo}` and `~` in `--run` are for silofl to read; the shell has to find the same folders."""

    def of(number: int) -> str:
        return place.replace("{silo}", str(number)).replace("~", str(folder / "home"))

    for number in range(4):  # silo 3 has an older disk
        before = folder / of(number) / f"checkpoints/round-{'000001' if number != 3 else '000000'}"
        before.mkdir(parents=True, exist_ok=True)
        (before / "manifest.json").touch()
    more = {"COMMITS": of(silo)} if commits else {}
    assert run(folder, job_text(Job(run=place)), CODE="75", HOME=str(folder / "home"), **more) == 75
    assert lines(folder / "arguments")[-2:] == [place, "--resume"]
    assert (folder / "requeued").exists() == commits


def test_the_warning_reaches_the_ranks_and_their_end_is_waited_for(folder: Path) -> None:
    process = begin(folder, job_text(Job()), ENDS="warned", COMMITS="runs/digits-5")
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    assert finish(process)[0] == 75
    assert (folder / "requeued").exists()


def test_an_element_of_a_sweep_is_a_line_of_its_file(folder: Path) -> None:
    (folder / "slurm").symlink_to(ROOT / "slurm")
    (folder / "two.txt").write_text("train.lr=0.1\ntrain.lr=0.2 run.name=b\n")
    env = {"CODE": "0", "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "2"}
    array = (ROOT / "slurm/array.sbatch").read_text()
    assert run(folder, array, "two.txt", "c.toml", **env) == 0
    assert lines(folder / "arguments")[5:] == [
        *("c.toml", "--run", "runs/two-9/2", "--resume", "--set=train.lr=0.2", "--set=run.name=b")
    ]
    end = finish(begin(folder, array, "two.txt", **{**env, "SLURM_ARRAY_TASK_ID": "3"}))
    assert end == (2, "silofl: line 3 of two.txt holds nothing: use --array=1-2\n")


def submit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "silofl", "submit", str(ROOT / "launch/digits.toml"), *arguments]
    env = environment(folder)
    return subprocess.run(
        line, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.mark.long
def test_submit_prints_the_job_and_gives_it_to_sbatch(folder: Path) -> None:
    done = submit(folder, "--silos", "6", "--set", "train.lr=0.1")
    assert done.returncode == 0, done.stderr
    text = (folder / "submitted").read_text()
    assert done.stdout == f"{text}job 77\n"
    assert "#SBATCH --ntasks=6\n" in text
    assert f"{sys.executable} -P -m silofl launch" in text
    assert "options=(--set=train.lr=0.1 " in text
    assert (folder / "options").read_text() == "--parsable\n"


@pytest.mark.long
def test_submit_without_slurm_prints_the_job_and_one_sentence(folder: Path) -> None:
    (folder / "bin/sbatch").unlink()
    env = environment(folder) | {"PATH": str(folder / "bin")}
    line = [sys.executable, "-m", "silofl", "submit", str(ROOT / "launch/digits.toml")]
    codes = []
    for more in ([], ["--dry-run"]):
        done = subprocess.run(
            [*line, *more], env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        codes.append(done.returncode)
        assert done.stdout.startswith("#!/bin/bash\n")
        assert done.stderr.count("\n") == 1
        assert ("privacy: none: " if more else "no Slurm here") in done.stderr
    assert codes == [2, 0]


@pytest.mark.long
def test_submit_refuses_before_the_queue_does(folder: Path) -> None:
    done = submit(folder, "--set", "train.lrr=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean train.lr?" in done.stderr
    (folder / "bin/sbatch").write_text("#!/bin/bash\necho 'sbatch: error: no such account' >&2\nexit 1\n")
    done = submit(folder)
    assert done.returncode == 2
    assert done.stderr == "silofl: sbatch refused the job: no such account\n"
