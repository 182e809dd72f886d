"""Private federations: what is spent is what was shown, whoever dies and however often a run is resumed."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.crypto.noise_keys import NONCE_BYTES
from silofl.errors import ConfigError, SiloflError, StoppedError
from silofl.federation.loop import train
from silofl.federation.run_logger import RunLogger
from silofl.privacy.places import PLACES
from silofl.tasks.base import SiloData
from tests.campaigns import mostly_long
from tests.federation.threads import prepare

ROOT = Path(__file__).resolve().parents[2]
SILOS, FEATURES = 4, 20


class Plain:
    """A linear classification, the same at every silo but for what was drawn."""

    def model(self) -> nn.Module:
        linear = nn.Linear(FEATURES, 3)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return linear

    def data(self, silo: int, silos: int) -> SiloData:
        rng = np.random.default_rng(silo)
        y = rng.integers(0, 3, 200)
        x = rng.standard_normal((200, FEATURES)) + 2.0 * np.eye(3, FEATURES)[y]
        data = TensorDataset(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y))
        return SiloData(data, data)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.losses(model, batch).mean()

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).float().mean()}


def settings(path: Path, **sections: dict[str, Any]) -> Config:
    """Five rounds of one private step, with every silo's key beside the run."""
    tables: dict[str, dict[str, Any]] = {
        "run": {"name": "private", "dir": str(path / "run"), "display": "none", "rounds": 5},
        "strategy": {"name": "fedsgd", "lr": 1.0, "momentum": 0.5},
        "privacy": {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2},
        "secure": {"bits": 32},
        "checkpoint": {"key_file": str(path / "silo-{silo}.key")},
        "failure": {"policy": "shrink"},
    }
    for name, keys in sections.items():
        tables[name] = tables.get(name, {}) | keys
    if tables["secure"].get("protocol") == "plain":
        del tables["secure"]["bits"]  # which would do nothing
    if tables["privacy"]["unit"] == "silo":
        del tables["privacy"]["sample_rate"]  # which would do nothing
    return configuration.parse(tables)


def federate(
    config: Config, silos: int = SILOS, *, resume: bool = False, task: Plain | None = None
) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            return train(config, task or Plain(), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(silos, rank, timeout_s=100)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "run" / "metrics.jsonl").read_text().splitlines()]


LOCAL = {"strategy": {"name": "fedavg", "momentum": 0.0}, "train": {"steps": 3, "momentum": 0.9}}


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("privacy", "sections"),
    [
        ({}, {}),
        pytest.param({}, {"secure": {"bits": 16}}, marks=pytest.mark.long),
        ({"place": "central"}, {}),
        pytest.param({"place": "central"}, {"secure": {"protocol": "plain"}}, marks=pytest.mark.long),
        pytest.param({"place": "local"}, LOCAL, marks=pytest.mark.long),
        ({"mechanism": "skellam"}, {}),
        ({"unit": "silo", "sample_rate": 0.1, "clip_norm": 0.5}, {"strategy": {"name": "fedavg"}}),
        pytest.param(
            {"unit": "silo", "sample_rate": 0.1, "place": "local"},
            {"strategy": {"name": "fedavg"}},
            marks=pytest.mark.long,
        ),
        pytest.param({"clipping": "hooks"}, {}, marks=pytest.mark.long),
        ({"accountant": "rdp"}, {"secure": {"protocol": "additive"}}),
    ],
    ids=[
        *("distributed", "low bits", "central", "central in the clear", "local", "skellam"),
        *("silos", "silos alone", "hooks", "additive and rdp"),
    ],
)
def test_a_private_federation_learns_and_says_what_it_spent(
    tmp_path: Path, privacy: dict[str, Any], sections: dict[str, Any]
) -> None:
    defaults = {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2, "metrics": "exact"}
    config = settings(tmp_path, **{"privacy": defaults | privacy} | sections)
    results = federate(config)
    assert len({result["model_sha256"] for result in results}) == 1
    summary, rounds = results[0], lines(tmp_path)
    assert summary["delta"] == 1e-5
    spent = [line["epsilon"] for line in rounds]
    assert all(0 < earlier < later for earlier, later in pairwise(spent))
    assert summary["epsilon"] == spent[-1]
    assert summary["epsilon_per_silo"] == [spent[-1]] * SILOS
    assert all("train_loss" not in silo for line in rounds for silo in line["per_silo"])
    if defaults | privacy == defaults:
        assert summary["accuracy"] > 0.6


@pytest.mark.long
def test_every_line_tells_what_is_spent_whether_it_was_foreseen_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silo dies in round 3, which costs more than was foreseen; only the last round is evaluated."""
    prepare(monkeypatch)
    fault = {"policy": "shrink", "inject": ["kill silo 3 round 3 at collect"]}
    privacy = {"dropouts": 0, "metrics": "exact"}
    run = {"run": {"rounds": 4, "evaluate_every": 4}, "privacy": privacy}
    whole = federate(settings(tmp_path / "whole", **run | {"run": run["run"] | {"dir": f"{tmp_path}/a/run"}}))
    lost = federate(settings(tmp_path, **run, failure=fault))
    foreseen = [line["epsilon"] for line in lines(tmp_path / "a")]
    dearer = [line["epsilon"] for line in lines(tmp_path)]
    assert [len(line["survivors"]) for line in lines(tmp_path)] == [4, 4, 3, 3]
    assert all(0 < earlier < later for earlier, later in pairwise(foreseen))
    assert dearer[:2] == foreseen[:2]
    assert all(more > less * 1.001 for more, less in zip(dearer[2:], foreseen[2:], strict=True))
    assert (whole[0]["epsilon"], lost[0]["epsilon"]) == (foreseen[-1], dearer[-1])


KILLS = ["reveal", "checkpoint write", "collect first", "train", "agree", "step", "between rounds"]


@pytest.mark.parametrize("step", mostly_long(KILLS, 0))
@pytest.mark.parametrize("place", mostly_long(["distributed", "local"], 0))
def test_a_killed_run_resumes_with_equal_bytes_and_equal_epsilon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, place: str
) -> None:
    prepare(monkeypatch)
    sections: dict[str, Any] = LOCAL if place == "local" else {}
    privacy = {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2, "place": place}
    faults = {"policy": "abort", "inject": [f"kill silo {silo} round 3 at {step}" for silo in range(SILOS)]}
    keys = tmp_path / "keys"

    def at(name: str, **more: dict[str, Any]) -> Config:
        own = {"checkpoint": {"key_file": str(keys / "silo-{silo}.key")}, "privacy": privacy}
        return settings(tmp_path / name, **(sections | own | more))

    # one nonce for both runs: they have the same noise then
    monkeypatch.setattr("silofl.federation.privacy.engine.new_nonce", lambda: bytes(NONCE_BYTES))
    monkeypatch.setattr("silofl.federation.run_trust.new_run_id", lambda comm: "0" * 32)
    whole = federate(at("whole"))[0]
    killed = federate(at("killed", failure=faults))
    assert all(result is None or isinstance(result, StoppedError) for result in killed)
    assert any(result is None for result in killed)
    resumed = federate(at("killed"), resume=True)
    assert {result["model_sha256"] for result in resumed} == {whole["model_sha256"]}
    assert {result["epsilon"] for result in resumed} == {whole["epsilon"]}


@pytest.mark.covering(1)
@pytest.mark.parametrize("place", ["distributed", "local"])
@pytest.mark.parametrize("spoilt", ["other values", "no log"])
def test_what_a_killed_run_showed_otherwise_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, spoilt: str
) -> None:
    """A sum that is not, or may not be, the same again: another is shown, with other noise; both count."""
    prepare(monkeypatch)
    privacy = {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2, "place": place}
    more: dict[str, Any] = {"privacy": privacy} | (LOCAL if place == "local" else {})
    inject = [f"kill silo {silo} round 3 at step" for silo in range(SILOS)]
    federate(settings(tmp_path, **more, failure={"policy": "abort", "inject": inject}))
    logs = [tmp_path / "run" / f"silo-{silo:04d}" / "privacy.jsonl" for silo in range(SILOS)]
    head, *entries = [json.loads(line) for line in logs[1].read_text().splitlines()]
    assert [entry["round"] for entry in entries] == [1, 2, 3]
    committed = len(list((tmp_path / "run/checkpoints").glob("*/manifest.json")))
    assert committed in (0, 1, 2)
    if spoilt == "no log":
        logs[1].unlink()
    else:
        entries[-1]["tag"] = "0" * 64
        logs[1].write_text("".join(json.dumps(entry) + "\n" for entry in [head, *entries]))
    resumed = federate(settings(tmp_path, **more), resume=True)[0]
    assert resumed["rounds"] == 5
    lost = spoilt == "no log" or not committed  # without a checkpoint the noise is another, too
    twice = 3 - committed if lost else 1
    run = {"dir": str(tmp_path / "longer"), "rounds": 5 + twice}
    assert resumed["epsilon"] == federate(settings(tmp_path, **more, run=run))[0]["epsilon"]


@pytest.mark.parametrize("dropouts", mostly_long([0, 1], 1))
def test_a_lost_silo_takes_its_noise_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropouts: int
) -> None:
    """With `dropouts` the rest is enough, without it the round is dearer; the lost silo spends no more."""
    prepare(monkeypatch)
    privacy = {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2, "dropouts": dropouts}
    failure = {"policy": "shrink", "inject": ["kill silo 2 round 3 at collect first"]}
    five = {"silos": 5, "config": settings(tmp_path, privacy=privacy, failure=failure)}
    results = federate(five["config"], 5)  # type: ignore[arg-type]
    promised = privacy | {"dropouts": 0}
    whole = federate(settings(tmp_path / "whole", privacy=promised), 5)[0]
    left = results[0]
    assert left["survivors"] == [0, 1, 3, 4]
    assert left["epsilon_per_silo"][2] < left["epsilon"]
    if dropouts:
        assert left["epsilon"] <= whole["epsilon"] * (1 + 1e-9)
    else:
        assert left["epsilon"] > whole["epsilon"]


@pytest.mark.long
@pytest.mark.parametrize(("quantile", "first"), mostly_long([(0.9, 1e-3), (0.1, 1e3)], 0))
def test_the_clipping_norm_follows_the_updates_and_is_paid_for(
    tmp_path: Path, quantile: float, first: float
) -> None:
    """From far too small or too large it moves towards the updates' norms; a resume goes on from there."""
    privacy: dict[str, Any] = {"unit": "silo", "noise_multiplier": 2.0, "sample_rate": 0.1}
    privacy["clip_norm"] = first
    fixed = settings(tmp_path / "fixed", privacy=privacy, strategy={"name": "fedavg"})
    adaptive = privacy | {"clip_quantile": quantile, "quantile_noise_multiplier": 3.0}

    def at(name: str, **run: Any) -> Config:
        own = {"dir": str(tmp_path / name), "rounds": 12} | run
        return settings(tmp_path, privacy=adaptive, strategy={"name": "fedavg"}, run=own)

    whole = federate(at("whole"))[0]
    assert whole["epsilon"] > federate(fixed)[0]["epsilon"]
    norms = [json.loads(line)["clip_norm"] for line in (tmp_path / "whole/metrics.jsonl").open()]
    moved = [math.log(later / earlier) for earlier, later in pairwise([first, *norms])]
    assert all(abs(step) <= 0.2 for step in moved)
    assert sum(moved) > 0.5 if first < 1 else sum(moved) < -0.5

    federate(at("halves", rounds=6))
    halves = federate(at("halves"), resume=True)[0]
    assert halves["rounds"] == 12
    assert halves["epsilon"] == whole["epsilon"]
    again = [json.loads(line)["clip_norm"] for line in (tmp_path / "halves/metrics.jsonl").open()]
    assert abs(math.log(again[6] / again[5])) <= 0.2


def test_a_run_ends_before_it_exceeds_what_it_may_spend(tmp_path: Path) -> None:
    free = federate(settings(tmp_path / "free"))
    spent = [line["epsilon"] for line in lines(tmp_path / "free")]
    assert free[0]["rounds"] == 5
    privacy = {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2}
    most = {"max_epsilon": (spent[2] + spent[3]) / 2, "metrics": "exact"}
    config = settings(tmp_path, privacy=privacy | most)
    for result in federate(config):
        assert result["rounds"] == 3
        assert result["epsilon"] == spent[2]
        assert result["accuracy"] is not None
    for result in federate(config, resume=True):  # nothing more may be spent
        assert result["rounds"] == 3


def test_a_delta_that_is_too_large_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(RunLogger, "notice", lambda self, text: told.append(text))
    privacy = {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2}
    one = {"run": {"rounds": 1}}
    federate(settings(tmp_path / "fine", privacy=privacy | {"delta": 1.2e-3}, **one))  # 800 records
    assert told == []
    federate(settings(tmp_path / "large", privacy=privacy | {"delta": 1.3e-3}, **one))
    assert "privacy.delta = 0.0013 is not below one over the 800 examples" in told[0]


@pytest.mark.long
def test_a_target_is_met_and_hardly_missed(tmp_path: Path) -> None:
    privacy = {"unit": "example", "noise_multiplier": None, "target_epsilon": 2.0, "sample_rate": 0.2}
    summary = federate(settings(tmp_path, privacy=privacy))[0]
    assert 1.98 < summary["epsilon"] <= 2.0


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"privacy": {"max_epsilon": 0.1}}, "does not allow one round"),
        ({"privacy": {"noise_multiplier": None, "target_epsilon": 1e-9}}, "target_epsilon"),
        ({"privacy": {"colluding": 3, "dropouts": 1}}, "privacy.colluding = 3"),
        ({"privacy": {"max_epsilon": 1e-3}}, "does not allow one round"),
        ({"secure": {"bits": 8}}, "too small a ring"),
    ],
)
def test_what_cannot_be_promised_is_refused(tmp_path: Path, sections: dict[str, Any], told: str) -> None:
    privacy = {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2}
    config = settings(tmp_path, **sections | {"privacy": privacy | sections.get("privacy", {})})
    for error in federate(config):
        assert isinstance(error, ConfigError)
        assert told in str(error)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"privacy": {"target_epsilon": 1.0}}, "takes its noise from one key"),
        ({"privacy": {"noise_multiplier": None}}, "takes its noise from one key"),
        ({"strategy": {"name": "fedavg"}}, 'set strategy.name = "fedsgd"'),
        ({"privacy": {"place": "local"}}, 'set "fedavg"'),
        ({"train": {"full_batch": True}}, "counts on Poisson sampling"),
        ({"train": {"batch_size": 64}}, "takes batches of one size"),
        ({"train": {"clip_norm": 1.0}}, "use privacy.clip_norm"),
        ({"privacy": {"delta": 1.0}}, "privacy.delta"),
        ({"privacy": {"place": "centra"}}, "privacy.place"),
    ],
)
def test_contradictions_are_refused_when_the_configuration_is_read(
    tmp_path: Path, sections: dict[str, Any], told: str
) -> None:
    privacy = {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2}
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, **sections | {"privacy": privacy | sections.get("privacy", {})})
    assert told in str(caught.value)


def test_noise_in_shares_needs_a_sum_that_hides_them(tmp_path: Path) -> None:
    for error in federate(settings(tmp_path), 2):
        assert isinstance(error, ConfigError)
        assert "over 2 silos there is none" in str(error)


def test_what_a_model_draws_is_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's seed is known to all: runs with equal seeds and other keys draw differently."""
    seeds: list[int] = []
    monkeypatch.setattr("silofl.training.private.seed_everything", seeds.append)
    for name in ("one", "two"):
        federate(settings(tmp_path / name, run={"dir": str(tmp_path / name / "run"), "rounds": 1}))
    assert len(set(seeds)) == 2 * SILOS


def test_a_sum_that_was_shown_and_is_never_taken_again_stays_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in round 3; then the run is told to end at round 2, or earlier, for what it may spend."""
    prepare(monkeypatch)
    inject = [f"kill silo {silo} round 3 at step" for silo in range(SILOS)]
    federate(settings(tmp_path, failure={"policy": "abort", "inject": inject}))
    three = federate(settings(tmp_path / "three", run={"dir": str(tmp_path / "three"), "rounds": 3}))[0]
    committed = len(list((tmp_path / "run/checkpoints").glob("*/manifest.json")))
    ended = federate(settings(tmp_path, run={"dir": str(tmp_path / "run"), "rounds": 2}), resume=True)[0]
    assert ended["rounds"] == 2
    if committed:
        assert ended["epsilon"] == three["epsilon"]
    else:  # the noise was another, so all of it was shown anew
        assert ended["epsilon"] > three["epsilon"]


class Elsewhere(type(PLACES["distributed"])):  # type: ignore[misc]
    """A fourth place: one class."""

    needs_private_sum = False


def test_another_place_is_one_class_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of its own ways: shares in the clear, which `distributed` refuses."""
    monkeypatch.setitem(PLACES, "elsewhere", Elsewhere())  # type: ignore[arg-type]
    known = federate(settings(tmp_path / "known"))[0]
    config = settings(tmp_path, secure={"protocol": "plain"}, privacy={"place": "central"})
    privacy = config.privacy.model_copy(update={"place": "elsewhere"})
    results = federate(config.model_copy(update={"privacy": privacy}))
    assert {result["epsilon"] for result in results} == {known["epsilon"]}
    assert len({result["model_sha256"] for result in results}) == 1
