"""Configurations: what is written is what is read, and every mistake is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from silofl import config as configuration
from silofl.config import LOCAL_KEYS, RESUMABLE_KEYS, Config, settings
from silofl.errors import ConfigError
from tests.conftest import ROOT

OTHERS: list[dict[str, Any]] = [
    {},
    {"run": {"name": "other", "rounds": 7, "seed": 3}, "train": {"lr": 0.25, "momentum": 0.9}},
    {"secure": {"protocol": "plain"}, "failure": {"inject": ["kill silo 1 round 2 at train"]}},
    {"task": {"name": "synthetic", "model": "linear", "hidden": [3, 4]}, "data": {"path": "x-{silo}.npz"}},
]


@pytest.mark.parametrize("tables", OTHERS, ids=str)
def test_what_is_dumped_is_read_back(tmp_path: Path, tables: dict[str, Any]) -> None:
    config = configuration.parse(tables)
    (tmp_path / "again.toml").write_text(configuration.dump(config))
    again = configuration.load(tmp_path / "again.toml")
    assert again == config
    assert configuration.digest(again) == configuration.digest(config)


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.toml")), ids=lambda path: path.stem)
def test_files_that_come_with_silofl_are_read(path: Path) -> None:
    assert settings.load(path).of(0).run.name


def test_a_run_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[run]\nrounds = 3\n")
    assert configuration.load(tmp_path / "mine.toml").run.name == "mine"
    assert configuration.load(tmp_path / "mine.toml", ["run.name=yours"]).run.name == "yours"


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.lr=0.125", "train", "lr", 0.125),
        (" run.rounds = 9 ", "run", "rounds", 9),
        ("secure.protocol=plain", "secure", "protocol", "plain"),
        ('secure.protocol="plain"', "secure", "protocol", "plain"),
        ("run.name=a=b", "run", "name", "a=b"),
        ("task.hidden=[5, 6]", "task", "hidden", (5, 6)),
        ("failure.inject=[]", "failure", "inject", ()),
        ("train.options.nesterov=true", "train", "options", {"dampening": 0, "nesterov": True}),
        ("task.options.config.layers=2", "task", "options", {"config": {"layers": 2}}),
    ],
)
def test_overrides(tmp_path: Path, override: str, section: str, key: str, value: Any) -> None:
    (tmp_path / "a.toml").write_text("[run]\nrounds = 3\n[train.options]\ndampening = 0\n")
    found = getattr(getattr(configuration.load(tmp_path / "a.toml", [override]), section), key)
    assert (tuple(found) if isinstance(found, list) else found) == value


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lrr=0.1", ["unknown key train.lrr", "did you mean train.lr?"]),
        ("trian.lr=0.1", ["unknown section trian", "did you mean train?"]),
        ('train.lr="fast"', ["train.lr = 'fast'", "valid number"]),
        ("'train.lr=0.1'", ["has a quote before its key", "app file", "write section.key=value without"]),
        ("train.lr", ["--set 'train.lr'", "section.key=value"]),
        ("lr=1", ["--set 'lr=1'", "section.key=value"]),
        ("task..kind=1", ["--set 'task..kind=1'", "section.key=value"]),
        ("run.rounds.more=1", ["--set 'run.rounds.more=1': run.rounds is not a table"]),
        ("run.rounds=-1", ["run.rounds = -1"]),
        ("strategy.name=fedfoo", ["strategy.name = 'fedfoo'", "fedavg"]),
        ("failure.inject=['kill silo one']", ["kill silo one"]),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, override: str, words: list[str]) -> None:
    (tmp_path / "a.toml").write_text("[run]\nrounds = 3\n")
    with pytest.raises(ConfigError) as refused:
        configuration.load(tmp_path / "a.toml", [override])
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"), [(None, "give an existing TOML file"), ("[run", "is not valid TOML")]
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "a.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        configuration.load(path)


def changed(config: Config, section: str, key: str) -> Config:
    """Another configuration, of which nothing asks whether it could run."""
    table = getattr(config, section)
    other = table.model_copy(update={key: "another value"})
    return config.model_copy(update={section: other})


EVERY_KEY = [(section, key) for section, table in Config().model_dump().items() for key in table]


@pytest.mark.parametrize(("section", "key"), EVERY_KEY, ids=str)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_key_is_the_same_on_all_ranks_or_local(section: str, key: str) -> None:
    config = Config()
    other = changed(config, section, key)
    local, resumable = (section, key) in LOCAL_KEYS, (section, key) in RESUMABLE_KEYS
    assert (configuration.digest(other) == configuration.digest(config)) == local
    said = configuration.first_difference(other, config.model_dump(mode="json"))
    assert said.startswith(f"{section}.{key} is " if not local else "")
    assert bool(said) != local
    same = configuration.resumption_tables(other) == configuration.resumption_tables(config)
    assert same == (local or resumable)
