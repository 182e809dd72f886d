"""Noisy statistics where a run is killed, resumed or short of budget: none is spent twice or forgotten."""

import json
from pathlib import Path
from typing import Any

import pytest

from silofl import config as configuration
from silofl.aggregation.secagg import SecAgg
from silofl.comm.protocol import SimulatedCrash
from silofl.errors import ConfigError, LessProtectionError, StoppedError
from silofl.federation import standardization
from silofl.federation.dry_run import dry_run
from silofl.federation.privacy.budget_file import BudgetFile
from silofl.federation.privacy.noisy_statistics import NoisyStatistics
from silofl.federation.privacy.release_log import entries_of, log_path
from silofl.federation.run_statement import statement_of_run
from silofl.privacy.accountant import epsilon
from tests.campaigns import mostly_long
from tests.federation.noisy_columns import SILOS, entries, federate, kept, of_statistics, settings, written


@pytest.mark.parametrize("changed", mostly_long([False, True], 1))
def test_a_run_killed_before_it_kept_them_takes_the_same_sum_again_and_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    written(tmp_path)
    config, shown = settings(tmp_path), []

    def killed(path: Path, silo: int, statistics: Any) -> None:
        shown.append(statistics.preprocessing)
        raise SimulatedCrash

    with monkeypatch.context() as patch:
        patch.setattr(standardization, "keep", killed)
        assert federate(config) == [None] * SILOS
    (tmp_path / "run" / "config.toml").write_text(configuration.dump(config))
    assert statement_of_run(tmp_path / "run").ledger.epsilon(1e-5, "pld") == of_statistics(config)
    if changed:
        path = tmp_path / "3.csv"
        path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    summary = federate(config, resume=True)[0]
    once = of_statistics(config)
    log = [entry.attempt for entry in entries(tmp_path)]
    spent = kept(tmp_path)["spent"]["silos"]["0"]
    if changed:  # other numbers have other noise, and both count
        assert log == [0, 1]
        assert spent == [[0, 2]]
        assert summary["preprocessing"] != shown[0].to_json()
        assert of_statistics(config, times=2) > once
        assert statement_of_run(tmp_path / "run").ledger.spent_by(0)[entries(tmp_path)[0].releases[0][0]] == 2
    else:
        assert log == [0, 0]
        assert spent == [[0, 1]]
        assert summary["preprocessing"] == shown[0].to_json()


@pytest.mark.long
def test_a_resume_takes_what_was_kept_and_spends_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    whole = federate(settings(tmp_path))[0]
    before = kept(tmp_path)
    (tmp_path / "run" / "silo-0001" / standardization.FILE).unlink()
    monkeypatch.setattr(NoisyStatistics, "reduce", None)
    resumed = federate(settings(tmp_path, run={"rounds": 3}), resume=True)
    assert [one["scaling"] for one in resumed] == [whole["scaling"]] * SILOS
    assert [kept(tmp_path, silo) for silo in range(SILOS)] == [before] * SILOS
    assert [len(entries(tmp_path, silo)) for silo in range(SILOS)] == [1] * SILOS
    release = entries(tmp_path)[0].releases[0][0]
    statement = statement_of_run(tmp_path / "run")
    assert statement.ledger.spent_by(2)[release] == 1
    assert resumed[0]["epsilon"] > whole["epsilon"]


def test_a_resume_on_less_spent_than_a_silo_logged_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    federate(settings(tmp_path))
    for silo in range(SILOS):
        file = tmp_path / "run" / f"silo-{silo:04d}" / standardization.FILE
        table = json.loads(file.read_text())
        del table["spent"]["silos"]["2"]
        file.write_text(json.dumps(table))
    errors = federate(settings(tmp_path, run={"rounds": 3}), resume=True)
    assert all(isinstance(error, LessProtectionError) for error in errors), errors
    assert "what silo 2 is to scale its columns by says that less was spent" in str(errors[0])


def test_where_a_silo_dies_in_the_sum_a_resume_takes_the_same_sum_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    config, adding = settings(tmp_path), SecAgg.sum_scalars

    def dies(self: SecAgg, values: Any, made_from: Any = ()) -> Any:
        if self._sum.session.group.silo_id == 3:
            raise SimulatedCrash
        return adding(self, values, made_from)

    with monkeypatch.context() as patch:
        patch.setattr(SecAgg, "sum_scalars", dies)
        *stopped, dead = federate(config)
    assert dead is None
    assert all(isinstance(one, StoppedError) for one in stopped), stopped
    (first,) = entries(tmp_path)
    again = federate(config)
    assert all("already holds a run: add --resume" in str(error) for error in again), again
    summary = federate(config, resume=True)[0]
    assert entries(tmp_path) == [first, first]
    assert statement_of_run(tmp_path / "run").ledger.spent_by(3)[first.releases[0][0]] == 1
    assert summary["preprocessing"]["columns"] == kept(tmp_path, 3)["columns"]


def test_an_institutions_own_budget_counts_them_and_may_have_no_room(tmp_path: Path) -> None:
    written(tmp_path)
    own = {"budget_dir": str(tmp_path / "budget-{silo}")}
    config = settings(tmp_path, privacy=own)
    summary = federate(config)[0]
    file = BudgetFile(tmp_path / "budget-1" / "data.budget.jsonl")
    file.update()
    assert [one.round for one in file.spendings] == [0, 1, 2]
    assert epsilon(file.spent, 1e-5, "pld") == pytest.approx(summary["epsilon"])
    most = {"budget_epsilon": summary["epsilon"] * 1.01}
    other = settings(tmp_path, run={"dir": str(tmp_path / "other")}, privacy=own | most)
    errors = federate(other)
    assert all(isinstance(one, ConfigError) and "has no room for a round" in str(one) for one in errors), (
        errors
    )
    assert not entries_of(log_path(tmp_path / "other", 0))
    file.update()
    assert len(file.spendings) == 3


def test_what_leaves_no_room_is_refused_before_anything_is_shown(tmp_path: Path) -> None:
    written(tmp_path)
    for keys in ({"max_epsilon": 0.3}, {"noise_multiplier": None, "target_epsilon": 0.3}):
        config = settings(tmp_path, privacy=keys)
        with pytest.raises(ConfigError, match=r"the sums of data.standardize alone spend epsilon 0.43"):
            dry_run(config, SILOS)
        errors = federate(config)
        assert all("the sums of data.standardize alone spend" in str(error) for error in errors), errors
        assert not entries(tmp_path)
        (tmp_path / "run" / "silo-0000" / "privacy.jsonl").unlink()
        for silo in range(1, SILOS):
            (tmp_path / "run" / f"silo-{silo:04d}" / "privacy.jsonl").unlink()


@pytest.mark.parametrize("key", ["max_epsilon", "budget_epsilon"])
def test_where_no_round_has_room_behind_them_none_is_shown(tmp_path: Path, key: str) -> None:
    written(tmp_path)
    own = {"budget_dir": str(tmp_path / "budget-{silo}")} if key == "budget_epsilon" else {}
    config = settings(tmp_path, privacy={key: 0.45, **own})  # they spend 0.43
    errors = federate(config)
    said = "does not allow one round" if key == "max_epsilon" else "has no room for a round"
    assert all(isinstance(one, ConfigError) and said in str(one) for one in errors), errors
    assert not entries(tmp_path)


def test_a_run_that_was_killed_behind_them_has_the_room_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in its budget file already: a resume shows the same, and does not pay twice."""
    written(tmp_path)
    room = {"budget_dir": str(tmp_path / "budget-{silo}"), "budget_epsilon": 0.5, "noise_multiplier": 20.0}
    config, keep = settings(tmp_path, privacy=room), standardization.keep

    def die(*of: object) -> None:
        raise SimulatedCrash

    monkeypatch.setattr(standardization, "keep", die)
    assert federate(config) == [None] * SILOS
    monkeypatch.setattr(standardization, "keep", keep)
    summary = federate(config, resume=True)[0]
    assert summary["rounds"] == 2, summary
    assert summary["epsilon"] < 0.5


RUN = """
[run]
rounds = 4
display = "plain"
[task]
name = "files"
model = "linear"
classes = 2
[data]
path = "{silo}.csv"
standardize = "federated"
bounds = {age = [0, 110], glucose = [0, 30], "*" = [-50, 50]}
owner_column = "person"
[strategy]
name = "fedsgd"
[secure]
bits = 32
[privacy]
unit = "example"
target_epsilon = 3.0
sample_rate = 0.2
[checkpoint]
key_file = "silo-{silo}.key"
[failure]
rejoin_s = 30
inject = ["kill silo 2 round 2 at collect"]
"""


@pytest.mark.long
def test_a_silo_dead_and_back_takes_what_the_others_hold(start: Any, tmp_path: Path) -> None:
    """Four real ranks; the run goes on under its epsilon, and the returned silo knows what was spent."""
    written(tmp_path)
    (tmp_path / "m.toml").write_text(RUN)
    end = start(SILOS, "train", "m.toml", "--run", "run", ulfm=True).wait()
    assert end.code == 0, end.err
    assert "silo 2 rejoined after" in end.out, end.out + end.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rejoined"] == [[3, 2]]
    everywhere = [kept(tmp_path, silo) for silo in range(SILOS)]
    assert everywhere == [everywhere[0]] * SILOS
    assert {key: everywhere[0][key] for key in ("format", "columns")} == summary["preprocessing"]
    assert [len(entries(tmp_path, silo)) for silo in range(SILOS)] == [1] * SILOS
    ledger = statement_of_run(tmp_path / "run").ledger
    assert ledger.spent_by(2)[entries(tmp_path)[0].releases[0][0]] == 1
    assert ledger.epsilon(1e-5, "pld") == pytest.approx(summary["epsilon"])
