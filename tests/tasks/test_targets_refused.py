"""Targets that are no classes: read from every kind of file, or refused in one sentence without a value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl.config import parse
from silofl.errors import ConfigError, DataError
from silofl.tasks import build
from silofl.tasks.recipe_making import Agreed
from silofl.tasks.scaling import Scaling
from tests.tasks.heads import MORE, TARGETS, columns

GOOD = "a,b,t,e\n" + "1,2,5,1\n3,1,7,0\n" * 4
"""A table that is taken by any head, with targets t and e."""
OF = {"regression": "t", "multilabel": ["t", "e"], "survival": ["t", "e"]}


def task(path: Path, head: str, data: dict[str, Any] | None = None, **more: Any) -> Any:
    chosen = {**MORE[head], **more}
    given = {"path": str(path), "target": OF[head], **(data or {})}
    return build(parse({"task": {"name": "files", "head": head, "model": "linear", **chosen}, "data": given}))


WRONG = "mine.csv (silo 1) cannot be trained on: column "
BAD = {
    ("regression", "1,1,much,1\n"): (
        f"{WRONG}'t' has 1 value(s) that are not numeric (line 10): correct them, or remove those rows"
    ),
    ("regression", "1,1,,1\n1,1,nan,0\n1,1,inf,0\n"): (
        f"{WRONG}'t' has 2 missing value(s) (lines 10 to 11) and column 't' has 1 value(s) that are "
        "infinite or too large for float32 (line 12): correct them, or remove those rows"
    ),
    ("survival", "1,1,-4711,1\n"): (
        f"{WRONG}'t' has 1 negative time(s) (line 10): correct them, or remove those rows"
    ),
    ("survival", "1,1,4,2\n"): (
        f"{WRONG}'e' has 1 value(s) that are not 0 or 1 (line 10): correct them, or remove those rows"
    ),
    (
        "survival",
        "1,1,4,\n",
    ): f"{WRONG}'e' has 1 missing value(s) (line 10): correct them, or remove those rows",
    ("multilabel", "1,1,1,0\n"): (
        f"{WRONG}'t' has 8 value(s) that are not 0 or 1 (lines 2 to 9): correct them, or remove those rows"
    ),
}


@pytest.mark.parametrize(("head", "rows"), BAD)
def test_a_target_that_cannot_be_learnt_is_one_sentence(tmp_path: Path, head: str, rows: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(GOOD + rows)
    with pytest.raises(DataError) as caught:
        task(path, head).data(1, 3)
    said = str(caught.value)
    assert said.removeprefix(f"{tmp_path}/") == BAD[head, rows]
    assert "4711" not in said
    assert "much" not in said


def test_a_target_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(GOOD.replace(",e\n", ",f\n"))
    with pytest.raises(DataError, match="there is no label column 'e' among the 4 name"):
        task(path, "survival").data(1, 3)
    (tmp_path / "images" / "yes").mkdir(parents=True)
    from PIL import Image

    Image.new("L", (4, 4)).save(tmp_path / "images" / "yes" / "1.png")
    with pytest.raises(DataError, match="a folder of images, whose folders are classes"):
        task(tmp_path / "images", "regression").data(1, 3)


REFUSED = {
    "target = ['t'] names 1 column": ("multilabel", {"target": ["t"]}, {}),
    "names 2 columns, and task.head = 'regression' learns one": ("regression", {"target": ["t", "e"]}, {}),
    "has 1 column(s), and task.head = 'survival' learns of two": ("survival", {"target": "t"}, {}),
    "needs intervals of time: set task.intervals": ("survival", {}, {"intervals": None}),
    "are not 1 to 50 intervals with ascending ends": ("survival", {}, {"intervals": [3.0, 2.0]}),
    "task.classes is set, and task.head = 'regression' makes nothing": ("regression", {}, {"classes": 2}),
    "task.intervals is set, and task.head = 'multilabel'": ("multilabel", {}, {"intervals": 3}),
    "is wrong about 'e' and 'x'": ("multilabel", {}, {"class_weights": {"t": 1.0, "x": 2.0}}),
}


@pytest.mark.parametrize("said", REFUSED)
def test_keys_that_do_not_fit_the_head_are_refused(tmp_path: Path, said: str) -> None:
    head, data, more = REFUSED[said]
    with pytest.raises(ConfigError, match=re.escape(said)):
        task(tmp_path, head, data, **more)


def test_cox_is_refused_by_name_and_others_by_what_there_is(tmp_path: Path) -> None:
    for head, said in (("cox", "records meet in risk sets"), ("regresion", "did you mean 'regression'?")):
        with pytest.raises(ConfigError, match=re.escape(said)):
            build(parse({"task": {"name": "files", "head": head}, "data": {"path": "x.csv"}}))


CONFLICTS = {
    "task.head are about files, and task.name": {"task": {"head": "regression"}},
    '"balanced" counts records, and privacy.unit = "example" has no noise': {
        "task": {"name": "files", "class_weights": "balanced"}
    },
    'task.intervals = 4 takes the times of events, and privacy.unit = "example"': {
        "task": {"name": "files", "head": "survival", "intervals": 4}
    },
    'train.dtype = "bfloat16" rounds the target': {
        "task": {"name": "files", "head": "regression"},
        "train": {"dtype": "bfloat16"},
    },
    "data.drop would make the target ['t', 'e']": {
        "task": {"name": "files", "head": "survival"},
        "data": {"target": ["t", "e"], "drop": ["e"]},
    },
    "would scale columns twice": {
        "task": {"name": "files", "head": "regression"},
        "data": {"target": "t", "standardize": True, "center": {"t": 1.0, "a": 2.0}},
    },
}


@pytest.mark.parametrize("said", CONFLICTS)
def test_what_contradicts_other_sections_is_refused(said: str) -> None:
    private = {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.1}
    more: dict[str, Any] = (
        {"privacy": private, "strategy": {"name": "fedsgd"}} if "privacy.unit" in said else {}
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse({**CONFLICTS[said], **more})


@pytest.mark.parametrize("head", ["regression", "multilabel", "survival"])
def test_every_kind_of_file_gives_the_same_targets(tmp_path: Path, head: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    table, target = columns(head, 0), TARGETS[head]
    names = [target] if isinstance(target, str) else target
    features = sorted(set(table) - set(names))
    x = np.column_stack([table[name] for name in features])
    text = ",".join(table) + "\n"
    text += "".join(
        ",".join(map(repr, row)) + "\n" for row in zip(*(v.tolist() for v in table.values()), strict=True)
    )
    (tmp_path / "a.csv").write_text(text)
    parquet.write_table(arrow.table(table), tmp_path / "a.parquet")
    arrays = {name: table[name] for name in names}
    np.savez(tmp_path / "named.npz", x=x, columns=np.array(features), **arrays)
    np.savez(tmp_path / "y.npz", x=x, columns=np.array(features), y=np.column_stack([*arrays.values()]))
    (tmp_path / "parts.csv").mkdir()
    lines = text.splitlines()
    for part in range(2):
        rows = [lines[0], *lines[1 + 60 * part : 61 + 60 * part]]
        (tmp_path / "parts.csv" / f"{part}.csv").write_text("\n".join(rows) + "\n")
    expected = np.column_stack([*arrays.values()]).astype(float)
    for name in ("a.csv", "a.parquet", "named.npz", "y.npz", "parts.csv"):
        samples = task(tmp_path / name, head, {"target": target}).read(0)
        assert np.array_equal(samples.labels, expected), name
        assert [one for one, _ in samples.schema] == features
        assert np.array_equal(samples.features, x)


def test_a_target_has_a_unit_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(GOOD)
    made = task(tmp_path / "mine.csv", "regression", {"units": {"t": "days", "a": "kg"}})
    assert made.read(0).targets == (("t", "target in days"),)
    assert made.schema()[0] == ("a", "numbers in kg")


def test_constants_of_a_target_go_before_statistics_of_features(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(GOOD)
    data = {"standardize": True, "center": {"t": 4}, "scale": {"t": 2}}
    made = task(tmp_path / "mine.csv", "regression", data)
    made.read(0)
    made.agree(made.recipe(Agreed(Scaling(("a", "b", "e"), (0.0,) * 3, (1.0,) * 3))))
    targets = np.concatenate([part.tensors[1] for part in made.data(0, 1)])
    assert set(targets[:, 0].tolist()) <= {0.5, 1.5}
    weights = {"class_weights": {"t": 1, "e": 3}}
    assert task(tmp_path / "mine.csv", "multilabel", **weights).head.recipe.weights == (1.0, 3.0)
