"""Every key is documented, on the page that is made from the types, in the schema and by the command."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from silofl import config as configuration
from silofl.aggregation.protocols import PROTOCOLS
from silofl.cli import app
from silofl.config import Config, reference, synonyms
from silofl.config.mistakes import FAMILIES, MEANT
from silofl.config.reference import Key
from silofl.errors import ConfigError
from silofl.tasks.registry import TASKS
from silofl.topologies.arrangements.registry import ARRANGEMENTS
from silofl.topologies.registry import TOPOLOGIES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "configuration.md"


def every_key() -> Iterator[Key]:
    for section in Config.model_fields:
        yield from reference.keys(section)


def test_every_key_has_a_sentence_and_a_type() -> None:
    keys = list(every_key())
    assert not [key.full for key in keys if len(key.doc.split()) < 3 or not key.doc.endswith((".", ";"))]
    assert not [key.full for key in keys if not (key.kind or key.choices)]
    known = {(key.section, key.name) for key in keys}
    for section, field in Config.model_fields.items():
        kinds = FAMILIES.get(section, {"": field.annotation}).values()
        assert {(section, name) for kind in kinds for name in kind.model_fields} <= known  # type: ignore[union-attr]


def test_the_page_is_the_one_that_the_types_make() -> None:
    assert PAGE.read_text() == reference.markdown(), "run: silofl config --markdown > docs/configuration.md"


@pytest.mark.parametrize(("key", "members"), [("task.name", TASKS), ("secure.protocol", PROTOCOLS)])
def test_names_of_what_there_is_are_told(key: str, members: dict[str, Any]) -> None:
    doc = next(one.doc for one in every_key() if one.full == key)
    assert [name for name in members if f"`{name}`" not in doc] == []


def test_every_topology_has_an_arrangement_whose_keys_are_told() -> None:
    assert set(TOPOLOGIES) == set(FAMILIES["topology"]) == set(ARRANGEMENTS)


@pytest.mark.parametrize(
    ("key", "kind", "choices", "default"),
    [
        ("run.rounds", "integer above 0", (), "20"),
        ("run.participation", "number above 0 and at most 1", (), "1"),
        ("secure.recompute", "integer from 0 to 2", (), "1"),
        ("secure.bits", "one of", ("8", "16", "32"), "16"),
        ("train.momentum", "number at least 0 and below 1", (), "unset"),
        ("train.drop_last", "one of", ("true", "false"), "false"),
        ("task.hidden", "list of integers above 0", (), "[64]"),
        ("data.center", "table of numbers by name", (), "{}"),
        ("data.standardize", "one of", ("false", '"federated"'), "false"),
        ("strategy.mu", "number at least 0", (), "0.1"),
    ],
)
def test_types_are_told_in_words(key: str, kind: str, choices: tuple[str, ...], default: str) -> None:
    found = next(one for one in every_key() if one.full == key)
    assert (found.kind, found.choices, found.default) == (kind, choices, default)


def test_the_command_tells_of_sections_and_keys_and_of_what_there_is_not() -> None:
    def told(*arguments: str) -> str:
        return CliRunner().invoke(app, ["config", *arguments]).output

    assert all(f"[{section}]" in told() for section in Config.model_fields)
    assert "train.lr = 0.05" in told("train")
    assert told("train.lr").splitlines()[0] == "train.lr = 0.05"
    assert "of fedprox" in told("strategy.mu")
    assert "each institution's own" in told("data.path")
    assert told("--markdown") == reference.markdown()
    for name, said in (
        ("trian", "there is no section 'trian': did you mean train?"),
        ("train.lrr", "[train] has no key 'lrr': did you mean train.lr?"),
        ("zzz", "there is no section 'zzz': there are run, task,"),
        ("topology.zzz", "[topology] has no key 'zzz': it has name"),
    ):
        with pytest.raises(ConfigError) as refused:
            reference.listing(name)
        assert str(refused.value).startswith(said)
    assert isinstance(CliRunner().invoke(app, ["config", "train", "--schema"]).exception, ConfigError)


def test_editors_are_given_a_schema_that_takes_what_is_right_and_nothing_else() -> None:
    validator = pytest.importorskip("jsonschema").Draft7Validator(schema := reference.schema())
    validator.check_schema(schema)
    files = [*ROOT.glob("launch/*.toml"), *ROOT.glob("examples/*.toml")]
    assert len(files) >= 5
    right = [tomllib.loads(path.read_text()) for path in files]
    right += [
        {"strategy": {"lr": 0.5}},
        {"strategy": {"name": "fedprox", "mu": 1}},
        {"train": {"schedule": "cosine"}, "run": {"keep_best": "auc"}},
        {"train": {"schedule": {"name": "cosine", "warm_up": 2}}, "run": {"keep_best": {"metric": "auc"}}},
        {"task": {"name": "files"}, "data": {"standardize": True}},
    ]
    for tables in right:
        shared = {name: table for name, table in tables.items() if name != "institution"}
        configuration.parse(shared)
        assert list(validator.iter_errors(tables)) == []
    for wrong in (
        {"train": {"lrr": 0.1}},
        {"trian": {}},
        {"train": {"lr": "fast"}},
        {"train": {"lr": 0}},
        {"strategy": {"mu": 1}},
        {"strategy": {"name": "fedprx"}},
        {"secure": {"bits": 12}},
        {"run": {"stop_when": {"metric": "auc"}}},
        {"institution": [{"name": "north", "train": {"lr": 1}}]},
    ):
        assert list(validator.iter_errors(wrong)), wrong
    described = schema["$defs"]["TrainConfig"]["properties"]
    assert all(one["description"] for one in described.values())


def sentence(tables: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        configuration.parse(tables)
    return str(refused.value)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"train": {"learning_rate": 1}}, "unknown key train.learning_rate: did you mean train.lr?"),
        ({"strategy": {"learning_rate": 1}}, "unknown key strategy.learning_rate: did you mean train.lr?"),
        ({"train": {"epsilon": 1}}, "did you mean privacy.target_epsilon (noise"),
        ({"train": {"seed": 1}}, "unknown key train.seed: did you mean run.seed?"),
        ({"run": {"random_state": 1}}, "did you mean run.seed?"),
        ({"run": {"batch-size": 1}}, "did you mean train.batch_size?"),
        ({"run": {"num_clients": 3}}, "did you mean -n of silofl launch, or one [[institution]]"),
        ({"data": {"test_size": 0.1}}, "did you mean data.test_fraction?"),
        ({"train": {"quokka": 1}}, "unknown key train.quokka: [train] has epochs, steps, "),
        ({"training": {"lr": 1}}, "unknown section training: did you mean train?"),
        ({"dp": {}}, "unknown section dp: did you mean privacy?"),
        ({"quokka": {}}, "unknown section quokka: there are run, task, "),
        ({"learning_rate": 1}, "learning_rate stands in no section: did you mean train.lr?"),
        ({"rounds": 1}, "rounds stands in no section: did you mean run.rounds?"),
        ({"quokka": 1}, "quokka stands in no section: write it below one of [run], [task], "),
    ],
)
def test_usual_names_are_understood_and_nothing_far_off_is_suggested(
    tables: dict[str, Any], said: str
) -> None:
    assert said in sentence(tables)


def test_a_name_of_a_member_is_suggested_only_when_near() -> None:
    assert "did you mean 'fedprox'?" in sentence({"strategy": {"name": "FedProx"}})
    assert "did you mean" not in sentence({"strategy": {"name": "quokka"}})


def test_what_is_suggested_is_there() -> None:
    known = {key.full for key in every_key()}
    targets = list(synonyms.KEYS.values())
    targets += [
        name if "." in name else f"{section}.{name}"
        for section, table in MEANT.items()
        for name in table.values()
    ]
    assert not [name for name in targets if " " not in name and name not in known]
    assert set(synonyms.SECTIONS.values()) <= {*Config.model_fields, "institution"}
    assert not synonyms.SECTIONS.keys() & Config.model_fields.keys()


def test_the_schema_is_printed() -> None:
    assert json.loads(CliRunner().invoke(app, ["config", "--schema"]).output) == reference.schema()


@pytest.mark.parametrize("name", ["lr", "learning_rate"])
def test_a_key_without_its_section_is_found(name: str) -> None:
    with pytest.raises(ConfigError, match=r"but a key train\.lr: silofl config train\.lr tells of it"):
        reference.listing(name)
