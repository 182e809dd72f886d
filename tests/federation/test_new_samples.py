"""Samples that come between rounds: who trains on them, by how many a silo counts, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import ChangedDataError, ConfigError, DataError, SiloflError
from silofl.federation.loop import train
from silofl.federation.silo import Silo
from silofl.tasks.base import SiloData

FEATURES, SILOS, ROUNDS = 3, 3, 4
Array = NDArray[np.float64]


def records(silo: int, round_number: int) -> tuple[Array, Array]:
    """What silo `silo` has from the start (0), or what comes in a round; some get nothing in some."""
    rng = np.random.default_rng([silo, round_number])
    count = 5 + silo if round_number == 0 else (silo * round_number) % 3
    return rng.standard_normal((count, FEATURES)), rng.standard_normal(count)


def dataset(silo: int, round_number: int) -> TensorDataset:
    return TensorDataset(*map(torch.from_numpy, records(silo, round_number)))


class Lines:
    """Linear regression."""

    def model(self) -> nn.Module:
        linear = nn.Linear(FEATURES, 1, bias=False)
        nn.init.zeros_(linear.weight)
        return linear

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(dataset(silo, 0), dataset(silo, 0))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.losses(model, batch).mean()

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]).squeeze(-1) - batch[1]) ** 2

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


class Growing(Lines):
    def arrived(self, silo: int, round: int) -> TensorDataset | None:
        return dataset(silo, round) if len(records(silo, round)[0]) else None


class Forgetful(Growing):
    """A task that gives something else of the second round the second time."""

    def arrived(self, silo: int, round: int) -> TensorDataset | None:
        return super().arrived(silo, 5 if round == 2 else round)


def settings(path: Path, **sections: Any) -> Config:
    tables: dict[str, Any] = {
        "run": {"name": "growing", "dir": str(path), "display": "none", "rounds": ROUNDS},
        "train": {"dtype": "float64", "full_batch": True, "steps": 2, "lr": 0.05},
        "secure": {"protocol": "plain"},
    }
    for name, keys in sections.items():
        tables[name] = tables.get(name, {}) | keys
    return configuration.parse(tables)


def federate(config: Config, kind: type[Lines] = Growing, *, resume: bool = False) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            return train(config, kind(), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=60)


def naive(rounds: int) -> Array:
    """FedAvg by the samples that there are in each round."""
    model = np.zeros(FEATURES)
    for number in range(1, rounds + 1):
        trained, counts = [], []
        for silo in range(SILOS):
            parts = [records(silo, one) for one in range(number + 1)]
            x, y = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
            mine = model.copy()
            for _ in range(2):
                mine -= 0.05 * 2 / len(x) * x.T @ (x @ mine - y)
            trained.append(mine)
            counts.append(len(x))
        model = np.average(trained, axis=0, weights=counts)
    return model


def final_model(path: Path) -> Array:
    from safetensors.numpy import load_file

    return load_file(path / "model.safetensors")["weight"].reshape(-1).astype(np.float64)


@pytest.mark.parametrize(("protocol", "close"), [("plain", 1e-10), ("secagg", 1e-6)])
def test_silos_count_by_the_samples_that_they_have(tmp_path: Path, protocol: str, close: float) -> None:
    secure = {"protocol": protocol, **({"bits": 32} if protocol == "secagg" else {})}
    first = federate(settings(tmp_path / "run", secure=secure))[0]
    assert first["rounds"] == ROUNDS
    assert np.abs(final_model(tmp_path / "run") - naive(ROUNDS)).max() < close


def test_a_resume_asks_again_for_what_had_come(tmp_path: Path) -> None:
    whole = federate(settings(tmp_path / "whole"))[0]
    federate(settings(tmp_path / "cut", run={"rounds": 2}))
    resumed = federate(settings(tmp_path / "cut"), resume=True)[0]
    assert resumed["model_sha256"] == whole["model_sha256"]


def test_what_is_not_the_same_again_is_refused_or_accepted(tmp_path: Path) -> None:
    federate(settings(tmp_path, run={"rounds": 2}))
    refused = federate(settings(tmp_path), Forgetful, resume=True)
    assert all(isinstance(one, ChangedDataError) for one in refused)
    assert "silo 1 has other data than the run was trained on" in str(refused[0])
    accepted = federate(settings(tmp_path, data={"accept_changes": True}), Forgetful, resume=True)
    assert accepted[0]["rounds"] == ROUNDS


@pytest.mark.long
def test_a_record_that_was_there_from_the_start_has_what_is_said(tmp_path: Path) -> None:
    """Epsilon is that of as many rounds, whatever came; later records have less, which nothing states."""
    privacy = {"unit": "example", "noise_multiplier": 2.0, "sample_rate": 0.5, "place": "central"}
    sections = {"privacy": privacy | {"delta": 1e-2}, "strategy": {"name": "fedsgd"}}
    sections |= {"train": {"full_batch": False, "steps": None}, "secure": {"protocol": "secagg"}}
    grown, still = (
        federate(settings(tmp_path / kind.__name__, **sections), kind)[0] for kind in (Growing, Lines)
    )
    assert grown["epsilon"] == pytest.approx(still["epsilon"], rel=1e-6)
    ledger = [json.loads(line) for line in (tmp_path / "Growing" / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in ledger] == [1, 2, 3, 4]


def test_clients_have_their_part_of_what_comes(tmp_path: Path) -> None:
    """One client in each silo is the silo; several are as many as before, with more records."""
    federate(settings(tmp_path / "one", clients={"per_silo": 1}))
    assert np.abs(final_model(tmp_path / "one") - naive(ROUNDS)).max() < 1e-10
    assert (
        federate(settings(tmp_path / "some", clients={"per_silo": 4, "per_round": 2}))[0]["rounds"] == ROUNDS
    )


class Other(Growing):
    def arrived(self, silo: int, round: int) -> TensorDataset | None:
        return TensorDataset(torch.zeros(2, FEATURES))


def test_samples_of_another_kind_are_refused_on_all_ranks(tmp_path: Path) -> None:
    refused = federate(settings(tmp_path), Other)
    assert all(isinstance(one, DataError) for one in refused)
    assert "gave other samples than its data(silo, silos): let both give a TensorDataset" in str(refused[0])


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"clients": {"split": "owner"}}, 'and clients.split = "owner" has to know whose each is'),
        ({"train": {"ranks_per_silo": 2}}, "has other ranks with data of their own"),
        (
            {"strategy": {"name": "streaming_diloco", "fragments": 1}, "train": {"steps": 5}},
            "has a sum for each fragment",
        ),
        ({"topology": {"name": "star"}}, 'arrived.* and topology.name = "star" weighs silos by those of the'),
        ({"topology": {"name": "gossip"}}, 'topology.name = "gossip" weighs silos by those of the start'),
        ({"topology": {"name": "asynchronous"}}, 'topology.name = "asynchronous" weighs silos by'),
    ],
)
def test_what_needs_all_records_at_the_start_is_refused(sections: dict[str, Any], said: str) -> None:
    class Owned(Growing):
        def data(self, silo: int, silos: int) -> SiloData:
            given = super().data(silo, silos)
            return SiloData(given.train, given.test, np.arange(len(given.train)))

    with pytest.raises(ConfigError, match=said):
        Silo(configuration.parse(sections), Owned(), 0, 3, "cpu")


def test_a_fit_of_what_is_there_goes_with_a_coordinator() -> None:
    class Fitting(Lines):
        def fit(self, model: nn.Module, data: Any, round: int) -> None:
            pass

    assert Silo(configuration.parse({"topology": {"name": "star"}}), Fitting(), 0, 3, "cpu").samples == 5
