"""A silo that returns is itself: its own command line, data and identity, or it stays away alone."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl.crypto.identity import Identity
from silofl.crypto.roster import Institution, Roster
from silofl.errors import EXIT_RESUMABLE
from tests.conftest import Finished, Job, Start
from tests.federation.threads import records

RUN = """
[run]
rounds = 5
display = "plain"
[task]
name = "files"
model = "linear"
classes = 2
[train]
epochs = 1
lr = 1e-9  # so that each silo's loss is the untrained model's on its own data
[secure]
protocol = "plain"
[failure]
rejoin_s = 20
inject = ["kill silo 2 round 2 at collect"]
"""


@pytest.fixture
def institutions(tmp_path: Path) -> Path:
    """A file and a key for each of three institutions, and their roster."""
    (tmp_path / "m.toml").write_text(RUN)
    known = []
    for silo in range(3):
        rng = np.random.default_rng(silo)
        x = rng.normal(size=(40, 4)) + 3 * silo
        rows = np.column_stack([x, x.sum(1) > 12 * silo])
        np.savetxt(tmp_path / f"inst{silo}.csv", rows, "%g", ",", header="a,b,c,d,label", comments="")
        identity = Identity.generate()
        identity.save(tmp_path / f"k{silo}.pem")
        known.append(Institution(f"institution {silo}", identity.public))
    (tmp_path / "roster.toml").write_text(Roster(tuple(known)).dumps())
    return tmp_path


IDENTITIES = ("secure.identity=kSILO.pem", "secure.roster=roster.toml")
IMPOSTOR = str(Path(__file__).with_name("impostor.py"))


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def begin(start: Start, *settings: str, more: tuple[str, ...] = ()) -> Job:
    """A run in which every institution has a command of its own."""
    ranks = []
    for silo in range(3):
        own = [setting.replace("SILO", str(silo)) for setting in ("data.path=instSILO.csv", *settings)]
        ranks.append([IMPOSTOR, "train", "m.toml", "--run", "run", *more, *words(*own)])
    return start(3, ranks=ranks, ulfm=True)


def train(start: Start, *settings: str) -> Finished:
    """Such a run, to its end."""
    return begin(start, *settings).wait(80)


def losses(line: dict[str, Any]) -> list[float | None]:
    return [silo.get("loss") and round(silo["loss"], 4) for silo in line["per_silo"]]


def test_it_returns_with_its_own_command_line(start: Start, institutions: Path) -> None:
    """Every institution was started by its own command, and names its own data."""
    end = train(start)
    assert end.code == 0, end.out + end.err
    lines = records(institutions / "run")
    assert [line["rejoined"] for line in lines] == [[], [], [2], [], []]
    assert len(set(losses(lines[0]))) == 3
    assert losses(lines[1]) == [*losses(lines[0])[:2], None]
    assert [losses(line) for line in lines[2:]] == [losses(lines[0])] * 3
    told = end.out + end.err + "".join(json.dumps(line) for line in lines)
    assert "inst2.csv" not in told  # a command line is nobody's to read


@pytest.mark.long
def test_it_returns_with_its_own_identity_and_all_are_started_again(start: Start, institutions: Path) -> None:
    """Under masks, with a death, a return, and a restart of the whole job: everybody on its own data."""
    masked = (*IDENTITIES, "secure.protocol=secagg", "secure.allow_two=true", "run.share_silo_metrics=true")
    job = begin(start, *masked, "run.rounds=100000")
    metrics = institutions / "run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and job.process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") > 6:
            break
        time.sleep(0.02)
    job.process.send_signal(signal.SIGUSR1)
    end = job.wait(60)
    assert end.code == EXIT_RESUMABLE, end.out + end.err
    before = len(records(institutions / "run"))
    end = begin(start, *masked, f"run.rounds={before + 2}", more=("--resume",)).wait(60)
    assert end.code == 0, end.out + end.err
    lines = records(institutions / "run")
    assert [line["round"] for line in lines] == list(range(1, before + 3))
    assert [line["round"] for line in lines if line["rejoined"] == [2]] == [3]
    assert [line["survivors"] for line in lines] == [
        [0, 1] if n == 2 else [0, 1, 2] for n in range(1, before + 3)
    ]
    whole = losses(lines[0])
    assert len(set(whole)) == 3
    assert all(losses(line) == whole for line in lines[2:])
    assert losses(lines[1]) == [*whole[:2], None]


def comes_as(folder: Path, *times: tuple[str, ...]) -> None:
    """It has these settings, too, when it is started again for the first, second and third time."""
    (folder / "impostor.json").write_text(json.dumps([words(*settings) for settings in times]))


def sentences(end: Finished) -> list[str]:
    """Why it cannot rejoin, as it says itself, and what the others say as often."""
    said = re.findall(r"^silofl: silo 2 cannot rejoin: (.*)$", end.err, re.MULTILINE)
    assert end.out.count("note: silo 2 cannot rejoin: ") == len(said)
    return said


def test_another_institution_stays_away_alone(start: Start, institutions: Path) -> None:
    """It comes with another's key, then without any, and then as itself."""
    comes_as(institutions, ("secure.identity=k0.pem",), ("secure.identity=", "secure.roster="), ())
    end = train(start, *IDENTITIES, "run.rounds=8")
    assert end.code == 0, end.out + end.err
    another = "k0.pem is the key of silo 0 and this is rank 2: start the ranks in the order of the roster"
    without = "the silos of this run know each other by secure.roster, and silo 2 has none: set "
    remedy = f"{without}secure.identity and secure.roster as at the start"
    assert sentences(end) == [f"{institutions}/{another}", remedy]
    lines = records(institutions / "run")
    assert [line["round"] for line in lines if line["rejoined"]] == [7]
    assert [line["round"] for line in lines if 2 in line["survivors"]] == [1, 7, 8]


@pytest.mark.long
def test_a_silo_that_is_not_what_it_was_stays_away_alone(start: Start, institutions: Path) -> None:
    """It comes with another's data, with a configuration that cannot be read, and with another's key."""
    comes_as(institutions, ("data.path=inst0.csv",), ("run.rounds=abc",))
    script = institutions / "impostor.json"
    stolen = ["take", "run/silo-0000/identity.pem", "run/silo-0002/identity.pem"]
    script.write_text(json.dumps([*json.loads(script.read_text()), stolen]))
    end = train(start, "run.rounds=7")
    assert end.code == 0, end.out + end.err
    assert sentences(end) == [
        "its data.path names another place than at the start: name the one of before",
        "run.rounds = 'abc' is not allowed: it should be a valid integer",
        "it has not proved its identity: put the keys of the run's first start back into silo-0002 of its "
        "run directory",
    ]
    lines = records(institutions / "run")
    assert [line["round"] for line in lines if 2 in line["survivors"]] == [1]
    assert "inst0.csv" not in end.out + end.err
