"""Many clients in each silo of a federation: sums, resumes, returns, and what protects each client."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import SiloflError
from silofl.federation.dry_run import dry_run
from silofl.federation.loop import train
from silofl.federation.silo import Silo
from tests.conftest import Start
from tests.federation import rejoining
from tests.federation.test_new_samples import Growing, Lines, final_model, records
from tests.federation.threads import prepare

SILOS = 3
CLIENTS: dict[str, Any] = {"per_silo": 4}
PRIVATE: dict[str, Any] = {"unit": "client", "sample_rate": 0.5, "place": "central", "delta": 1e-2}


def settings(path: Path, rounds: int = 3, **sections: Any) -> Config:
    return configuration.parse(
        {
            "run": {"name": "clients", "dir": str(path), "display": "none", "rounds": rounds},
            "train": {"dtype": "float64", "full_batch": True, "steps": 2, "lr": 0.05},
            "secure": {"protocol": "plain"},
            "clients": CLIENTS,
            **sections,
        }
    )


def federate(config: Config, kind: type[Lines] = Lines, *, resume: bool = False) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            return train(config, kind(), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=60)


def split_of(config: Config, silo: int) -> Any:
    clients = Silo(config, Lines(), silo, SILOS, "cpu").clients
    assert clients is not None
    return clients._split, clients


def changes(config: Config, silo: int, model: Any) -> list[Any]:
    """What gradient descent makes of each client's records, less the model it began with."""
    split, _ = split_of(config, silo)
    x, y = records(silo, 0)
    found = []
    for client in range(len(split)):
        mine, values = split.records(client), model.copy()
        for _ in range(2):
            values -= 0.05 * 2 / len(mine) * x[mine].T @ (x[mine] @ values - y[mine])
        found.append(values - model)
    return found


def test_a_federation_is_the_naive_one(tmp_path: Path) -> None:
    """Means within silos by clients' records, and between them by silos'."""
    config = settings(tmp_path, clients=CLIENTS | {"per_round": 2})
    assert federate(config)[0]["rounds"] == 3
    model = np.zeros(3)
    for number in range(1, 4):
        updates, counts = [], []
        for silo in range(SILOS):
            split, clients = split_of(config, silo)
            drawn, every = clients.drawn(number), changes(config, silo, model)
            updates.append(np.average([every[one] for one in drawn], axis=0, weights=split.sizes[drawn]))
            counts.append(len(records(silo, 0)[0]))
        model = model + np.average(updates, axis=0, weights=counts)
    assert np.abs(final_model(tmp_path) - model).max() < 1e-10


def test_a_resume_draws_the_same_clients(tmp_path: Path) -> None:
    own = CLIENTS | {"per_round": 2}
    whole = federate(settings(tmp_path / "whole", clients=own))[0]
    federate(settings(tmp_path / "cut", 1, clients=own))
    resumed = federate(settings(tmp_path / "cut", clients=own), resume=True)[0]
    assert resumed["model_sha256"] == whole["model_sha256"]


@pytest.mark.parametrize("place", ["central", pytest.param("local", marks=pytest.mark.long)])
def test_the_mean_is_of_clipped_updates_over_as_many_as_are_expected(tmp_path: Path, place: str) -> None:
    """With hardly any noise, and all clients in every round."""
    privacy = PRIVATE | {"noise_multiplier": 1e-3, "sample_rate": 1.0, "place": place, "clip_norm": 0.1}
    config = settings(tmp_path, 1, privacy=privacy, secure={"protocol": "secagg", "bits": 32})
    assert federate(config)[0]["rounds"] == 1
    clipped = [
        change * min(1.0, 0.1 / np.linalg.norm(change))
        for silo in range(SILOS)
        for change in changes(config, silo, np.zeros(3))
    ]
    # The grid of sums has steps of 1.3e-4, and the noise of rounding to it a deviation of 4e-4.
    assert np.abs(final_model(tmp_path) - np.mean(clipped, axis=0)).max() < 4e-3


def test_epsilon_is_that_of_the_sampled_gaussian(tmp_path: Path) -> None:
    """By dp-accounting alone, of as many rounds; it amplifies, and the claim says what is protected."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.privacy_accountant import NeighboringRelation

    def expected(rate: float) -> float:
        event = PoissonSampledDpEvent(rate, GaussianDpEvent(1.5))
        accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
        return float(accountant.compose(SelfComposedDpEvent(event, 20)).get_epsilon(2e-2))

    privacy = PRIVATE | {"noise_multiplier": 1.5, "sample_rate": 0.2, "delta": 2e-2}
    config = settings(tmp_path, 20, privacy=privacy, secure={"protocol": "secagg"}, task={"model": "linear"})
    config = configuration.parse(config.model_dump(exclude_unset=True) | {"clients": {"per_silo": 30}})
    found = dry_run(config, SILOS)
    assert found.privacy.startswith("every client (replace-special: all records of a client replaced by")
    epsilon = float(found.privacy.partition("epsilon ")[2].split()[0])
    assert epsilon == pytest.approx(expected(0.2), rel=2e-3)
    assert epsilon < 0.5 * expected(1.0)
    assert any("is not below one over the 90 clients" in note for note in found.notes)
    assert found.clients.startswith(
        "30 in each silo, each in a round with probability 0.2, by a coin that no"
    )


def test_what_a_run_has_spent_is_in_its_ledger(tmp_path: Path) -> None:
    """Of every silo, by the same releases; and a resume with more rounds goes on from there."""
    sections = {"privacy": PRIVATE | {"noise_multiplier": 2.0}, "secure": {"protocol": "secagg"}}
    federate(settings(tmp_path, 1, **sections))
    first = json.loads((tmp_path / "summary.json").read_text())["epsilon"]
    whole = federate(settings(tmp_path, 2, **sections), resume=True)[0]
    assert whole["epsilon"] > first > 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epsilon"] for line in lines] == sorted(line["epsilon"] for line in lines)


@pytest.mark.long
@pytest.mark.parametrize("kind", [Lines, Growing])
def test_a_silo_that_returns_has_its_clients_and_all_that_came(
    kind: type[Lines], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for what came while it was away, so that all count it by what it has now."""
    prepare(monkeypatch)
    failure = {"policy": "respawn", "inject": ["kill silo 1 round 2 at train"]}
    config = settings(tmp_path, 5, failure=failure, secure={"protocol": "secagg", "bits": 32})
    results = rejoining.federate(monkeypatch, config, kind, 4, 1, after=3)
    assert [one["model_sha256"] for one in results] == [results[0]["model_sha256"]] * 4
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [len(line["survivors"]) for line in lines] == [4, 3, 3, 4, 4]


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


MEMORY = """
import sys, torch
torch.set_num_threads(1)
import numpy as np
from torch.utils.data import TensorDataset
from silofl import config as configuration
from silofl.federation.local_work import RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.fedavg import FedAvg
from silofl.tasks.base import SiloData
from tests.federation.test_silo_clients import Wide, peak_mib

clients, batched = int(sys.argv[1]), sys.argv[2] == "together"
tables = {"clients": {"per_silo": clients, "batched": batched}, "train": {"full_batch": True, "steps": 1}}
silo = Silo(configuration.parse(tables), Wide(), 0, 1, "cpu")
values, count = silo.initial(), silo.model.trainable
silo.fit(RoundStart({"model": values[:count]}, values[count:], 1, FedAvg()))
print(peak_mib())
"""


class Wide(Lines):
    """A model of 100 000 values, and as many records as there may be clients."""

    def model(self) -> Any:
        return torch.nn.Linear(100_000, 1, bias=False)

    def data(self, silo: int, silos: int) -> Any:
        from silofl.tasks.base import SiloData

        x = torch.zeros(4000, 1).expand(4000, 100_000)  # no memory of its own before a batch has it
        return SiloData(Rows(x), None)


class Rows:
    """Samples that are made when they are read."""

    def __init__(self, x: Any) -> None:
        self._x = x

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> Any:
        return self._x[index] + index, torch.tensor(1.0)


@pytest.mark.long
def test_memory_does_not_grow_with_clients(tmp_path: Path) -> None:
    import subprocess

    def peak(clients: int) -> float:
        command = [sys.executable, "-c", MEMORY, str(clients), "alone"]
        return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)

    few, many = peak(200), peak(4000)
    assert many < few + 20  # MiB; 4000 models would be 1500


@pytest.mark.long
def test_a_thousand_clients_on_four_ranks(start: Start, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(
        '[run]\nrounds = 20\ndisplay = "plain"\n[clients]\nper_silo = 250\nper_round = 25\n'
        "[train]\nepochs = 5\nbatch_size = 4\nlr = 0.1\n"
    )
    done = start(4, "train", "m.toml", "--run", "run").wait(120)
    assert done.code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rounds"] == 20
    assert summary["accuracy"] > 0.6
    assert summary["seconds"] < 60
    assert load_file(tmp_path / "run" / "model.safetensors")
