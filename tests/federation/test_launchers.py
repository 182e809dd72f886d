"""The default run under both libraries, and one command per institution."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, Start

EVERY = [(vendor, n) for vendor in ("openmpi", "mpich") for n in (1, 2, 3, 5, 8)]
USUAL = [("openmpi", 3), ("mpich", 2)]


def check_digits(start: Start, tmp_path: Path, vendor: str, n: int, *more: str) -> None:
    job = start(n, "train", str(ROOT / "launch/digits.toml"), "--run", "run", *more, vendor=vendor)
    end = job.wait(300)
    assert end.code == 0, end.err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["silos"] == n
    assert len(summary["accuracy_per_silo"]) == n
    assert summary["model_sha256"] in end.out
    assert ("plain" if n < 3 else "secagg") in end.out
    assert ("note: updates are added up in the clear" in end.out) == (n < 3)


@pytest.mark.long
@pytest.mark.parametrize(("vendor", "n"), USUAL)
def test_digits_trains_under_both_libraries(start: Start, tmp_path: Path, vendor: str, n: int) -> None:
    """That ranks start cold, too, is seen by the test of `make run`."""
    check_digits(start, tmp_path, vendor, n, "--set", "run.rounds=2")


@pytest.mark.long
@pytest.mark.parametrize(("vendor", "n"), EVERY)
def test_digits_is_learnt_by_any_number_of_silos(start: Start, tmp_path: Path, vendor: str, n: int) -> None:
    check_digits(start, tmp_path, vendor, n)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["accuracy"] >= 0.93


def test_both_libraries_and_threads_train_the_same_plain_model(
    start: Start, quick: Path, tmp_path: Path
) -> None:
    digests = {}
    for vendor in ("openmpi", "mpich"):
        job = start(2, "train", str(quick), "--run", vendor, vendor=vendor)
        assert job.wait().code == 0
        digests[vendor] = json.loads((tmp_path / vendor / "summary.json").read_text())["model_sha256"]
    assert digests["openmpi"] == digests["mpich"]
