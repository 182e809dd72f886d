"""Statistics of columns under [privacy]: bounded, noisy, counted before they are seen, made once in a run."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from silofl import config as configuration
from silofl.aggregation import protocols
from silofl.aggregation.secagg import SecAgg
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator, SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.config import Config, SecureConfig
from silofl.errors import ConfigError, LessProtectionError, SiloflError, StoppedError
from silofl.federation import standardization
from silofl.federation.dry_run import dry_run
from silofl.federation.loop import train
from silofl.federation.privacy.budget_file import BudgetFile
from silofl.federation.privacy.noisy_statistics import NoisyStatistics
from silofl.federation.privacy.release_log import Entry, entries_of, log_path
from silofl.federation.run_statement import statement_of_run
from silofl.privacy.accountant import epsilon
from silofl.privacy.column_statistics import StatisticsPlan
from silofl.privacy.plan import method_for
from silofl.tasks import build
from tests.campaigns import mostly_long

SILOS, RECORDS = 4, 400
LOW, HIGH = np.array([0, 0, -50.0]), np.array([110, 30, 50.0])


def table(silo: int) -> np.ndarray:
    rng = np.random.default_rng(silo)
    x = np.column_stack(
        [
            rng.normal(50 + silo, 12, RECORDS),
            rng.gamma(4, 1.5, RECORDS),
            rng.normal(0, 15, RECORDS),
        ]
    )
    return np.column_stack([x, x[:, 0] > 50, np.arange(RECORDS) // 2])


def written(folder: Path) -> None:
    for silo in range(SILOS):
        header = "age,glucose,tilt,label,person"
        np.savetxt(folder / f"{silo}.csv", table(silo), delimiter=",", header=header, comments="", fmt="%.9g")


def settings(path: Path, **sections: dict[str, Any]) -> Config:
    """Two rounds of one private step, whose columns are scaled by noisy statistics."""
    bounds = {"age": [0, 110], "glucose": [0, 30], "*": [-50, 50]}
    tables: dict[str, dict[str, Any]] = {
        "run": {"name": "noisy", "dir": str(path / "run"), "display": "none", "rounds": 2},
        "task": {"name": "files", "classes": 2, "model": "linear"},
        "data": {"path": str(path / "{silo}.csv"), "standardize": "federated", "bounds": bounds},
        "strategy": {"name": "fedsgd", "lr": 1.0},
        "privacy": {"unit": "example", "noise_multiplier": 2.0, "sample_rate": 0.2},
        "secure": {"bits": 32},
        "checkpoint": {"key_file": str(path / "silo-{silo}.key")},
        "failure": {"policy": "shrink"},
    }
    for name, keys in sections.items():
        tables[name] = tables.get(name, {}) | keys
    tables["data"].setdefault("owner_column", "person")
    return configuration.parse(tables)


def federate(config: Config, *, resume: bool = False) -> list[Any]:
    """What every silo has in the end: its summary, the error that it raised, or None where it died."""

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            return train(config, comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=100)


def entries(path: Path, silo: int = 0) -> list[Entry]:
    """Of a silo's release log, what was shown of statistics."""
    return [one for one in entries_of(log_path(path / "run", silo)) if one.round == 0]


def kept(path: Path, silo: int = 0) -> Any:
    return json.loads((path / "run" / f"silo-{silo:04d}" / standardization.FILE).read_text())


def clipped_rows(config: Config) -> np.ndarray:
    """All silos' training records, columns by name, within their bounds."""
    task = build(config)
    rows = np.concatenate([task.training_numbers(silo) for silo in range(SILOS)])
    return np.clip(rows, LOW, HIGH)


def of_statistics(config: Config, silos: int = SILOS, times: int = 1) -> float:
    """Epsilon of statistics alone."""
    spent = StatisticsPlan(config.privacy, silos, 3).of_sum(silos)
    return epsilon({release: times * count for release, count in spent.items()}, 1e-5, "pld")


WAYS: list[Any] = [
    {},
    {"neighbours": "add-remove", "records": 1280},
    {"neighbours": "replace-one"},
    {"place": "central", "colluding": 2},
    {"place": "local"},
    {"mechanism": "skellam"},
    {"unit": "patient", "institutions_per_patient": 2},
    {"bands": 2},
]


@pytest.mark.long
@pytest.mark.parametrize("privacy", mostly_long(WAYS, 1))
def test_statistics_are_near_those_without_noise_and_the_same_at_all_silos(
    tmp_path: Path, privacy: dict[str, Any]
) -> None:
    written(tmp_path)
    local: Any = {"strategy": {"name": "fedavg"}, "train": {"steps": 2}}
    config = settings(tmp_path, privacy=privacy, **(local if privacy.get("place") == "local" else {}))
    summaries = federate(config)
    assert all(one == summaries[0] for one in summaries), summaries
    scaling, rows = summaries[0]["scaling"], clipped_rows(config)
    assert scaling["columns"] == ["age", "glucose", "tilt"]
    plan, half = StatisticsPlan(config.privacy, SILOS, 3), (HIGH - LOW) / 2
    units = len(rows) / 2 if config.privacy.unit == "patient" else len(rows)
    noise = plan.deviation(SILOS) / units
    off = np.abs(np.array(scaling["center"]) - rows.mean(axis=0)) / half
    assert 0 < off.max() < 5 * noise
    if config.privacy.unit == "example":  # means of two records vary less
        u = (rows - (LOW + HIGH) / 2) / half
        least = noise * np.sqrt(0.25 + 4 * u.mean(axis=0) ** 2)
        found = (np.array(scaling["scale"]) / half) ** 2
        assert (np.abs(found - np.maximum(u.var(axis=0), least)) < 6 * least).all()
    ledger = statement_of_run(tmp_path / "run").ledger
    assert summaries[0]["epsilon"] == pytest.approx(ledger.epsilon(1e-5, method_for(config.privacy)))
    assert [len(entries(tmp_path, silo)) for silo in range(SILOS)] == [1] * SILOS


@pytest.mark.long
def test_a_person_with_many_records_counts_once(tmp_path: Path) -> None:
    """All who are older than 50 are one person of each silo, who weighs as any other does."""
    for silo in range(SILOS):
        rows = table(silo)
        rows[:, 4] = np.where(rows[:, 0] > 50, 1001, rows[:, 4])
        header = "age,glucose,tilt,label,person"
        np.savetxt(tmp_path / f"{silo}.csv", rows, delimiter=",", header=header, comments="", fmt="%.9g")
    config = settings(tmp_path, privacy={"unit": "patient", "standardize_noise_multiplier": 0.5})
    ages = clipped_rows(config)[:, 0]
    assert (ages > 50).mean() > 0.4  # that person trains
    center = federate(config)[0]["scaling"]["center"][0]
    assert center == pytest.approx(ages[ages <= 50].mean(), abs=1.5)
    assert center < ages.mean() - 5


@pytest.mark.long
def test_the_run_costs_what_check_foretells_with_the_statistics_in_it(tmp_path: Path) -> None:
    written(tmp_path)
    config = settings(tmp_path, privacy={"noise_multiplier": None, "target_epsilon": 2.0})
    said = dry_run(config, SILOS).privacy
    summary = federate(config)[0]
    assert 1.96 < summary["epsilon"] <= 2.0
    assert summary["privacy"] == said
    assert ", and of multiplier 8 once on statistics of columns, epsilon" in said
    statement = statement_of_run(tmp_path / "run")
    assert "statistics        of columns, once, by sums with noise of multiplier 8" in statement.text("x")
    gaussians = re.findall(r"\(dp_accounting.dp_event.GaussianDpEvent\(([\d.]+)\), 1\)", statement.python())
    assert [float(one) for one in gaussians] == pytest.approx([8 * math.sqrt(4 / 3), 8.0])
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["epsilon"] > of_statistics(config)


def alone(path: Path, columns: int, own: list[int], run: str = "00" * 16) -> list[np.ndarray]:
    """The noisy sums of all silos' `own` as each of them sees them, in units of the grid."""
    config = settings(path)

    def rank(comm: Communicator) -> np.ndarray:
        group = ElasticGroup(comm)
        spec = AggregationSpec((VectorSpec("x", 1),), np.dtype(np.float64), 1, 0, bytes(32), SILOS)
        noisy = NoisyStatistics(group, config, path / "run", run)
        noisy.begin()
        found = noisy.reduce(lambda: protocols.build(group, SecureConfig(), spec), own, 30)
        return found.sums[:-1] * StatisticsPlan(config.privacy, SILOS, columns).unit

    (path / "run").mkdir(exist_ok=True)
    return run_in_threads(SILOS, rank, timeout_s=60)


@pytest.mark.long
def test_noise_is_the_discrete_gaussian_that_all_silos_promise_together(tmp_path: Path) -> None:
    columns = 1500
    own = [0] * (2 * columns) + [5 << 30]
    found = alone(tmp_path, columns, own)
    assert all(np.array_equal(one, found[0]) for one in found)
    noise, plan = found[0], StatisticsPlan(settings(tmp_path).privacy, SILOS, columns)
    assert np.abs(noise - np.rint(noise)).max() < 1e-6
    variance = plan.share * SILOS
    assert math.sqrt(plan.share * (SILOS - 1)) / plan.sensitivity == pytest.approx(8.0)
    assert abs(noise.mean()) < 5 * math.sqrt(variance / len(noise))
    assert noise.var() / variance == pytest.approx(1, abs=5 * math.sqrt(2 / len(noise)))
    assert stats.kstest(noise / math.sqrt(variance), "norm").pvalue > 1e-4


def test_noise_is_bound_to_the_run_and_to_what_silos_bring(tmp_path: Path) -> None:
    """So that a copied folder never shows other numbers under the same noise."""
    own = [0] * 6 + [5 << 30]
    found = []
    other = [1 << 30, *own[1:]]
    for number, (brought, run) in enumerate([(own, "00"), (own, "00"), (other, "00"), (own, "01")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for silo in range(SILOS if number else 0):
            shutil.copy2(tmp_path / "0" / f"silo-{silo}.key", folder)
        found.append(alone(folder, 3, brought, run * 16)[0])
    assert np.array_equal(found[0], found[1])
    assert not (found[2][1:] == found[0][1:]).any()
    assert not (found[3] == found[0]).any()


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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
