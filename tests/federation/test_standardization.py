"""Statistics of all silos' columns: added up securely once, kept, told, and the same as of one table."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from silofl import config as configuration
from silofl.aggregation import protocols
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.threads import run_in_threads
from silofl.config import SecureConfig
from silofl.errors import ConfigError, SiloflError
from silofl.federation import standardization
from silofl.federation.dry_run import dry_run
from silofl.federation.loop import train
from silofl.federation.standardization import Statistics
from silofl.tasks import build
from silofl.tasks.column_agreement import agree_in_one_process
from silofl.tasks.preprocessing import ColumnRecipe, Preprocessing
from silofl.tasks.recipe_making import scaling_of
from silofl.tasks.scaling import Scaling

SILOS = 3


def table(silo):
    """Columns of other places and sizes at each silo: large ones that vary little, constants, tiny ones."""
    rng = np.random.default_rng(silo)
    x = rng.normal(size=(60 + 20 * silo, 4)) * [1e-3, 1 + silo, 0, 1e-9] + [1e9, 10 * silo, 7.1, 0]
    return np.column_stack([x, (x[:, 1] > 10 * silo)])


def written(folder, silos=SILOS):
    for silo in range(silos):
        header = "time,dose,fixed,tiny,label"
        np.savetxt(
            folder / f"{silo}.csv", table(silo), delimiter=",", header=header, comments="", fmt="%.17g"
        )


def settings(folder, rounds=2, **sections):
    tables = {
        "run": {"dir": str(folder / "run-{silo}"), "display": "none", "rounds": rounds},
        "task": {"name": "files", "classes": 2, "model": "linear"},
        "data": {"path": str(folder / "{silo}.csv"), "standardize": "federated"},
        "failure": {"policy": "shrink"},
        **sections,
    }
    return configuration.parse(tables)


def federate(config, silos=SILOS, *, own=False, **more):
    """What every silo has in the end, or the error that it raised; `own`: a program gives the task."""

    def rank(comm):
        try:
            return train(config, build(config) if own else None, comm=comm, **more)
        except SiloflError as error:
            return error

    return run_in_threads(silos, rank, timeout_s=60)


def training_rows(config, silos=SILOS):
    task = build(config)
    return np.concatenate([task.training_numbers(silo) for silo in range(silos)])


@pytest.mark.covering(0)
@pytest.mark.parametrize("protocol", ["plain", "secagg", "additive"])
def test_statistics_are_those_of_all_training_records_and_are_published(tmp_path, protocol):
    written(tmp_path)
    config = settings(tmp_path, secure={"protocol": protocol})
    summaries = federate(config)
    scaling = summaries[0]["scaling"]
    assert all(summary["scaling"] == scaling for summary in summaries)
    assert scaling["columns"] == ["dose", "fixed", "time", "tiny"]
    whole = training_rows(config).astype(np.longdouble)
    assert np.allclose(scaling["center"], whole.mean(axis=0).astype(float), rtol=3e-16, atol=1e-24)
    expected = np.where(np.ptp(whole, axis=0) > 0, whole.std(axis=0), 1).astype(float)
    assert np.allclose(scaling["scale"], expected, rtol=1e-13)
    written_down = json.loads((tmp_path / "run-0" / "summary.json").read_text())
    assert written_down["scaling"] == scaling


def test_every_silo_scales_by_the_same_and_trains_on_it(tmp_path):
    written(tmp_path)
    config, task = settings(tmp_path), build(settings(tmp_path))
    task.agree(Preprocessing.from_json(federate(config)[0]["preprocessing"]))
    x = np.concatenate([task.data(silo, SILOS).train.tensors[0] for silo in range(SILOS)]).astype(float)
    assert np.abs(x.mean(axis=0)).max() < 1e-4  # half a unit of 1e9 in the last place is so much of 1e-3
    assert np.allclose(x.std(axis=0), [1, 0, 1, 1], atol=1e-6)


def test_a_resume_and_a_silo_that_lost_its_folder_take_what_was_kept(tmp_path, monkeypatch):
    written(tmp_path)
    first = federate(settings(tmp_path))[0]["preprocessing"]
    kept = tmp_path / "run-1" / "silo-0001" / standardization.FILE
    assert json.loads(kept.read_text()) == first
    assert kept.stat().st_mode & 0o77 == 0
    kept.unlink()
    asked = []
    monkeypatch.setattr(standardization, "_added_up", lambda *_: asked.append(1))
    resumed = federate(settings(tmp_path, rounds=3), resume=True)
    assert [summary["preprocessing"] for summary in resumed] == [first] * SILOS
    assert resumed[0]["rounds"] == 3
    assert not asked
    assert json.loads(kept.read_text()) == first


def test_a_resume_refuses_statistics_that_differ_or_are_damaged(tmp_path):
    written(tmp_path)
    federate(settings(tmp_path))
    kept = tmp_path / "run-2" / "silo-0002" / standardization.FILE
    other = json.loads(kept.read_text())
    other["columns"][0]["center"] += 1e-6
    for text, sentence in (
        (json.dumps(other), "silo 2 has kept other statistics of this run's columns than silo 0: put"),
        ("{", "preprocessing.json is damaged, by which the columns of this run are scaled: put it back"),
    ):
        kept.write_text(text)
        errors = federate(settings(tmp_path, rounds=3), resume=True)
        assert all(sentence in str(error) for error in errors), errors


def test_a_silo_that_comes_back_believes_its_own_statistics(tmp_path):
    ours = Statistics(Preprocessing((ColumnRecipe("dose", center=0.5, scale=2.0),)))
    told = standardization.dumps(ours)
    assert standardization.of_returning(tmp_path, 1, told) == ours  # a lost folder: nothing to compare
    standardization.keep(tmp_path, 1, ours)
    assert standardization.of_returning(tmp_path, 1, told) == ours
    assert standardization.of_returning(tmp_path, 1, "") is None
    other = Statistics(Preprocessing((replace(ours.preprocessing.columns[0], scale=2.5),)))
    with pytest.raises(ConfigError, match=r"other statistics than silo 1 kept in silo-0001/prep"):
        standardization.of_returning(tmp_path, 1, standardization.dumps(other))


def test_other_columns_and_other_data_are_refused(tmp_path):
    written(tmp_path)
    federate(settings(tmp_path))
    for silo in range(SILOS):
        path = tmp_path / f"{silo}.csv"
        path.write_text(path.read_text().replace("dose", "weight"))
    errors = federate(settings(tmp_path, rounds=3), resume=True)
    assert all(
        "has other columns than those whose statistics this run began with" in str(one) for one in errors
    )
    written(tmp_path)
    path = tmp_path / "1.csv"
    path.write_text(path.read_text().replace("time,dose", "dose,time"))
    errors = federate(settings(tmp_path, rounds=3), resume=True)
    assert all("silo 1 has other" in str(one) for one in errors)


def test_a_silo_with_other_columns_is_refused_before_anything_is_added_up(tmp_path, monkeypatch):
    written(tmp_path)
    path = tmp_path / "1.csv"
    path.write_text(path.read_text().replace("dose", "Dose"))
    monkeypatch.setattr(standardization, "_added_up", None)
    for own in (False, True):
        config = settings(tmp_path, run={"dir": str(tmp_path / f"{own}-{{silo}}"), "display": "none"})
        errors = federate(config, own=own)
        assert all("the columns of silo 1 are not those of silo 0" in str(error) for error in errors), errors


def test_check_scales_as_the_run_would(tmp_path, monkeypatch):
    written(tmp_path)
    agreed = []
    monkeypatch.setattr(
        "silofl.federation.dry_run.agree_in_one_process",
        lambda *a: agreed.append(agree_in_one_process(*a)) or agreed[-1],
    )
    found = dry_run(settings(tmp_path), SILOS)
    assert sum(row.train_samples for row in found.silos) == len(training_rows(settings(tmp_path)))
    run = Scaling.of_json(federate(settings(tmp_path))[0]["scaling"])
    assert np.allclose(scaling_of(agreed[0]).scale, run.scale, rtol=1e-12)
    path = tmp_path / "1.csv"
    path.write_text(path.read_text().replace("dose", "Dose"))
    with pytest.raises(SiloflError, match="the columns of silo 1"):
        dry_run(settings(tmp_path), SILOS)


RESPAWNED = """
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
[secure]
protocol = "plain"
[failure]
rejoin_s = 30
inject = ["kill silo 2 round 2 at collect"]
"""


@pytest.mark.long
def test_a_respawned_silo_is_told_what_its_columns_are_scaled_by(start, tmp_path):
    written(tmp_path)
    (tmp_path / "m.toml").write_text(RESPAWNED)
    end = start(SILOS, "train", "m.toml", "--run", "run", ulfm=True).wait()
    assert end.code == 0, end.err
    assert "silo 2 rejoined after" in end.out, end.out + end.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rejoined"] == [[3, 2]]
    kept = tmp_path / "run" / "silo-0002" / standardization.FILE
    assert json.loads(kept.read_text()) == summary["preprocessing"]


def numbers(silo):
    """Of every size that a sum of squares of float32 can have."""
    rng = np.random.default_rng(silo)
    return rng.choice([-1, 1], 200) * np.ldexp(rng.random(200) + 1, rng.integers(-315, 270, 200))


@pytest.mark.covering(0)
@pytest.mark.parametrize("protocol", ["secagg", "additive"])
def test_sums_of_numbers_of_any_size_are_exact(protocol):
    def rank(comm):
        group = ElasticGroup(comm)
        spec = AggregationSpec((VectorSpec("x", 1),), np.dtype(np.float64), 1, 0, bytes(32), SILOS)
        aggregator = protocols.build(group, SecureConfig(protocol=protocol), spec)
        values = np.concatenate([numbers(comm.rank), [0.0, 2.0**279, -(2.0**-316)]])
        try:
            return standardization.exact_sums(aggregator, values)
        finally:
            aggregator.close()

    for sums in run_in_threads(SILOS, rank, timeout_s=60):
        exact = [sum(Fraction(float(numbers(silo)[k])) for silo in range(SILOS)) for k in range(200)]
        off = [abs(Fraction(float(one)) - right) for one, right in zip(sums[:200], exact, strict=True)]
        assert all(
            error <= Fraction(math.ulp(float(right))) + Fraction(3, 2**317)
            for error, right in zip(off, exact, strict=True)
        )
        assert sums[200:].tolist() == [0.0, SILOS * 2.0**279, -SILOS * 2.0**-316]


def test_data_without_names_of_columns_have_the_statistics_of_those_with_names() -> None:
    named = of_columns(("a", "b"))
    for columns, same in ((("", ""), True), (("a", "c"), False), (("",), False)):
        other = of_columns(columns)
        assert named.same_as(other) == other.same_as(named) == same
    assert not named.same_as(of_columns(("", ""), (1.0, 2.5)))


def of_columns(names, centers=(1.0, 2.0), scales=(1.0, 3.0)):
    columns = [
        ColumnRecipe(name, center=one, scale=two)
        for name, one, two in zip(names, centers, scales, strict=False)
    ]
    return Statistics(Preprocessing(tuple(columns)))
