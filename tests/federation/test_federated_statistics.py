"""`silofl stats`: as of one pooled table, by sums that hide whose they are; also where a silo dies."""

import json

import numpy as np
import pytest

from silofl import config as configuration
from silofl.aggregation.secagg import SecAgg
from silofl.cli_stats import _parsed
from silofl.comm.protocol import SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError, SiloflError, StoppedError
from silofl.federation.federated_statistics import FILE, federated_statistics
from silofl.report.stats_table import print_statistics
from silofl.tasks.table_statistics import Shown, _numeric

SILOS = 4
SHOWN = Shown(ranges={"age": (0.0, 120.0)})


def columns(silo):
    rng = np.random.default_rng(silo)
    n = 60 + 20 * silo
    age = np.where(rng.random(n) < 0.1, np.nan, rng.normal(50 + 5 * silo, 12, n))
    dose = rng.lognormal(size=n) * 1e-6 + 1e3
    sex = rng.choice(["f", "m"], n)
    return age, dose, sex, rng.integers(0, 2, n)


def written(folder):
    for silo in range(SILOS):
        rows = zip(*columns(silo), strict=True)
        lines = [
            f"P{k},{'' if np.isnan(age) else repr(float(age))},{float(dose)!r},{sex},{label}"
            for k, (age, dose, sex, label) in enumerate(rows)
        ]
        (folder / f"{silo}.csv").write_text("\n".join(["no,age,dose,sex,label", *lines]) + "\n")


def settings(folder, **sections):
    tables = {
        "run": {"name": "m", "dir": str(folder / "run-{silo}"), "display": "none"},
        "task": {"name": "files", "classes": 2},
        "data": {"path": str(folder / "{silo}.csv"), "id": "no", "categorical": ["sex"], "least_count": 5},
        "failure": {"policy": "shrink"},
        **sections,
    }
    return configuration.parse(tables)


def found(config, shown=SHOWN):
    def rank(comm):
        try:
            return federated_statistics(config, shown, comm=comm)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=60)


def expect_right(table, silos):
    """Against NumPy on the pooled tables."""
    parts = [np.concatenate(one) for one in zip(*map(columns, silos), strict=True)]
    age, dose, sex, label = parts
    assert table["silos"] == list(silos)
    assert table["samples"] == len(age)
    assert table["classes"] == {str(k): int((label == k).sum()) for k in range(2)}
    by_name = {one["name"]: one for one in table["columns"]}
    assert list(by_name) == ["age", "dose", "sex"]
    assert by_name["sex"]["counts"] == {
        **{one: int((sex == one).sum()) for one in "fm"}, "missing": 0, "other": 0
    }  # fmt: skip
    for name, values in (("age", age[~np.isnan(age)]), ("dose", dose)):
        one = by_name[name]
        assert (one["count"], one["missing"]) == (len(values), len(age) - len(values))
        assert one["mean"] == pytest.approx(values.mean(), rel=1e-12)
        assert one["deviation"] == pytest.approx(values.std(ddof=1), rel=1e-9)
        edges = np.array(one["histogram"]["edges"])
        counts, _ = np.histogram(values, edges)
        told = one["histogram"]["counts"]
        assert all(seen in (None, c) for seen, c in zip(told, counts.tolist(), strict=True))
        assert all(seen is None for seen, c in zip(told, counts.tolist(), strict=True) if 0 < c < 5)
        for part, told in one["quantiles"].items():
            assert told == pytest.approx(np.quantile(values, float(part)), abs=np.diff(edges)[0])


def test_statistics_are_those_of_the_pooled_table_and_are_shown(tmp_path, capsys):
    written(tmp_path)
    tables = found(settings(tmp_path))
    table, path = tables[0]
    assert all(one[0] == table for one in tables)
    expect_right(table, range(SILOS))
    assert table["columns"][0]["histogram"]["edges"][::32] == [0.0, 120.0]
    assert json.loads((path / FILE).read_text()) == table
    assert not (tmp_path / "run-1" / FILE).exists()
    print_statistics(table, str(path / FILE))
    shown = capsys.readouterr().out
    assert "360 samples of 4 of 4 silos" in shown
    assert "sex: f 1" in shown


@pytest.mark.parametrize("call", [0, 4])
def test_a_silo_that_dies_is_left_out_or_nothing_more_is_read(tmp_path, monkeypatch, call):
    """Before any sum is read, and after the first, which has its numbers."""
    written(tmp_path)
    adding, calls = SecAgg.sum_scalars, []

    def dies(self, values, made_from=()):
        if self._sum.session.group.silo_id == 3:
            calls.append(1)
            if len(calls) > call // 2:
                raise SimulatedCrash
        return adding(self, values, made_from)

    monkeypatch.setattr(SecAgg, "sum_scalars", dies)
    *others, dead = found(settings(tmp_path))
    assert dead is None
    if call:
        assert all(isinstance(one, StoppedError) for one in others), others
        assert "silo 3 failed after a sum with its numbers was read" in str(others[0])
    else:
        for table, _ in others:
            expect_right(table, range(3))


def test_few_records_are_not_shown(tmp_path, capsys):
    written(tmp_path)
    table, _ = found(settings(tmp_path), Shown(least=400))[0]
    assert table["samples"] is None
    assert {one["mean"] for one in table["columns"][:2]} == {None}
    assert set(table["classes"].values()) == {None}
    print_statistics(table, "x")
    assert "<400 samples of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("counts", "seen"),
    [
        ([97, 3], [None, None]),  # else 100 less 97
        ([90, 7, 3, 0], [90, None, None, 0]),
        ([40, 5, 1, 6], [40, None, None, None]),  # 5 + 1 = 6 would leave one choice
        ([50, 1, 1], [None, None, None]),  # two that add up to 2
        ([50, 3, 4], [50, None, None]),
        ([50, 20, 0], [50, 20, 0]),
    ],
)
def test_sums_do_not_tell_hidden_counts(counts, seen):
    assert Shown(least=5).counts(counts) == seen


def test_quantiles_do_not_tell_hidden_counts():
    """They are a function of what is shown."""
    edges, shown = np.linspace(0, 6, 7), Shown(bins=6)
    tables = [
        _numeric(shown, 63, 63, (3, 1), np.array([0, *few, 20, 30, 8, 0, 0.0]), edges)
        for few in ((1, 4), (4, 1), (2, 3))
    ]
    assert tables[0]["histogram"]["counts"] == [None, None, 20, 30, None, 0]
    assert tables[0] == tables[1] == tables[2]


def test_what_cannot_be_shown_is_refused(tmp_path):
    written(tmp_path)
    for config, shown, sentence in (
        (configuration.parse({}), SHOWN, 'set task.name = "files"'),
        (settings(tmp_path), Shown(ranges={"bmi": (0, 9)}), "--range has 'bmi', which is no column of"),
    ):
        assert all(isinstance(one, ConfigError) and sentence in str(one) for one in found(config, shown))
    assert _parsed(["a=b=-1:2.5"]) == {"a=b": (-1.0, 2.5)}
    for text in ("age", "age=1", "age=2:1", "=1:2", "age=0:inf"):
        with pytest.raises(ConfigError, match="is not COLUMN=LOW:HIGH, such as age=0:120"):
            _parsed([text])


@pytest.mark.parametrize(
    ("other", "option"), [(Shown(bins=5), "--bins"), (Shown(ranges={"age": (0.0, 121.0)}), "--range")]
)
def test_ranks_that_ask_for_other_statistics_are_one_sentence(tmp_path, other, option):
    written(tmp_path)
    config = settings(tmp_path)

    def rank(comm):
        with pytest.raises(ConfigError, match=f"the same {option} on all ranks: .* on rank 2"):
            federated_statistics(config, other if comm.rank == 2 else Shown(), comm=comm)

    run_in_threads(SILOS, rank, timeout_s=60)
