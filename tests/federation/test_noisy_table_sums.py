"""`silofl stats` under [privacy]: one noisy sum, its cost, and that no record is worth more than that."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.comm.threads import run_in_threads
from silofl.config import DataConfig, PrivacyConfig, TaskConfig
from silofl.errors import ConfigError, SiloflError, StoppedError
from silofl.federation.federated_statistics import federated_statistics
from silofl.federation.noisy_table_sums import OfTable
from silofl.federation.privacy.budget_file import BudgetFile
from silofl.privacy.accountant import epsilon
from silofl.privacy.column_statistics import StatisticsPlan
from silofl.report.stats_table import print_statistics
from silofl.tasks.bounded_columns import Bounded
from silofl.tasks.heads import head_of
from silofl.tasks.noisy_tables import NoisyTable
from silofl.tasks.readers import Samples
from silofl.tasks.table_statistics import Shown
from tests.federation import test_federated_statistics as exact

SILOS = exact.SILOS
HEAD = head_of(TaskConfig(name="files", classes=2), DataConfig())
SHOWN = Shown(bins=8, ranges={"age": (0.0, 120.0), "dose": (1000.0, 1000.0001)})
PRIVATE = {
    "privacy": {"unit": "example", "noise_multiplier": 2.0, "sample_rate": 0.2},
    "strategy": {"name": "fedsgd"},
}


def config_of(folder, more=None, **privacy):
    data = {"path": str(folder / "{silo}.csv"), "id": "no", "categorical": {"sex": ["f", "m"]}}
    sections = PRIVATE | {"data": data, "checkpoint": {"key_file": str(folder / "{silo}.key")}} | (more or {})
    sections["privacy"] = sections["privacy"] | privacy
    return exact.settings(folder, **sections)


def found(config, shown=SHOWN, noise=None):
    def rank(comm):
        try:
            return federated_statistics(config, shown, comm=comm, noise_multiplier=noise)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=60)


def test_statistics_are_those_of_the_pooled_table_but_for_noise_and_are_counted(tmp_path, capsys):
    exact.written(tmp_path)
    config = config_of(tmp_path, budget_dir=str(tmp_path / "budget-{silo}"), budget_name="wards")
    told = found(config, noise=1.0)
    assert all(one[0] == told[0][0] for one in told), told
    table, path = told[0]
    age, dose, sex, label = (
        np.concatenate(one) for one in zip(*map(exact.columns, range(SILOS)), strict=True)
    )
    known = age[~np.isnan(age)]
    numbers, categories = table["columns"][:2], table["columns"][2]
    noise = table["noise"]
    assert noise == pytest.approx(math.sqrt(2 * 2 + 4) * math.sqrt(4 / 3), rel=1e-3)
    assert table["samples"] == len(age)  # public where records are replaced
    off = [categories["counts"][one] - (sex == one).sum() for one in "fm"]
    off += [table["classes"][str(k)] - (label == k).sum() for k in range(2)]
    off += [numbers[0]["missing"] - np.isnan(age).sum(), numbers[0]["count"] - len(known)]
    counts, _ = np.histogram(known, numbers[0]["histogram"]["edges"])
    bins = np.array(numbers[0]["histogram"]["counts"])
    off += (bins - counts)[counts > 5 * noise].tolist()  # none of these is cut off at 0
    assert 0 < max(map(abs, off)) < 5 * noise
    for one, values in zip(numbers, (known, dose), strict=True):
        assert abs(one["mean"] - values.mean()) < 5 * one["mean_noise"]
    assert numbers[0]["deviation"] == pytest.approx(known.std(), abs=6)
    assert numbers[0]["quantiles"]["0.5"] == pytest.approx(np.median(known), abs=12)
    plan = StatisticsPlan(config.privacy, SILOS, 2, 2 * (8 + 3) + 4 + 2, 4, 1.0)
    cost = epsilon(plan.of_sum(SILOS), 1e-5, "pld")
    assert table["epsilon"] == pytest.approx(cost, rel=1e-6)
    for silo in range(SILOS):
        budget = BudgetFile(tmp_path / f"budget-{silo}" / "wards.budget.jsonl")
        budget.update()
        assert budget.runs == 1
    print_statistics(table, "stats.json")
    out = capsys.readouterr().out
    assert "every count: noise of deviation 3.2" in out
    assert "privacy: every example (replace-special" in out
    assert json.loads((path / "stats.json").read_text()) == table


def test_a_budget_without_room_reads_nothing(tmp_path):
    exact.written(tmp_path)
    config = config_of(
        tmp_path, budget_dir=str(tmp_path / "budget-{silo}"), budget_name="wards", budget_epsilon=1.0
    )
    told = found(config, noise=0.5)
    assert all(isinstance(one, StoppedError | ConfigError) for one in told), told
    assert "budget_epsilon, has no room" in str(told[0])
    elsewhere = {"run": {"dir": str(tmp_path / "other-{silo}"), "display": "none"}}
    told = found(config_of(tmp_path, elsewhere, max_epsilon=0.5), noise=0.5)
    assert "privacy.max_epsilon = 0.5 cannot be kept: the sums of silofl stats alone spend" in str(told[0])
    assert "raise --noise-multiplier, now 0.5" in str(told[0])


@pytest.mark.parametrize(
    ("privacy", "shown", "said"),
    [
        ({}, Shown(), "nothing says between which bounds 'age' is"),
        ({}, Shown(ranges={"age": (0.0, 120.0)}), "data.bounds has none of 'dose'"),
        ({"unit": "silo"}, SHOWN, 'privacy.unit = "silo" protects all that a silo has'),
    ],
)
def test_what_has_no_public_bounds_is_refused(tmp_path, privacy, shown, said):
    exact.written(tmp_path)
    more = {"privacy": {"unit": "silo", "noise_multiplier": 2.0}, "strategy": {"name": "fedavg"}}
    told = found(config_of(tmp_path, more if privacy else None, **privacy), shown)
    assert said in str(told[0])


def test_noise_without_privacy_is_refused(tmp_path):
    exact.written(tmp_path)
    told = found(exact.settings(tmp_path), noise=1.0)
    assert "--noise-multiplier is of noise under [privacy]" in str(told[0])


def words(rows, persons, unit="example"):
    """What a silo brings whose rows are (age, sex, label)."""
    rows = np.array(rows, np.float64).reshape(-1, 3)
    schema = [("age", "a number"), ("sex", "categories")]
    texts = {"sex": {0.0: "f", 1.0: "m", 2.0: "x"}}
    samples = Samples(rows[:, :2], rows[:, 2].astype(np.int64), schema, texts=texts)
    sexes = {"sex": ["f", "m", "missing", "other"]}
    table = NoisyTable(HEAD, Bounded(("age",), (60.0,), (60.0,)), sexes, 4)
    privacy = PrivacyConfig(unit=unit, neighbours="add-remove")
    own = OfTable(privacy, table, samples, None if persons is None else np.array(persons, np.int64), 1.0)
    plan = own.plan(SILOS)
    return np.array(own.words(plan), np.float64), plan


AGES = st.one_of(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 120.0, 1e300]), st.floats(-1e3, 1e3))
ROW = st.tuples(AGES, st.integers(0, 2), st.integers(0, 1))


@settings(max_examples=200, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=12), ROW)
def test_no_record_moves_the_sum_by_more_than_is_said(rows, row):
    before, plan = words(rows, None)
    after, _ = words([*rows, row], None)
    assert np.linalg.norm(after - before) <= plan.sensitivity
    assert np.abs(after - before).max() <= plan.unit


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(ROW, st.integers(0, 3)), min_size=1, max_size=12),
    st.lists(ROW, min_size=1, max_size=9),
)
def test_no_person_moves_it_by_more(rows, more):
    _, others = np.unique([person for _, person in rows], return_inverse=True)
    before, plan = words([row for row, _ in rows], others, "patient")
    person = [max(others) + 1] * len(more)
    after, _ = words([*(row for row, _ in rows), *more], [*others, *person], "patient")
    assert np.linalg.norm(after - before) <= plan.sensitivity


def test_a_record_is_worth_all_that_is_said():
    """So that the bound is no larger than it has to be."""
    before, plan = words([(60.0, 0, 0)], None)
    after, _ = words([(60.0, 0, 0), (120.0, 1, 1)], None)
    assert np.linalg.norm(after - before) == pytest.approx(plan.sensitivity)


@pytest.mark.parametrize(("low", "high", "bins"), [(0, 100, 10), (0, 120, 32), (-3, 7, 7), (0, 1, 10)])
def test_values_on_the_edges_that_are_told_are_in_their_bins(low, high, bins):
    table = NoisyTable(HEAD, Bounded(("age",), ((low + high) / 2,), ((high - low) / 2,)), {}, bins)
    schema = [("age", "a number")]
    none = Samples(np.zeros((0, 1)), np.zeros(0, np.int64), schema)
    told = table.told(none, np.zeros(2 + bins + 3 + 2 + 1), 0.0)
    edges = np.array(told["columns"][0]["histogram"]["edges"])
    values = np.concatenate([edges, np.nextafter(edges, -np.inf), np.arange(low, high + 1, 1.0)])
    samples = Samples(values[:, None], np.zeros(len(values), np.int64), schema)
    missing, below, *counts, above, _, _ = table.cells(samples, None, 1)
    assert counts == np.histogram(values, edges)[0].tolist()
    assert (missing, below, above) == (0, (values < edges[0]).sum(), (values > edges[-1]).sum())


def test_columns_without_names_are_each_their_own(tmp_path):
    rng = np.random.default_rng(0)
    for silo in range(SILOS):
        x = rng.normal([-5.0, 5.0], 1, (80, 2)).astype(np.float32)
        np.savez(tmp_path / f"{silo}.npz", x=x, label=rng.integers(0, 2, 80))
    data = {"data": {"path": str(tmp_path / "{silo}.npz")}}
    plain = found(exact.settings(tmp_path, **data), Shown())[0][0]
    elsewhere = {"run": {"dir": str(tmp_path / "other-{silo}"), "display": "none"}}
    private = found(config_of(tmp_path, elsewhere | data), Shown(ranges={"*": (-9.0, 9.0)}), noise=0.1)[0][0]
    for table in (plain, private):
        assert [one["mean"] for one in table["columns"]] == pytest.approx([-5, 5], abs=0.5)


@pytest.mark.long
def test_training_has_another_directory_where_one_is_named(tmp_path):
    """Or its ledger would be taken for one without them, and these for a run to resume."""
    exact.written(tmp_path)
    path = found(config_of(tmp_path))[0][1]
    assert path == tmp_path / "run-0-stats"
    assert not (tmp_path / "run-0").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sex", "'sex', which is no column of numbers, but of categories"),
        ("bmi", "'bmi', which is no column of"),
    ],
)
def test_ranges_are_of_columns_of_numbers(tmp_path, name, said):
    exact.written(tmp_path)
    assert said in str(found(config_of(tmp_path), Shown(ranges=SHOWN.ranges | {name: (0.0, 1.0)}))[0])


@pytest.mark.long
def test_targets_are_shown_as_their_head_has_them(tmp_path):
    """Of survival: times in bins, events counted; a record is worth one more partition, and its moments."""
    rng = np.random.default_rng(5)
    for silo in range(SILOS):
        rows = np.column_stack(
            [rng.normal(50, 9, 200), rng.uniform(1, 99, 200).round(1), rng.integers(0, 2, 200)]
        )
        (tmp_path / f"{silo}.csv").write_text(
            "\n".join(["age,days,died", *(",".join(map(str, row)) for row in rows.tolist())]) + "\n"
        )
    more = {
        "task": {"name": "files", "head": "survival", "intervals": [30, 60, 100]},
        "data": {"path": str(tmp_path / "{silo}.csv"), "target": ["days", "died"]},
    }
    shown = Shown(bins=5, ranges={"*": (0.0, 100.0)})
    table = found(config_of(tmp_path, more), shown, noise=0.3)[0][0]
    assert [one["name"] for one in table["columns"]] == ["age", "days", "died"]
    days, died = table["columns"][1:]
    noise = table["noise"]
    assert noise == pytest.approx(0.3 * math.sqrt(2 * 2 + 3) * math.sqrt(4 / 3), rel=1e-2)
    assert days["mean"] == pytest.approx(50, abs=5)
    assert sum(days["histogram"]["counts"]) == pytest.approx(800, abs=12 * noise)
    assert sum(died["counts"].values()) == pytest.approx(800, abs=8 * noise)
    assert "classes" not in table
