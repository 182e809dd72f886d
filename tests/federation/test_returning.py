"""A silo that returns is itself: its own command line, data and identity, or it stays away alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl.crypto.identity import Identity
from silofl.crypto.roster import Institution, Roster
from tests.conftest import Finished, Start
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


def train(start: Start, *more: str) -> Finished:
    """A run in which every institution has a command of its own, to its end."""
    ranks = []
    for silo in range(3):
        own = ["m.toml", "--run", "run", "--set", f"data.path=inst{silo}.csv"]
        own += [word.replace("SILO", str(silo)) for word in more]
        ranks.append(["-m", "silofl", "train", *own])
    return start(3, ranks=ranks, ulfm=True).wait(80)


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


def test_it_returns_with_its_own_identity(start: Start, institutions: Path) -> None:
    end = train(start, "--set", "secure.identity=kSILO.pem", "--set", "secure.roster=roster.toml")
    assert end.code == 0, end.out + end.err
    assert [line["rejoined"] for line in records(institutions / "run")] == [[], [], [2], [], []]
