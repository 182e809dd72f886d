"""`benchmarks/privacy_attacks_study.py`: its tables are those of the documents, and say what is claimed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm

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


def by_view(study: Any) -> dict[tuple[str, str], dict[str, Any]]:
    rows = {(row["view"], row["model"]): row for row in FOUND["inversion"]}
    assert {view for view, _ in rows} == {view.name for view in study.VIEWS}
    return rows


def test_a_digit_is_recovered_from_a_plain_update_and_not_from_masked_words(study: Any) -> None:
    rows, views = by_view(study), {view.name: view for view in study.VIEWS}
    plain = rows[study.VIEWS[0].name, "mlp"]
    for attack in ("first_layer", "cosine_matching", "candidate_matching"):
        assert plain[attack]["identified"] == plain[attack]["recovered"] == 1.0
    assert rows[study.VIEWS[0].name, "tanh"]["deep_leakage"]["recovered"] == 1.0
    for (name, _), row in rows.items():
        for attack in study.INVERSIONS if views[name].masked else ():
            assert attack not in row or row[attack]["identified"] == row[attack]["recovered"] == 0.0


def test_a_secure_sum_hides_no_digit_from_one_who_has_candidates(study: Any) -> None:
    rows = by_view(study)
    for view in study.VIEWS:
        if not view.own and view.epsilon is None:
            assert rows[view.name, "mlp"]["candidate_matching"]["identified"] == 1.0
    private = rows[study.VIEWS[6].name, "mlp"]
    assert private["candidate_matching"]["identified"] < 1.0


def test_noise_keeps_its_bound_and_what_is_found_is_more_than_chance() -> None:
    told = FOUND["likelihood"]
    assert told["epsilon"] <= 8.0
    for one in (told["first"], told["best"]):
        # By chance as many or more once in a million tries, below the bound with the same margin.
        assert one["found"] <= binom.ppf(1 - 1e-6, told["of"], one["most"])
        assert one["chance"] < one["most"] < 1.0
    assert binom.sf(told["best"]["found"] - 1, told["of"], told["best"]["chance"]) < 1e-6


def test_traps_open_a_secure_sum_and_noise_leaves_about_chance(study: Any) -> None:
    for row in FOUND["traps"]:
        chance = row["shown"] * row["of"] / study.DIGITS
        if row["epsilon"] is None:
            assert min(row["recovered"], row["identified"]) >= 5
        else:
            assert row["shown"] > 0, "an attacker that leaves out what noise spoiled would find nothing"
            assert row["recovered"] <= 1
            assert row["identified"] <= binom.ppf(1 - 1e-4, row["of"], chance / row["of"])


def test_membership_shows_without_noise_and_less_with_it(study: Any) -> None:
    open_, *private = FOUND["membership"]
    assert open_["epsilon"] is None
    assert open_["trajectory"]["low"] > open_["likelihood_ratio"]["auc"] > 0.6
    for row in private:
        assert row["epsilon"] is not None
        assert row["trajectory"]["low"] > 0.5
        for attack in study.INFERENCES:
            assert row[attack]["auc"] < open_["trajectory"]["low"]


def decibels(attack: str, seed: int) -> float:
    return float("inf") if attack == "candidate_matching" else 10.0 + seed


def pretended(study: Any) -> list[tuple[Any, Any]]:
    """Outcomes by formula in the place of runs."""
    inverted, membership = sys.modules["inverted_runs"], sys.modules["membership_runs"]
    done = []
    for job in study.jobs(2):
        kind, given = job
        if kind == "invert":
            view, model, seed = given
            names = list(inverted.attacks(model, view.examples))
            image = np.full((8, 8), 0.5)
            found: Any = [
                inverted.Inverted(view.name, model, name, seed, seed, 0, 1, decibels(name, seed), 0.5,
                                  view.epsilon, (image, image))
                for name in names
            ]  # fmt: skip
        elif kind == "spring":
            trap, epsilon, seed = given
            found = inverted.Trapped(trap, epsilon, seed, 10, 4 + seed, 6, 80)
        elif kind == "rank":
            found = inverted.Ranked([0, 3, 40], 8.0, 0.5)
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
    assert told["inversion"][0]["candidate_matching"]["psnr"] is None
    json.dumps(told, allow_nan=False)
    table, likelihood, *_ = study.markdown(told)
    assert (
        "| plain: what a silo sends, 1 digit | CNN | - | - | 50 %, 0 %, 10 dB | 50 %, 0 %, exact |" in table
    )
    assert told["likelihood"]["of"] == 60
    assert told["likelihood"]["best"]["most"] == pytest.approx(norm.cdf(norm.ppf(17 / 1797) + 2), abs=1e-4)
    assert "| is the likeliest candidate | 33.3 % | 0.06 % |" in likelihood
    assert "| is in the likeliest 1 % | 66.7 % | 0.95 % |" in likelihood
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
