"""Silos whose columns are not the others': all ranks end with one sentence that names silo and columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import EXIT_BAD_INPUT, ConfigError, MismatchError
from silofl.federation.dry_run import dry_run
from silofl.federation.loop import train
from silofl.federation.schema import agree_on_schema, schema_mismatch
from silofl.tasks.base import SiloData
from silofl.tasks.column_kinds import Schema
from tests.federation.threads import settings as plain_settings

NUMBERS = "numbers"
REMEDY = (
    "give columns the same names, kinds and units at every silo, or name those that only some have in "
    "data.drop, or those to take in data.columns"
)
USUAL = [("age", NUMBERS), ("bmi", NUMBERS), ("crp", NUMBERS)]


def named(*names: str, kind: str = NUMBERS) -> Schema:
    return [(name, kind) for name in names]


DIFFERENT: list[tuple[Schema, str]] = [
    (
        named("bmi", "\u0430ge", "crp"),
        "it has '\u0430ge', it has no 'age', "
        "'\u0430ge' is spelt '\\u0430ge', with other letters or signs than it looks",
    ),
    (named("BMI", "age", "crp"), "it has 'BMI', it has no 'bmi', capital letters make another name"),
    (named("age", "crp"), "it has no 'bmi'"),
    (named("age", "bmi", "crp", "id"), "it has 'id'"),
    (named("age", "bmi", "ldh"), "it has 'ldh', it has no 'crp'"),
    ([*USUAL[:2], ("crp", "truth values")], "'crp' has truth values and not numbers"),
    ([*USUAL[:2], ("crp", "numbers in mg/l")], "'crp' has numbers in mg/l and not numbers"),
    (named("bmi", "age", "crp"), "they are in another order, 'bmi' where 'age' should be"),
    (named("image", kind="greys from 0 to 1"), "it has 'image', it has no 'age', 'bmi', 'crp'"),
    (named("", ""), "it has 2 and not 3, of which not all have a name"),
    ([], "it has no 'age', 'bmi', 'crp'"),
]


def everywhere(schemas: Sequence[Schema]) -> list[Any]:
    """What every rank gets: notices, or the error."""

    def rank(comm: Communicator) -> Any:
        try:
            return agree_on_schema(comm, schemas[comm.rank])
        except MismatchError as error:
            return error

    return run_in_threads(len(schemas), rank, timeout_s=20)


@pytest.mark.parametrize(("schema", "said"), DIFFERENT, ids=range(len(DIFFERENT)))
@pytest.mark.parametrize("odd", [0, 2])
def test_all_ranks_raise_the_same(schema: Schema, said: str, odd: int) -> None:
    schemas: list[Schema] = [USUAL] * 3
    schemas[odd] = schema
    ends = everywhere(schemas)
    usual = 0 if odd else 1
    assert {str(error) for error in ends} == {
        f"the columns of silo {odd} are not those of silo {usual}: {said}; {REMEDY}"
    }
    assert {(error.rank, error.exit_code) for error in ends} == {(odd, EXIT_BAD_INPUT)}


def test_every_silo_that_differs_is_told_and_long_lists_are_cut() -> None:
    wide = named(*(f"c{k}" for k in range(100)))
    schemas = dict(enumerate([wide] * 7 + [named(f"x{k}") for k in range(6)]))
    sentence = str(schema_mismatch(schemas))
    assert "silo 7 are not those of silo 0: it has 'x0', it has no 'c0', 'c1', 'c2', " in sentence
    assert "'c7' and 92 more" in sentence
    assert "nor are those of 2 more silos; give" in sentence
    assert len(sentence) < 1000


def test_images_of_other_kinds_are_told_with_the_key_that_helps() -> None:
    kinds = ["greys from 0 to 1", "greys from 0 to 1", "colours from 0 to 1"]
    assert str(schema_mismatch({k: named("image", kind=kind) for k, kind in enumerate(kinds)})) == (
        "the columns of silo 2 are not those of silo 0: 'image' has colours from 0 to 1 and not greys from 0 "
        "to 1; set task.channels to read all as grey or all in colour, or give images of one type at every "
        "silo"
    )


def test_the_same_columns_and_data_without_names() -> None:
    assert everywhere([USUAL] * 3) == [[]] * 3
    assert everywhere([[]] * 3) == [[]] * 3
    taken = "silo 1 gives no names of columns: its 3 are taken for 'age', 'bmi', 'crp', in this order"
    assert everywhere([USUAL, named("", "", ""), USUAL]) == [[taken]] * 3


def write(path: Path, names: str, scale: float = 1.0, silo: int = 0) -> None:
    rng = np.random.default_rng(silo)
    rows = [f"{30 + k + rng.random():.3f},{20 + k % 9},{scale * (1 + k % 3)},{k % 2}" for k in range(30)]
    path.write_text(f"{names},label\n" + "\n".join(rows) + "\n")


def settings(folder: Path, **data: Any) -> configuration.Config:
    return configuration.parse(
        {
            "run": {"rounds": 2, "display": "none", "dir": str(folder / "run")},
            "task": {"name": "files", "model": "linear", "classes": 2},
            "data": {"path": str(folder / "silo-{silo}.csv"), **data},
            "failure": {"policy": "abort"},
        }
    )


def test_a_run_and_its_check_refuse_tables_that_differ(tmp_path: Path) -> None:
    for silo, names in enumerate(("age,bmi,crp", "age,bmi,crp", "age,BMI,crp")):
        write(tmp_path / f"silo-{silo}.csv", names, silo=silo)
    config = settings(tmp_path)

    def rank(comm: Communicator) -> tuple[str, int | None]:
        with pytest.raises(MismatchError) as caught:
            train(config, comm=comm)
        return str(caught.value), caught.value.rank

    ends = run_in_threads(3, rank, timeout_s=60)
    assert len(set(ends)) == 1
    assert "silo 2 are not those of silo 0: it has 'BMI', it has no 'bmi'" in ends[0][0]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    with pytest.raises(MismatchError) as caught:
        dry_run(config, 3)
    assert str(caught.value) == ends[0][0]


def test_silos_that_declare_other_units_are_refused_at_the_start(tmp_path: Path) -> None:
    for silo in range(3):
        write(tmp_path / f"silo-{silo}.csv", "age,bmi,crp", silo=silo)

    def rank(comm: Communicator) -> str:
        config = settings(tmp_path, units={"crp": "g/l" if comm.rank == 1 else "mg/l"})
        with pytest.raises(MismatchError) as caught:
            train(config, comm=comm)
        return str(caught.value)

    assert set(run_in_threads(3, rank, timeout_s=60)) == {
        "the columns of silo 1 are not those of silo 0: 'crp' has numbers in g/l and not numbers in mg/l; "
        f"{REMEDY}"
    }


def test_another_number_of_columns_is_told_by_its_names_and_not_by_the_model(tmp_path: Path) -> None:
    write(tmp_path / "silo-0.csv", "age,bmi,crp")
    (tmp_path / "silo-1.csv").write_text("age,bmi,label\n1,2,0\n2,3,1\n1,2,1\n")
    with pytest.raises(MismatchError, match="silo 1 are not those of silo 0: it has no 'crp'"):
        dry_run(settings(tmp_path), 2)


def test_other_orders_of_the_same_names_are_the_same_columns(tmp_path: Path) -> None:
    write(tmp_path / "silo-0.csv", "age,bmi,crp")
    write(tmp_path / "silo-1.csv", "crp,age,bmi")
    assert dry_run(settings(tmp_path), 2).columns == "age, bmi, crp (numbers)"


@pytest.mark.covering(0)
@pytest.mark.parametrize(("scale", "said"), [(1000.0, "1,000 times larger"), (0.1, "10 times smaller")])
def test_a_check_notes_columns_that_seem_to_have_other_units(tmp_path: Path, scale: float, said: str) -> None:
    for silo in range(3):
        write(tmp_path / f"silo-{silo}.csv", "age,bmi,crp", scale if silo == 1 else 1.0, silo)
    notes = dry_run(settings(tmp_path), 3).notes
    assert len(notes) == 1
    assert notes[0].startswith(f"column 'crp' of silo 1 has values about {said} than other silos'")
    assert dry_run(settings(tmp_path, standardize="federated"), 3).notes == notes


class Described:
    """A user's task of two columns, which tells of them in the order that it has them in."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema

    def schema(self) -> Any:
        return self._schema

    def model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(TensorDataset(torch.ones(8, 2), torch.arange(8) % 2))

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, float]:
        return {}


def test_a_user_s_task_may_tell_its_columns(tmp_path: Path) -> None:
    config = plain_settings(tmp_path, run={"rounds": 1})

    def rank(comm: Communicator) -> str:
        names = ("bmi", "age") if comm.rank == 1 else ("age", "bmi")
        with pytest.raises(MismatchError) as caught:
            train(config, Described(named(*names)), comm=comm)
        return str(caught.value)

    said = "silo 1 are not those of silo 0: they are in another order, 'bmi' where 'age' should be"
    assert all(said in sentence for sentence in run_in_threads(3, rank, timeout_s=60))


@pytest.mark.parametrize("schema", [["age", "bmi"], [("age", 1)], None, 5])
def test_a_user_s_columns_that_are_no_pairs_of_text(tmp_path: Path, schema: Any) -> None:
    config = plain_settings(tmp_path, run={"rounds": 1})

    def rank(comm: Communicator) -> None:
        with pytest.raises(ConfigError, match="method schema must return pairs of text"):
            train(config, Described(schema), comm=comm)

    run_in_threads(2, rank, timeout_s=60)
