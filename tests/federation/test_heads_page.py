"""docs/heads.md is true: its configurations train, and its table has what they report and predict."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import silofl
from silofl.tasks.heads import HEADS
from tests.tasks.heads import TARGETS, columns, write

TEXT = (Path(__file__).resolve().parents[2] / "docs/heads.md").read_text()
BLOCKS = {
    tables["task"]["head"]: tables
    for tables in map(tomllib.loads, re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL))
}
ROWS = {cells[0].strip("` "): cells for cells in re.findall(r"^\| (`\w+`) \|(.*)\|$", TEXT, re.MULTILINE)}


def test_every_head_is_in_the_table_and_those_that_are_new_have_an_example() -> None:
    assert list(HEADS) == [name for name in ROWS if name in HEADS]
    assert BLOCKS.keys() == HEADS.keys() - {"classification"}


@pytest.mark.parametrize("head", BLOCKS)
def test_an_example_trains_and_reports_what_the_table_says(tmp_path: Path, head: str) -> None:
    tables: dict[str, Any] = BLOCKS[head]
    names, own = tables["data"]["target"], TARGETS[head]
    renamed = dict(zip([own] if isinstance(own, str) else own, np.atleast_1d(names).tolist(), strict=True))
    for silo in range(2):
        table = {renamed.get(name, name): values for name, values in columns(head, silo).items()}
        write(tmp_path / f"{silo}.csv", table)
    data = {**tables["data"], "path": str(tmp_path / "{silo}.csv")}
    run = {"dir": str(tmp_path / "run"), "rounds": 2}
    done = silofl.simulate({**tables, "data": data, "run": run}, silos=2)
    shown = re.findall(r"`([\w/<>]+)`", ROWS[head][1].split("|")[2])
    found = {re.sub(r"^auc/.*", "auc/<label>", name) for name in done.summary["metrics"]}
    assert found == {"loss", *shown}
    new = columns(head, 5)
    assert len(done.model.predict({renamed.get(name, name): values for name, values in new.items()})) == 120
