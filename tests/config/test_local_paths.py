"""`{silo}` is the silo's number in every key that is a path, and in no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl import config as configuration
from silofl.config import LOCAL_KEYS, LOCAL_PATHS, Config
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Institution, Roster
from silofl.errors import ConfigError
from silofl.federation.loop import train
from tests.federation.threads import run_in_threads


def holding(text: str) -> Config:
    tables: dict[str, dict[str, str]] = {}
    for section, key in LOCAL_PATHS:
        tables.setdefault(section, {})[key] = text
    return configuration.parse(private(tables))


def private(tables: dict[str, dict[str, str]]) -> dict[str, Any]:
    """With what makes the paths of [privacy] do something."""
    privacy = {"unit": "example", "noise_multiplier": 1.0, **tables.get("privacy", {})}
    return {**tables, "privacy": privacy, "strategy": {"name": "fedsgd"}}


@pytest.mark.parametrize(("section", "key"), LOCAL_PATHS, ids=str)
def test_every_path(section: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/north")
    own = configuration.for_silo(holding("~/{silo}/of-{silo}"), 12)
    assert getattr(getattr(own, section), key) == "/home/north/12/of-12"
    assert getattr(getattr(configuration.for_silo(Config(), 3), section), key) == ""


@pytest.mark.parametrize(("section", "key"), LOCAL_PATHS, ids=str)
def test_variables_of_the_environment(section: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`$$` is a dollar sign, and one before anything else is itself."""
    monkeypatch.setenv("SCRATCH", "/fast/$HOME")
    monkeypatch.delenv("NOWHERE", raising=False)
    own = configuration.for_silo(holding("$SCRATCH/${SCRATCH}/{silo}/$$SCRATCH/5$/$1"), 2)
    assert getattr(getattr(own, section), key) == "/fast/$HOME/fast/$HOME/2/$SCRATCH/5$/$1"
    for text in ("$NOWHERE/x", "/a/${NOWHERE}"):
        config = configuration.parse(private({section: {key: text}}))
        with pytest.raises(
            ConfigError, match=rf"^{section}.{key} = .*silo 4 has no NOWHERE; set it, or write \$\$"
        ):
            configuration.for_silo(config, 4)


def test_a_home_folder_that_nobody_has() -> None:
    config = configuration.parse({"run": {"dir": "~no-such-user/run"}})
    with pytest.raises(ConfigError, match=r"^run.dir = .* no home folder for ~no-such-user; write"):
        configuration.for_silo(config, 0)


def test_relative_paths_stay_where_a_run_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with configuration.relative_to(tmp_path):
        monkeypatch.chdir("/")
        own = configuration.for_silo(holding("keys/{silo}"), 1)
        absolute = configuration.for_silo(holding("/keys/{silo}"), 1)
    for section, key in LOCAL_PATHS:
        assert getattr(getattr(own, section), key) == f"{tmp_path}/keys/1"
        assert getattr(getattr(absolute, section), key) == "/keys/1"
    assert configuration.for_silo(holding("keys"), 1).run.dir == "keys"


def test_a_run_directory_is_taken_as_the_command_line_has_it(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("")
    for text in ('it\'s \\n "quoted"', "x = 1", "'"):
        assert configuration.load(path, [], {"dir": text}).run.dir == text
    for overrides, run, key in (([], {"dir": "\udcff"}, "run.dir"), (["task.name=\udcff"], {}, "task.name")):
        with pytest.raises(ConfigError, match=rf"^{key} = '.udcff' is not UTF-8: rename it$"):
            configuration.load(path, overrides, run)


def test_what_is_no_path_stays() -> None:
    other = {
        ("run", "display"),
        ("run", "loggers"),
        ("train", "device"),
        ("data", "decimal"),
        ("data", "units"),
    }
    other |= {("train", "ranks_per_silo")}
    other |= {("privacy", key) for key in ("budget_name", "budget_epsilon", "budget_delta")}
    assert LOCAL_KEYS - set(LOCAL_PATHS) == other
    config = configuration.parse({"run": {"name": "{silo}", "dir": "~/{silo}"}})
    own = configuration.for_silo(config, 1)
    assert own.run.name == "{silo}"
    assert configuration.digest(own) == configuration.digest(config)


def test_a_run_of_silos_with_one_configuration(tmp_path: Path) -> None:
    """Every path of every silo is its own: all of them are read or written."""
    known = []
    for silo in range(3):
        (tmp_path / f"{silo}").mkdir()
        rng = np.random.default_rng(silo)
        np.savez(tmp_path / f"{silo}/data.npz", x=rng.normal(size=(40, 4)), y=np.arange(40) % 2)
        identity = Identity.generate()
        identity.save(tmp_path / f"{silo}/key.pem", b"%d" % silo)
        (tmp_path / f"{silo}/passphrase").write_text(f"{silo}\n")
        (tmp_path / f"{silo}/passphrase").chmod(0o600)
        known.append(Institution(f"institution {silo}", identity.public))
    for silo in range(3):
        (tmp_path / f"{silo}/roster.toml").write_text(Roster(tuple(known)).dumps())
    own = f"{tmp_path}/{{silo}}"
    config = configuration.parse(
        {
            "run": {"rounds": 1, "display": "none", "dir": f"{own}/run"},
            "task": {"name": "files", "model": "linear", "classes": 2},
            "data": {"path": f"{own}/data.npz"},
            "secure": {
                "identity": f"{own}/key.pem",
                "passphrase_file": f"{own}/passphrase",
                "roster": f"{own}/roster.toml",
            },
            "checkpoint": {"buddy": True, "key_file": f"{own}/buddy.key"},
        }
    )
    results = run_in_threads(3, lambda comm: train(config, comm=comm), timeout_s=110)
    assert [result["rounds"] for result in results] == [1] * 3
    for silo in range(3):
        assert (tmp_path / f"{silo}/buddy.key").exists()
        assert list((tmp_path / f"{silo}/run/checkpoints").iterdir())
    # What the run leaves behind starts it again: not with the paths of the silo that led.
    assert configuration.load(tmp_path / "0/run/config.toml").data.path == f"{own}/data.npz"
