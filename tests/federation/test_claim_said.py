"""What is promised is said in full wherever a run speaks of itself; where nothing is, that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

from silofl import config as configuration
from silofl.cli import app
from silofl.config import PrivacyConfig
from silofl.errors import ConfigError, SiloflError
from silofl.federation.dry_run import dry_run
from silofl.federation.privacy.budget import PrivacyBudget
from silofl.federation.privacy.guarantee import notes, plan_for
from silofl.federation.silo import Silo
from silofl.federation.sum_spec import aggregation_spec
from silofl.privacy.claim import NOTHING
from silofl.privacy.ledger import Ledger
from silofl.privacy.releases import Release
from silofl.report.dry_run_table import print_dry_run
from silofl.strategies.registry import build
from silofl.tasks.base import SiloData
from tests.federation import threads
from tests.federation.test_privacy import LOCAL, SILOS, Plain, federate, lines, settings

SAID = (
    "every example (replace-special: a record replaced by one that contributes nothing; ",
    "distributed discrete-gaussian noise",
    "at delta 1e-05",
    " against who sees the model, ",
    " against a silo that knows its own noise",
)


FORETOLD = (*SAID[:3], "against who sees the model, and against a silo that knows its own noise")


def test_a_run_and_its_summary_say_the_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = federate(settings(tmp_path, run={"display": "plain"}))[0]
    out = capsys.readouterr().out
    opening = next(line for line in out.splitlines() if line.startswith("  privacy: "))
    closing = next(line for line in out.splitlines() if line.startswith("  privacy  "))
    assert closing == f"  privacy  {summary['privacy']}"
    against = summary["epsilon_against"]
    assert against["observer"] < against["silos"] == summary["epsilon"]
    numbers = [f"epsilon {against[who]:.4g} against " for who in ("observer", "silos")]
    for said in (*SAID, "after 5 rounds", *numbers):
        assert said in opening
        assert said in closing
    assert summary["neighbours"] == "replace-special"


@pytest.mark.long
def test_each_place_says_whom_it_does_not_hold_against(tmp_path: Path) -> None:
    def told(path: str, **privacy: Any) -> dict[str, Any]:
        more = LOCAL if privacy["place"] == "local" else {}
        found: dict[str, Any] = federate(settings(tmp_path / path, **more, privacy=privacy))[0]
        return found

    local, central = told("local", place="local"), told("central", place="central")
    assert local["epsilon_against"] == dict.fromkeys(("observer", "silos"), local["epsilon"])
    assert "against all other silos together" in local["privacy"]
    assert central["epsilon_against"] == {"observer": central["epsilon"], "silos": None}
    assert "none against a rank that serves the sum, or a slice of it" in central["privacy"]


@pytest.mark.covering(0)
@pytest.mark.parametrize("shares", [None, True])
def test_metrics_are_shown_where_that_is_asked_for_and_said_to_be_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shares: bool | None
) -> None:
    run = {"rounds": 1, "display": "plain"} | ({} if shares is None else {"share_silo_metrics": shares})
    summary = federate(settings(tmp_path, run=run, privacy={"metrics": "exact"}))[0]
    (line,) = lines(tmp_path)
    assert 0 <= summary["accuracy"] <= 1
    assert [bool(silo) for silo in line["per_silo"]] == [bool(shares)] * SILOS
    whose = "by itself (run.share_silo_metrics)" if shares else "of all silos together"
    assert "the held-out records of every silo: metrics of " in summary["outside"]
    assert whose in summary["outside"]
    out = capsys.readouterr().out.splitlines()
    assert [one for one in out if one.startswith("  outside")] == [
        f"  outside{sign} {summary['outside']}" for sign in (":", " ")
    ]


@pytest.mark.covering(0)
@pytest.mark.parametrize("display", ["plain", "live"])
def test_a_private_run_evaluates_nothing_unless_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, display: str
) -> None:
    evaluated: list[int] = []
    monkeypatch.setattr(Silo, "evaluate", lambda self, values: evaluated.append(self.samples))
    summary = federate(settings(tmp_path, run={"rounds": 2, "display": display}))[0]
    out = capsys.readouterr().out
    assert evaluated == []
    assert (summary["metrics"], summary["accuracy"], summary["loss"]) == ({}, None, None)
    assert summary["outside"] == ""
    assert all((line["metrics"], line["per_silo"]) == ({}, [{}] * SILOS) for line in lines(tmp_path))
    assert ", trained after 2 rounds in" in out.replace("\n", " ").replace("\r", "")
    for word in ("accuracy", "loss", "held-out", "outside"):
        assert word not in out
    again = configuration.load(tmp_path / "run/config.toml")
    assert not again.evaluates


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ({"evaluate_every": 1}, "run.evaluate_every is set and privacy.metrics is"),
        ({"share_silo_metrics": True}, "run.share_silo_metrics = true and privacy.metrics is"),
    ],
)
def test_a_key_that_needs_metrics_says_so(tmp_path: Path, run: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, run=run)
    assert str(caught.value).startswith(told)
    assert 'set privacy.metrics = "exact"' in str(caught.value)
    assert settings(tmp_path, run=run, privacy={"metrics": "exact"}).evaluates


class Longer(Plain):
    """One record more at silo 0."""

    def data(self, silo: int, silos: int) -> SiloData:
        train, test = super().data(silo, silos)
        if silo:
            return SiloData(train, test)
        more = [torch.cat([one, one[:1]]) for one in train.tensors]
        return SiloData(TensorDataset(*more), test)


ADDED: dict[str, Any] = {"neighbours": "add-remove", "records": 1000}


@pytest.mark.parametrize("more", [{}, LOCAL], ids=["distributed", "local"])
def test_nothing_shown_is_made_of_how_many_records_there_are(tmp_path: Path, more: dict[str, Any]) -> None:
    """Under `add-remove`; under the others the sums' weights tell it."""

    def told(task: Any, **privacy: Any) -> Any:
        place = {"place": "local"} if more else {}
        config = settings(tmp_path, **more, privacy=privacy | place)
        silo = Silo(config, task, 0, SILOS, "cpu")
        spec = aggregation_spec(config, silo, build(config.strategy), SILOS, tolerant=False)
        plan = plan_for(config, silo.model.size, silo.counted + 600, SILOS, SILOS)
        return spec.samples, plan, notes(plan, 1.0)

    assert told(Plain(), **ADDED) == told(Longer(), **ADDED)
    assert told(Plain()) != told(Longer())


@pytest.mark.long
def test_a_run_that_hides_how_many_records_there_are(tmp_path: Path) -> None:
    summary = federate(settings(tmp_path, privacy=ADDED))[0]
    assert "add-remove: a record added or removed; no number shown is made of how many" in summary["privacy"]
    assert summary["neighbours"] == "add-remove"
    other = settings(tmp_path, privacy={"neighbours": "replace-one"}, run={"rounds": 6})
    for error in federate(other, resume=True):
        assert isinstance(error, SiloflError)
        assert "privacy.neighbours" in str(error)


@pytest.mark.long
def test_a_run_in_which_any_record_may_be_replaced_costs_more(tmp_path: Path) -> None:
    spent = {
        relation: federate(settings(tmp_path / relation, privacy={"neighbours": relation}))[0]
        for relation in ("replace-special", "replace-one")
    }
    assert 1.05 * spent["replace-special"]["epsilon"] < spent["replace-one"]["epsilon"]
    assert spent["replace-one"]["epsilon"] <= 2.5 * spent["replace-special"]["epsilon"]
    assert "replace-one: a record replaced by any other" in spent["replace-one"]["privacy"]


def test_a_ledger_of_another_relation_is_not_taken_up() -> None:
    ledger = Ledger()
    ledger.record(Release("gaussian", 1.0, neighbours="add-remove"), [0])
    private = PrivacyConfig(unit="example", noise_multiplier=1.0)
    budget = PrivacyBudget(None, private, "pld", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='the ledger counts under "add-remove", which do not add up'):
        budget.restore(ledger.to_json())


def test_a_run_without_privacy_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = {"display": "plain", "rounds": 1}
    assert threads.federate(threads.settings(tmp_path, run=run), 3)[0]["privacy"] == NOTHING
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("  privacy")] == [
        f"  privacy: {NOTHING}",
        f"  privacy  {NOTHING}",
    ]


@pytest.mark.long
def test_check_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    def said(**privacy: Any) -> str:
        tables = {"task": {"name": "synthetic"}, "strategy": {"name": "fedsgd"}, "privacy": privacy}
        tables |= {"secure": {"bits": 32}, "checkpoint": {"key_file": "key-{silo}"}}
        print_dry_run(dry_run(configuration.parse(tables), 4))
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("privacy "))

    assert said() == f"privacy     {NOTHING}"
    found = said(unit="example", target_epsilon=3.0)
    assert all(part in found for part in SAID)
    assert "epsilon 3 " in found or "epsilon 2.99" in found


@pytest.mark.long
def test_check_says_which_bands_would_leave_less_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they can be set; with momentum, which smooths single rounds. `tests/privacy` has the numbers."""
    monkeypatch.setattr("silofl.federation.dry_run.better", lambda plan: (9 - plan.matrix.bands, 0.687))

    def said(strategy: dict[str, Any] | None = None, **privacy: Any) -> str:
        tables = {"task": {"name": "synthetic"}, "strategy": {"name": "fedsgd"} | (strategy or {})}
        tables |= {"secure": {"bits": 32}, "checkpoint": {"key_file": "key-{silo}"}}
        chosen = {"unit": "example", "target_epsilon": 4.0, "sample_rate": 0.1}
        told = dry_run(configuration.parse(tables | {"privacy": chosen | privacy}), 4).notes
        return next((note for note in told if "bands" in note), "")

    told = "privacy.bands = 8 would leave 0.69 of this noise in the sum of all rounds, at the same epsilon"
    assert said({"momentum": 0.9}) == told
    assert said() == f"{told}; set strategy.momentum = 0.9 with it"
    assert said(bands=8) == told.replace("= 8", "= 1")
    none = {"target_epsilon": None, "noise_multiplier": 1.0}
    for privacy in ({"sample_rate": 0.75}, {"place": "central"}, {"mechanism": "skellam"}, none):
        assert not said(**privacy), privacy


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", (NOTHING,)),
        ('[privacy]\nunit = "example"\ntarget_epsilon = 3.0', (*FORETOLD, "epsilon at most 3 ")),
        (
            '[privacy]\nunit = "example"\nnoise_multiplier = 1.1',
            (*FORETOLD, "noise of multiplier 1.1, the epsilon of its first lines at delta"),
        ),
    ],
)
def test_launch_says_it_before_it_starts_ranks(tmp_path: Path, more: str, said: tuple[str, ...]) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f'[task]\nname = "synthetic"\n[strategy]\nname = "fedsgd"\n{more}\n')
    told = CliRunner().invoke(
        app, ["launch", "-n", "4", str(path), "--dry-run", "--run", str(tmp_path / "r")]
    )
    assert told.exit_code == 0
    assert told.stderr.startswith("privacy: ")
    assert all(part in told.stderr for part in said)
    assert "privacy: " not in told.stdout  # which is the line to be copied
