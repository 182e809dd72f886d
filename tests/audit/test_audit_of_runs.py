"""An audit comes near to an honest claim, and finds each of four faults that make one false."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from torch import nn
from typer.testing import CliRunner

from silofl import config as configuration
from silofl.audit import audit as auditing
from silofl.audit.audit import audit
from silofl.audit.probes import Probed, probe
from silofl.cli import app
from silofl.config import Config
from silofl.crypto.noise_keys import NONCE_BYTES
from silofl.crypto.secret import Secret
from silofl.errors import ConfigError, StoppedError
from silofl.federation.privacy import pipeline
from silofl.tasks import files
from silofl.training.clipped import ClippedGradients
from tests.campaigns import mostly_long

SILOS, CANARIES = 3, 1500


def settings(path: Path, **sections: dict[str, Any]) -> Config:
    """Four steps on all records of three silos' files, with an epsilon of 4 against a silo."""
    rng = np.random.default_rng(0)
    for silo in range(SILOS):
        x = rng.normal(size=(60, 5)) * [1, 10, 1, 1, 1]
        table = np.column_stack([x, x[:, 0] > 0])
        np.savetxt(path / f"silo-{silo}.csv", table, "%.6g", ",", header="a,b,c,d,e,label", comments="")
    tables: dict[str, dict[str, Any]] = {
        "run": {"name": "audited", "rounds": 4, "dir": str(path / "run")},
        "task": {"name": "files", "classes": 2, "model": "linear"},
        "data": {"path": str(path / "silo-{silo}.csv")},
        "strategy": {"name": "fedsgd", "lr": 1.0},
        "secure": {"bits": 32},
        "privacy": {"unit": "example", "target_epsilon": 4.0, "sample_rate": 1.0},
    }
    for name, keys in sections.items():
        tables[name] = tables.get(name, {}) | keys
    return configuration.parse(tables)


@pytest.fixture
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "probe", lambda *given: Probed(0, 0.0, 0))


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def noise_of_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in every run of a test: nothing here happens by chance twice."""
    engine = "silofl.federation.privacy.engine"
    monkeypatch.setattr(f"{engine}.silo_key", lambda path, silo: Secret(bytes([silo + 1] * 32)))
    monkeypatch.setattr(f"{engine}.new_nonce", lambda: bytes(NONCE_BYTES))
    monkeypatch.setattr("silofl.federation.run_trust.new_run_id", lambda comm: "0" * 32)


SAMPLED = {"sample_rate": 0.5}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "distributed": (SILOS, {}),
    "central": (SILOS, {"privacy": {"place": "central"}}),
    "alone": (
        1,
        {"privacy": {"place": "local"}, "strategy": {"name": "fedavg", "lr": 1.0}, "train": {"steps": 2}},
    ),
    "momentum": (SILOS, {"strategy": {"name": "fedsgd", "momentum": 0.5}}),
    "there or not": (SILOS, {"privacy": {"neighbours": "add-remove", "records": 1700}}),
    "replaced": (SILOS, {"privacy": {"neighbours": "replace-one"}}),
    "mlp": (SILOS, {"task": {"model": "mlp", "hidden": [16]}}),
    "sampled": (SILOS, {"privacy": SAMPLED}),
    "16 bits": (SILOS, {"secure": {"bits": 16}}),
    "skellam": (SILOS, {"privacy": {"mechanism": "skellam"}}),
}


@pytest.mark.long
@pytest.mark.parametrize("case", mostly_long([*CASES], 0))
def test_an_honest_claim_is_nearly_reached_and_not_exceeded(
    tmp_path: Path, no_probes: None, case: str
) -> None:
    silos, sections = CASES[case]
    merged = {"privacy": {"unit": "example", "target_epsilon": 4.0, "sample_rate": 1.0}}
    found = audit(settings(tmp_path, **(merged | sections)), silos, CANARIES)
    assert found.holds
    assert (0.5 if case not in ("16 bits", "skellam", "sampled") else 0.35) * found.claimed < found.proven
    assert found.proven <= found.claimed <= 4.0
    assert 0 < found.proven_always <= found.claimed
    assert "consistent with the claim" in found.text()


@pytest.mark.long
def test_honest_claims_are_called_false_no_more_often_than_is_said(tmp_path: Path, no_probes: None) -> None:
    config = settings(tmp_path)
    assert sum(not audit(config, SILOS, 400, seed=seed).holds for seed in range(15)) <= 3


@pytest.mark.long
def test_half_the_noise_makes_the_claim_false(
    tmp_path: Path, no_probes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pipeline.TABLES["discrete-gaussian"]
    monkeypatch.setitem(pipeline.TABLES, "discrete-gaussian", lambda variance: table(variance / 4))
    found = audit(settings(tmp_path), SILOS, CANARIES)
    assert found.proven > found.claimed
    assert not found.holds
    assert "the claim is FALSE" in found.text()


def test_a_record_moves_nothing_but_its_own_gradient(tmp_path: Path) -> None:
    found = probed(tmp_path)
    assert found.holds
    assert found.norms > 0.9
    assert found.probes >= 8


def probed(path: Path) -> Probed:
    (path / "probes").mkdir()
    return probe(settings(path), 1, SILOS, str(path / "probes"), 0)


def test_scaling_by_a_silo_s_own_statistics_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = files.silo_data

    def standardized(features: Any, *rest: Any, **named: Any) -> Any:
        return whole((features - features.mean(axis=0)) / features.std(axis=0), *rest, **named)

    monkeypatch.setattr(files, "silo_data", standardized)
    found = probed(tmp_path)
    assert not found.holds
    assert found.norms > 2
    assert found.others > 10


def test_a_split_by_labels_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stratified(features: Any, labels: Any, fraction: float, seed: int) -> Any:
        """Every fifth of each class, in the order of the file."""
        ranks = np.array([np.sum(labels[:at] == label) for at, label in enumerate(labels)])
        return ranks % round(1 / fraction) == 0

    monkeypatch.setattr(files, "held_out", stratified)
    found = probed(tmp_path)
    assert not found.holds
    assert found.norms > 1.5
    assert found.others > 1


class Mixing(nn.Module):
    """A model whose examples meet: each is given what the others have in the mean."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x)
        return logits - logits.mean(dim=0)


def test_examples_that_meet_in_the_model_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = files.build_model
    monkeypatch.setattr(files, "build_model", lambda *given: Mixing(build(*given)))
    monkeypatch.setattr(ClippedGradients, "_prove", lambda self, index: True)  # which refuses such a model
    found = probed(tmp_path)
    assert not found.holds
    assert found.norms > 1.5
    assert found.others == 0


@pytest.mark.long
def test_the_command_says_it_and_leaves_what_there_was(
    tmp_path: Path, no_probes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path).model_dump(exclude_unset=True)
    (tmp_path / "audited.toml").write_text(tomli_w.dumps(config))

    def there() -> dict[str, str]:
        found = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    before = there()
    arguments = ["audit", str(tmp_path / "audited.toml"), "-n", "3", "--canaries", "100"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert there() == before
    assert "consistent with the claim" in done.output
    monkeypatch.setattr(auditing, "probe", lambda *given: Probed(1, 90.0, 0))
    told = tmp_path / "told.json"
    assert CliRunner().invoke(app, [*arguments, "--json", str(told)]).exit_code == 3
    assert json.loads(told.read_text())["verdict"] == "false"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no claim": ({"privacy": {"unit": "none"}}, 'privacy.unit is "none"'),
    "silos": ({"privacy": {"unit": "silo", "noise_multiplier": 1.0}}, 'privacy.unit is "silo"'),
    "images": ({"task": {"name": "digits", "model": "cnn"}}, "task.model"),
    "own task": ({"task": {"factory": "mine:Task"}}, "task.factory"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_audited_is_refused(tmp_path: Path, why: str) -> None:
    sections, said = REFUSED[why]
    config = settings(tmp_path)
    changed = {name: getattr(config, name).model_copy(update=keys) for name, keys in sections.items()}
    with pytest.raises(ConfigError, match=said):
        audit(config.model_copy(update=changed), SILOS, 100)


def test_ranks_without_data_are_refused(tmp_path: Path) -> None:
    tables = settings(tmp_path).model_dump(exclude_unset=True) | {"topology": {"name": "star"}}
    with pytest.raises(ConfigError, match=r'"star" has other ones: audit with topology.name = "sharded"'):
        audit(configuration.parse(tables), SILOS, 100)


def test_a_run_that_takes_too_long_ends(tmp_path: Path, no_probes: None) -> None:
    with pytest.raises(StoppedError, match="longer than"):
        audit(settings(tmp_path), SILOS, 100, timeout_s=0.01)
