"""Statistics of columns under [privacy]: bounded, noisy, counted before they are seen, made once in a run."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from silofl.aggregation import protocols
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import SecureConfig
from silofl.federation.dry_run import dry_run
from silofl.federation.privacy.noisy_statistics import NoisyStatistics, OfColumns
from silofl.federation.run_statement import statement_of_run
from silofl.privacy.column_statistics import StatisticsPlan
from silofl.privacy.plan import method_for
from tests.campaigns import mostly_long
from tests.federation.noisy_columns import (
    HIGH,
    LOW,
    SILOS,
    clipped_rows,
    entries,
    federate,
    of_statistics,
    settings,
    table,
    written,
)

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
        found = noisy.reduce(
            lambda: protocols.build(group, SecureConfig(), spec), OfColumns(config.privacy, own, 30)
        )
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
