"""`benchmarks/privacy_attacks_study.py`: its tables are those of the documents, and say what is claimed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "privacy-attacks.md").read_text()
FOUND = json.loads((ROOT / "benchmarks" / "results" / "privacy-attacks.json").read_text())


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module: Any = __import__("privacy_attacks_study")
    return module


def test_the_page_has_the_tables_of_the_results(study: Any) -> None:
    for table in study.markdown(FOUND):
        assert table in PAGE
    for image in ("inverted-digits.png", "membership-roc.svg"):
        assert f"images/{image}" in PAGE
        assert 1000 < (ROOT / "docs" / "images" / image).stat().st_size < 100_000


def test_a_digit_is_recovered_from_a_plain_update_and_not_under_masks_or_noise(study: Any) -> None:
    rows = {(row["view"], row["model"]): row for row in FOUND["inversion"]}
    views = {view.name: view for view in study.VIEWS}
    assert {view for view, _ in rows} == views.keys()
    plain = rows[study.VIEWS[0].name, "mlp"]
    for attack in ("first_layer", "cosine_matching"):
        assert plain[attack]["identified"] == plain[attack]["recovered"] == 1.0
    for (name, _), row in rows.items():
        view = views[name]
        hidden = (view.own and view.secure) or view.epsilon is not None
        for attack in study.INVERSIONS if hidden else ():
            if attack in row:
                assert row[attack]["identified"] <= 0.1
                assert row[attack]["recovered"] == 0.0
    usual = rows[study.VIEWS[4].name, "mlp"]
    assert all(usual[attack]["recovered"] <= 0.05 for attack in study.INVERSIONS if attack in usual)
    chance = usual["examples"] / study.DIGITS
    assert all(usual[attack]["identified"] <= 1.5 * chance for attack in study.INVERSIONS if attack in usual)


def test_traps_open_a_secure_sum_and_noise_closes_it() -> None:
    for row in FOUND["traps"]:
        assert row["recovered"] >= 5 if row["epsilon"] is None else row["recovered"] == 0


def test_membership_shows_without_noise_and_less_with_it(study: Any) -> None:
    open_, *private = FOUND["membership"]
    assert open_["epsilon"] is None
    assert open_["likelihood_ratio"]["low"] > 0.6
    for row in private:
        assert row["epsilon"] is not None
        for attack in study.INFERENCES:
            assert row[attack]["auc"] < open_["likelihood_ratio"]["low"]


def pretended(study: Any) -> list[tuple[Any, Any]]:
    """Outcomes by formula in the place of runs."""
    inverted, membership = sys.modules["inverted_runs"], sys.modules["membership_runs"]
    done = []
    for job in study.jobs(2):
        kind, given = job
        if kind == "invert":
            view, model, seed = given
            names = [name for name in study.INVERSIONS if model == "mlp" or name != "first_layer"]
            image = np.full((8, 8), 0.5)
            found: Any = [
                inverted.Inverted(view.name, model, name, seed, seed, 0, 1, 10.0 + seed, 0.5, view.epsilon,
                                  (image, image))
                for name in names
            ]  # fmt: skip
        elif kind == "spring":
            trap, epsilon, seed = given
            found = inverted.Trapped(trap, epsilon, seed, 10, 4 + seed, 80)
        else:
            setting, seed = given
            members, noise = np.arange(200) < 100, np.random.default_rng(seed).standard_normal(200)
            scores = dict.fromkeys(study.INFERENCES, noise + members)
            found = membership.Inferred(setting.name, seed, members, scores, 1.0, 0.8, setting.noise)
        done.append((job, found))
    return done


def test_outcomes_become_sums_over_seeds(study: Any, tmp_path: Path) -> None:
    done = pretended(study)
    told = study.rounded(study.summarized(done))
    first = told["inversion"][0]
    assert first["first_layer"] == {"identified": 0.5, "recovered": 0.0, "psnr": 10.5, "ssim": 0.5}
    assert "first_layer" not in told["inversion"][1]
    assert {row["recovered"] for row in told["traps"]} == {4.5}
    assert [row["setting"] for row in told["membership"]] == [one.name for one in study.SETTINGS]
    assert told["membership"][0]["loss_threshold"]["members"] == 200
    table, *_ = study.markdown(told)
    assert "| plain: what a silo sends, 1 digit | CNN | - | 50 %, 0 %, 10 dB |" in table
    study.picture([one for (kind, _), every in done if kind == "invert" for one in every], tmp_path / "p.png")
    study.draw_roc([found for (kind, _), found in done if kind == "infer"], tmp_path / "r.svg")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("p.png", "r.svg"))


@pytest.mark.long
def test_one_run_of_each_kind(study: Any) -> None:
    for job in (("invert", (study.VIEWS[0], "mlp", 0)), ("spring", ("brightness_bins", None, 0))):
        found = study.run(job)
        assert found[0].identified == 1 if isinstance(found, list) else found.recovered > 5
    found = study.run(("infer", (study.SETTINGS[0], 0)))
    assert study.worth(found.scores["likelihood_ratio"], found.members).low > 0.5
