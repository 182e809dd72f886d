"""docs/quick-start.md as a researcher follows it: every block, in its order, in one folder."""

from __future__ import annotations

import csv
import re
import tomllib
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from tests.test_readme import ROOT, run

BLOCKS = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "docs/quick-start.md").read_text(), re.DOTALL)


@pytest.mark.long
def test_its_blocks_lead_to_a_model_as_good_at_a_hospital_that_took_no_part(
    python: str, tmp_path: Path
) -> None:
    configurations = [text for kind, text in BLOCKS if kind == "toml"]
    assert [len(text.splitlines()) for text in configurations] == [12]
    assert tomllib.loads(configurations[0])["privacy"]["target_epsilon"] == 3
    told = ""
    for number, (kind, text) in enumerate(BLOCKS):
        if kind == "toml":
            (tmp_path / "ward.toml").write_text(text)
        elif kind == "python":
            (tmp_path / f"block{number}.py").write_text(text)
            told = run(f"{python} block{number}.py", tmp_path, python)
        else:
            for command in text.splitlines():
                told = run(command, tmp_path, python)
    found = {name: float(auc) for name, auc in re.findall(r"(\w+) (0\.\d+)", told)}
    assert found.keys() == {"north", "harbour", "valley", "lake"}
    lake = list(csv.DictReader((tmp_path / "data/lake.csv").open()))
    predicted = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["patient_no"] for row in predicted] == [row["patient_no"] for row in lake]
    again = [row["readmitted"] == "yes" for row in lake]
    new = roc_auc_score(again, [float(row["probability yes"]) for row in predicted])
    assert round(new, 3) == found["lake"]
    others = sum(found[name] * size for name, size in (("north", 1500), ("harbour", 1100), ("valley", 900)))
    assert abs(new - others / 3500) < 0.01
    assert new > 0.85
