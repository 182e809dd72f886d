"""Silos sampled by secret coins under `unit = "silo"`: the sum, the ledger, and what nobody else sees."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld import privacy_loss_distribution as pld
from safetensors.numpy import load_file
from torch import nn
from typer.testing import CliRunner

from silofl import config as configuration
from silofl.cli import app
from silofl.config import Config
from silofl.crypto.noise_keys import NONCE_BYTES
from silofl.errors import ConfigError, StoppedError
from silofl.federation.participation import describe_participation
from silofl.federation.privacy.budget import PrivacyBudget
from silofl.federation.privacy.engine import PrivacyEngine
from silofl.federation.privacy.guarantee import describe, plan_for
from silofl.federation.privacy.pipeline import Pipeline
from silofl.federation.silo import Silo
from silofl.privacy.calibration import noise_multiplier_for
from tests.campaigns import mostly_long
from tests.federation.test_privacy import FEATURES, SILOS, Plain, federate, lines, settings
from tests.federation.test_rejoining import tree_of
from tests.federation.threads import prepare

UNIT = {"unit": "silo", "noise_multiplier": 1.0, "clip_norm": 0.5}
AVERAGE = {"name": "fedavg", "momentum": 0.0, "lr": 1.0}


def of(path: Path, rate: float = 0.5, **sections: Any) -> Config:
    run = {"participation": rate} | sections.pop("run", {})
    privacy = UNIT | sections.pop("privacy", {})
    tables = {"strategy": AVERAGE, "train": {"steps": 3}} | sections
    # `settings` takes the rate of records away again, which silos have none of
    return settings(path, run=run, privacy=privacy | {"sample_rate": 0.1}, **tables)


class Coins:
    """Every coin that was drawn, and who trained: by round and silo."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn: dict[tuple[int, int], list[bool]] = {}
        self.trained: dict[tuple[int, int], int] = {}
        takes_part, fit = Pipeline._takes_part, Silo.fit

        def coin(way: Pipeline, round_number: int, attempt: int) -> bool:
            found = takes_part(way, round_number, attempt)
            self.drawn.setdefault((round_number, way._silo._number), []).append(found)
            return found

        def spied(silo: Silo, start: Any) -> Any:
            at = start.round_number, silo._number
            self.trained[at] = self.trained.get(at, 0) + 1
            return fit(silo, start)

        monkeypatch.setattr(Pipeline, "_takes_part", coin)
        monkeypatch.setattr(Silo, "fit", spied)


@pytest.fixture
def coins(monkeypatch: pytest.MonkeyPatch) -> Coins:
    prepare(monkeypatch)
    return Coins(monkeypatch)


# What it costs


@pytest.mark.long
@pytest.mark.parametrize(
    ("noise", "rate", "rounds"),
    mostly_long([(1.0, 0.25, 60), (0.7, 0.5, 10), (3.0, 0.8, 200), (1.5, 0.05, 500), (1.0, 0.5, 1)], 1),
)
def test_the_epsilon_is_that_of_a_poisson_sampled_gaussian(
    tmp_path: Path, noise: float, rate: float, rounds: int
) -> None:
    """At most 1 % above dp-accounting's, never below its lower bound, and less than without sampling."""
    config = of(tmp_path, rate, run={"rounds": rounds}, privacy={"noise_multiplier": noise, "colluding": 0})
    ours = plan_for(config, 63, 800, SILOS, SILOS).spent_after(noise, rounds)
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    reference = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL, 1e-3).compose(event, rounds)
    one = pld.from_gaussian_mechanism(
        noise, sampling_prob=rate, pessimistic_estimate=False, use_connect_dots=False
    )
    lower = one.self_compose(rounds, 0).get_epsilon_for_delta(1e-5)
    assert lower <= ours <= 1.01 * reference.get_epsilon(1e-5)
    whole = of(tmp_path, 1.0, run={"rounds": rounds}, privacy={"noise_multiplier": noise, "colluding": 0})
    assert ours < 0.95 * plan_for(whole, 63, 800, SILOS, SILOS).spent_after(noise, rounds)


@pytest.mark.covering(0)
@pytest.mark.parametrize("neighbours", ["replace-special", "replace-one"])
def test_less_noise_meets_a_target(tmp_path: Path, neighbours: str) -> None:
    """For a fellow silo, too, which knows its own noise and coin and nobody else's."""
    target = {"noise_multiplier": None, "target_epsilon": 4.0, "neighbours": neighbours}
    found = {}
    for rate in (0.3, 1.0):
        privacy = {key: value for key, value in (UNIT | target).items() if value is not None}
        run = {"participation": rate, "rounds": 40}
        config = configuration.parse({"run": run, "privacy": privacy, "strategy": AVERAGE})
        plan = plan_for(config, 63, 800, SILOS, SILOS)
        found[rate] = plan.noise_multiplier()
        assert plan.spent_after(found[rate], 40, 1) <= 4.0
        assert ("each silo in a round with probability 0.3" in describe(plan, found[rate])) == (rate < 1)
        expected = noise_multiplier_for(4.0, 1e-5, plan.whole, "pld")
        assert found[rate] == expected
    assert found[0.3] < 0.6 * found[1.0]


@pytest.mark.long
@pytest.mark.parametrize("place", mostly_long(["distributed", "central", "local"], 0))
def test_a_run_spends_what_was_foreseen_and_states_it(tmp_path: Path, coins: Coins, place: str) -> None:
    config = of(tmp_path, 0.4, privacy={"place": place})
    results = federate(config)
    assert len({one["model_sha256"] for one in results}) == 1
    plan = plan_for(config, 63, 800, SILOS, SILOS)
    observer = plan.spent_after(1.0, 5, 0)
    assert results[0]["epsilon_against"]["observer"] == pytest.approx(observer, rel=1e-9)
    whole = plan_for(of(tmp_path, 1.0, privacy={"place": place}), 63, 800, SILOS, SILOS)
    assert results[0]["epsilon"] < 0.9 * whole.spent_after(1.0, 5)
    assert "each silo in a round with probability 0.4" in results[0]["privacy"]
    text = CliRunner().invoke(app, ["privacy", str(tmp_path / "run")]).output
    assert "in which rounds a silo's update counted nobody else learns" in text
    there: dict[str, Any] = {}
    exec(CliRunner().invoke(app, ["privacy", str(tmp_path / "run"), "--python"]).output, there)
    for key, stated in results[0]["epsilon_against"].items():
        if stated is not None:
            assert 0.99 * stated < there[f"epsilon_{key}"] <= stated * (1 + 1e-6)


# What is added up


@pytest.mark.long
@pytest.mark.parametrize("place", mostly_long(["distributed", "central", "local"], 0))
def test_a_mean_is_over_as_many_silos_as_are_expected(
    tmp_path: Path, coins: Coins, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """sum over drawn / (q N), whoever was drawn, with little noise: each silo brings the same every time."""
    trained, size = Pipeline._trained, 63
    ways = np.array([np.cos((silo + 1.0) * np.arange(size)) for silo in range(SILOS)])
    ways *= 0.5 / np.linalg.norm(ways, axis=1, keepdims=True)

    def constant(way: Pipeline, start: Any) -> Any:
        fitted = trained(way, start)
        fitted.contribution.vectors["update"][:] = 3 * ways[way._silo._number]  # which is clipped
        return fitted

    monkeypatch.setattr(Pipeline, "_trained", constant)
    federate(of(tmp_path, 0.5, run={"rounds": 12}, privacy={"place": place, "noise_multiplier": 0.01}))
    drawn = np.array([[coins.drawn[number, silo][0] for silo in range(SILOS)] for number in range(1, 13)])
    assert len(set(drawn.sum(1))) > 1
    model = load_file(tmp_path / "run" / "model.safetensors")
    found = np.concatenate([model["weight"].ravel(), model["bias"]])
    expected = drawn.sum(0) @ ways / (0.5 * SILOS)
    assert np.linalg.norm(expected) > 2
    assert np.linalg.norm(found - expected) < 1.3  # what noise and grid do: 0.4 to 1.0, whoever was drawn
    assert found @ expected / (expected @ expected) == pytest.approx(1, abs=0.12)


class Layered(Plain):
    """A model with layers that have names."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.Linear(8, 3))


def test_a_silo_that_is_not_drawn_brings_noise_and_keeps_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MOON's model of the round before is that of the last round that counted."""
    monkeypatch.setattr(Pipeline, "_takes_part", lambda way, number, attempt: number == 1)
    moved, kept = [], []
    for rounds in (1, 3):
        path = tmp_path / str(rounds)
        config = of(path, 0.5, run={"rounds": rounds})
        moon = configuration.parse({"strategy": {"name": "moon", "layer": "0"}}).strategy
        federate(config.model_copy(update={"strategy": moon}), task=Layered())
        moved.append(load_file(path / "run" / "model.safetensors")["0.weight"])
        trees = [tree_of(path / "run", rounds, silo)["silo"]["strategy"] for silo in range(SILOS)]
        kept.append([tree["previous"].tobytes() for tree in trees])
        assert not any(np.isnan(tree["previous"]).any() for tree in trees)
    assert np.abs(moved[1] - moved[0]).max() > 0.1  # by noise alone
    assert kept[0] == kept[1]


# What others see


def test_every_silo_trains_in_every_round_and_nothing_tells_whose_update_counts(
    tmp_path: Path, coins: Coins
) -> None:
    results = federate(of(tmp_path, 0.5, run={"rounds": 8}))
    ways = [found for one in coins.drawn.values() for found in one]
    assert len(ways) == 8 * SILOS
    assert 0 < sum(ways) < 8 * SILOS
    assert coins.trained == {(number, silo): 1 for number in range(1, 9) for silo in range(SILOS)}
    rounds = lines(tmp_path)
    assert all(line["survivors"] == line["began"] == list(range(SILOS)) for line in rounds)
    assert all("drawn" not in line for line in rounds)
    assert len({line["bytes_sent"] for line in rounds[1:]}) == 1
    assert results[0]["survivors"] == list(range(SILOS))


def test_a_round_over_other_coins_looks_the_same_from_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All coins one way, then the other: the same messages of the same lengths, and other contents."""
    prepare(monkeypatch)
    sent = []
    for found in (False, True):
        monkeypatch.setattr(Pipeline, "_takes_part", lambda way, number, attempt, found=found: found)
        federate(of(tmp_path / str(found), 0.5, run={"rounds": 2}))
        told = lines(tmp_path / str(found))
        public = ("bytes_sent", "survivors", "encoding_error", "clipped_silos", "per_silo", "epsilon")
        sent.append([{key: line[key] for key in public} | {"keys": sorted(line)} for line in told])
    assert sent[0] == sent[1]


@pytest.mark.long
def test_coins_are_secret_and_the_same_after_a_resume(
    tmp_path: Path, coins: Coins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("silofl.federation.privacy.engine.new_nonce", lambda: bytes(NONCE_BYTES))
    monkeypatch.setattr("silofl.federation.run_trust.new_run_id", lambda comm: "0" * 32)
    key_file = {"key_file": str(tmp_path / "keys" / "silo-{silo}.key")}
    whole = federate(of(tmp_path / "whole", checkpoint=key_file))[0]
    first = {at: found[0] for at, found in coins.drawn.items()}
    coins.drawn.clear()
    inject = [f"kill silo {silo} round 3 at step" for silo in range(SILOS)]
    faults = {"policy": "abort", "inject": inject}
    killed = federate(of(tmp_path / "killed", checkpoint=key_file, failure=faults))
    assert all(one is None or isinstance(one, StoppedError) for one in killed)
    resumed = federate(of(tmp_path / "killed", checkpoint=key_file), resume=True)
    assert {one["model_sha256"] for one in resumed} == {whole["model_sha256"]}
    assert {one["epsilon"] for one in resumed} == {whole["epsilon"]}
    assert any(len(found) > 1 for found in coins.drawn.values())
    assert {at: set(found) for at, found in coins.drawn.items()} == {at: {one} for at, one in first.items()}

    # The seed says nothing of them, and another silo's key, another run or other data are other coins.
    for change in ("seed", "key", "nonce", "data"):
        coins.drawn.clear()
        keys = {"key_file": str(tmp_path / change / "silo-{silo}.key")}
        if change == "nonce":
            monkeypatch.setattr(
                "silofl.federation.privacy.engine.new_nonce", lambda: bytes([1] * NONCE_BYTES)
            )
        if change == "data":
            monkeypatch.setattr("silofl.federation.privacy.engine.new_nonce", lambda: bytes(NONCE_BYTES))
            monkeypatch.setattr(Silo, "data_digest", lambda silo: bytes(32))
        more = {"run": {"seed": 9}} if change == "seed" else {}
        files = keys if change == "key" else key_file
        federate(of(tmp_path / change / "again", checkpoint=files, **more))
        again = {at: found[0] for at, found in coins.drawn.items()}
        assert (again == first) == (change == "seed"), change


@pytest.mark.parametrize("place", mostly_long(["distributed", "local"], 1))
def test_a_round_that_is_taken_again_tells_no_coin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Where training is never twice the same, what each silo tells is not either, drawn or not."""
    prepare(monkeypatch)
    told: dict[tuple[int, int, int], list[Any]] = {}
    tell, repeats, fit, calls = PrivacyEngine.tell, PrivacyBudget.repeats_alone, Silo.fit, itertools.count(1)

    def unlike(silo: Silo, start: Any) -> Any:
        found = fit(silo, start)
        found.contribution.vectors["update"][0] += 1e-3 * next(calls)
        return found

    def spied(engine: PrivacyEngine, contribution: Any, number: int) -> bytes:
        found = tell(engine, contribution, number)
        if found:
            at = number, engine.budget.attempt(number), engine._group.silo_id
            told.setdefault(at, []).append(found)
        return found

    def asked(budget: PrivacyBudget, number: int, attempt: int, tag: str) -> bool:
        told.setdefault((number, attempt, budget._group.silo_id), []).append(tag)
        return repeats(budget, number, attempt, tag)

    monkeypatch.setattr(Pipeline, "_takes_part", lambda way, number, attempt: way._silo._number % 2 == 0)
    monkeypatch.setattr(Silo, "fit", unlike)
    monkeypatch.setattr(PrivacyEngine, "tell", spied)
    monkeypatch.setattr(PrivacyBudget, "repeats_alone", asked)
    inject = [f"kill silo {silo} round 3 at step" for silo in range(SILOS)]
    way = {"privacy": {"place": place}, "checkpoint": {"key_file": str(tmp_path / "silo-{silo}.key")}}
    federate(of(tmp_path / "run", failure={"policy": "abort", "inject": inject}, **way))
    federate(of(tmp_path / "run", **way), resume=True)
    again = {at: found for at, found in told.items() if len(found) > 1}
    assert {silo for *_, silo in again} == set(range(SILOS))
    assert all(len(set(found)) == len(found) for found in again.values())


def test_copies_of_a_run_that_went_apart_tell_no_coin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What silos show, and the noise in it, are others in each, whether or not their update counts."""
    prepare(monkeypatch)
    monkeypatch.setattr("silofl.federation.privacy.engine.new_nonce", lambda: bytes(NONCE_BYTES))
    monkeypatch.setattr("silofl.federation.run_trust.new_run_id", lambda comm: "0" * 32)
    monkeypatch.setattr(Pipeline, "_takes_part", lambda way, number, attempt: way._silo._number % 2 == 0)
    shown: dict[int, list[Any]] = {silo: [] for silo in range(SILOS)}
    calls, fit, fit_privately = itertools.count(1), Silo.fit, Pipeline.fit

    def unlike(silo: Silo, start: Any) -> Any:
        found = fit(silo, start)
        found.contribution.vectors["update"][0] += 1e-3 * next(calls)
        return found

    def spied(way: Pipeline, start: Any, attempt: int) -> Any:
        found = fit_privately(way, start, attempt)
        shown[way._silo._number].append(found.contribution.vectors["update"].copy())
        return found

    monkeypatch.setattr(Silo, "fit", unlike)
    monkeypatch.setattr(Pipeline, "fit", spied)
    for copy in ("one", "other"):
        keys = {"key_file": str(tmp_path / "keys" / "silo-{silo}.key")}
        federate(of(tmp_path / copy, run={"rounds": 1}, privacy={"place": "local"}, checkpoint=keys))
    for one, other in shown.values():
        assert np.mean(one == other) < 0.5


def test_moon_takes_less_time_in_a_silo_that_was_never_drawn_and_is_refused() -> None:
    moon = {"name": "moon", "layer": "0", "mu": 1.0}
    with pytest.raises(ConfigError, match=r"run.participation = 0.5 leaves .* choose another strategy"):
        configuration.parse({"run": {"participation": 0.5}, "strategy": moon, "privacy": UNIT})


@pytest.mark.long
def test_coins_come_up_as_often_as_they_should(tmp_path: Path, coins: Coins) -> None:
    federate(of(tmp_path, 0.25, run={"rounds": 40}, checkpoint={"every": 0}))
    drawn = [[coins.drawn[number, silo][0] for silo in range(SILOS)] for number in range(1, 41)]
    assert abs(np.mean(drawn) - 0.25) < 0.13
    assert len({tuple(row) for row in drawn}) > 6
    assert not all(any(row) for row in drawn)  # a round without any is a round


def test_a_silo_dies_and_the_rest_is_counted_with_less_noise(tmp_path: Path, coins: Coins) -> None:
    fault = {"policy": "shrink", "inject": ["kill silo 3 round 3 at collect first"]}
    whole, lost = (
        federate(of(tmp_path / name, failure=failure))
        for name, failure in (("whole", {"policy": "shrink"}), ("lost", fault))
    )
    assert [len(line["survivors"]) for line in lines(tmp_path / "lost")] == [4, 4, 3, 3, 3]
    assert lost[0]["epsilon"] > whole[0]["epsilon"]
    spent = lost[0]["epsilon_per_silo"]
    assert spent[3] < spent[0]


# What is refused


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"silos_per_round": 3}, {}, "run.silos_per_round = 3 draws that many at once"),
    ({}, {"clip_quantile": 0.5}, "privacy.clip_quantile = 0.5 counts the norms of all: remove one of them"),
    ({}, {"bands": 2}, 'and under privacy.unit = "silo" silos are in rounds by coins: set privacy.unit'),
    (
        {},
        {"neighbours": "replace-one", "accountant": "rdp"},
        'run.participation = 0.5 with privacy.neighbours = "replace-one" has no Renyi divergence that is',
    ),
]


@pytest.mark.parametrize(("run", "privacy", "text"), REFUSED, ids=[text[:50] for *_, text in REFUSED])
def test_what_is_not_counted_is_one_sentence(run: Any, privacy: Any, text: str) -> None:
    given = run or {"participation": 0.5}
    with pytest.raises(ConfigError) as caught:
        configuration.parse({"run": given, "strategy": AVERAGE, "privacy": UNIT | privacy})
    assert text in str(caught.value)


def test_an_optimizer_that_is_kept_is_refused() -> None:
    tables = {"run": {"participation": 0.5}, "strategy": AVERAGE, "privacy": UNIT}
    with pytest.raises(ConfigError, match=r"train\.keep_optimizer = true would carry over"):
        configuration.parse(tables | {"train": {"keep_optimizer": True, "momentum": 0.9}})
    said = describe_participation(configuration.parse(tables), 4)
    assert said.startswith("each silo is in a round's sum with probability 0.5, by a coin that no other silo")
