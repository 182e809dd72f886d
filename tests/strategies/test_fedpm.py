"""FedPM against a plain reference: in the clear, masked, resumed, with silos lost and back; and its bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError
from silofl.federation.dry_run import dry_run
from silofl.federation.loop import train
from silofl.strategies.fedpm import FedPM
from silofl.training.seeding import derive
from tests.campaigns import mostly_long
from tests.federation import rejoining
from tests.federation.threads import prepare, records
from tests.strategies.naive import CLASSES, INPUTS, Array
from tests.strategies.two_tasks import SIZES, TwoTasks, silos, starts

ALL = tuple(range(len(SIZES)))
VICTIM, FAILS, BACK, ROUNDS, STEPS, LR = 2, 4, 6, 8, 3, 20.0
WITHOUT = tuple(silo for silo in ALL if silo != VICTIM)
SECURE, PLAIN = {"protocol": "secagg"}, {"protocol": "plain"}


def settings(path: Path, secure: Any = SECURE, rounds: int = ROUNDS, **sections: Any) -> Any:
    return configuration.parse(
        {
            "run": {"name": "m", "dir": str(path), "display": "none", "rounds": rounds},
            "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"},
            "strategy": {"name": "fedpm"},
            "secure": secure,
        }
        | sections
    )


def federate(config: Any, *, resume: bool = False, task: Any = TwoTasks) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, task(), comm=comm, resume=resume)

    return run_in_threads(len(SIZES), rank, timeout_s=60)


def model_of(path: Path) -> Array:
    return np.asarray(load_file(path / "model.safetensors")["weight"])


def network(gain: float = 1.0) -> Array:
    drawn = starts(0, 1)[0].reshape(CLASSES, INPUTS)
    return np.asarray(np.sign(drawn) * gain * np.sqrt(2 / INPUTS))


def masks_of(probability: Array, weights: Array, silo: int, number: int) -> Array:
    """The mask of one silo after a round's steps: gradients of a softmax regression, by hand."""
    x, y = silos()[silo]
    draws = torch.Generator().manual_seed(derive(derive(0, silo, number), 1, 0))
    scores = torch.logit(torch.from_numpy(probability).ravel())
    for _ in range(STEPS):
        kept = torch.sigmoid(scores)
        masked = weights * torch.bernoulli(kept, generator=draws).numpy().reshape(weights.shape)
        out = x @ masked.T
        likely = np.exp(out - out.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        likely[np.arange(len(y)), y] -= 1
        gradient = torch.from_numpy((likely.T @ x / len(y) * weights).ravel())
        scores = scores - LR * gradient * kept * (1 - kept)
    return torch.bernoulli(torch.sigmoid(scores), generator=draws).numpy().reshape(weights.shape)


def reference(present: Any, *, gain: float = 1.0, memory: float = 0.0, floor: float = 0.02) -> Array:
    """The mean network after rounds with the silos that are `present` in each."""
    weights = network(gain)
    probability = np.full_like(weights, 0.5)
    for number, here in enumerate(present, 1):
        begun = np.clip(probability, floor, 1 - floor)
        masks = [masks_of(begun, weights, silo, number) for silo in here]
        probability = memory * probability + (1 - memory) * np.mean(masks, axis=0)
    return probability * weights


SUMS: list[Any] = [SECURE, PLAIN, {"protocol": "additive", "committee": 3}]
KEYS: list[dict[str, Any]] = [{}, {"gain": 1.4, "memory": 0.5, "floor": 0.1}]


@pytest.mark.long
@pytest.mark.parametrize("secure", mostly_long(SUMS, 0), ids=str)
@pytest.mark.parametrize("keys", mostly_long(KEYS, 1), ids=str)
def test_the_mean_network_is_that_of_the_reference(tmp_path: Path, secure: Any, keys: Any) -> None:
    results = federate(settings(tmp_path, secure, strategy={"name": "fedpm", **keys}))
    assert len({one["model_sha256"] for one in results}) == 1
    expected = reference([ALL] * ROUNDS, **keys)
    assert np.abs(expected - 0.5 * network(keys.get("gain", 1.0))).max() > 0.1
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-12)


@pytest.mark.long
def test_probabilities_are_counts_over_silos(tmp_path: Path) -> None:
    """Whatever their samples, and with no rounding."""
    federate(settings(tmp_path, rounds=1))
    assert set(np.unique(model_of(tmp_path) / network() * 4)) <= {0.0, 1.0, 2.0, 3.0, 4.0}


@pytest.mark.long
@pytest.mark.parametrize("at", mostly_long(["train", "collect first", "step", "allgather"], 2))
def test_a_silo_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    prepare(monkeypatch)
    failure = {"policy": "shrink", "inject": [f"kill silo {VICTIM} round {FAILS} at {at}"]}
    results = federate(settings(tmp_path, failure=failure))
    assert [silo for silo, result in enumerate(results) if result is None] == [VICTIM]
    present = [tuple(line["survivors"]) for line in records(tmp_path)]
    assert present[FAILS:] == [WITHOUT] * (ROUNDS - FAILS)
    np.testing.assert_allclose(model_of(tmp_path), reference(present), rtol=0, atol=1e-12)


@pytest.mark.long
def test_a_silo_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    failure = {"policy": "respawn", "inject": [f"kill silo {VICTIM} round {FAILS} at train"]}
    config = settings(tmp_path, failure=failure)
    results = rejoining.federate(monkeypatch, config, TwoTasks, len(SIZES), VICTIM, after=BACK - 1)
    assert len({result["model_sha256"] for result in results}) == 1
    present = [WITHOUT if FAILS <= number < BACK else ALL for number in range(1, ROUNDS + 1)]
    assert [tuple(line["survivors"]) for line in records(tmp_path)] == present
    np.testing.assert_allclose(model_of(tmp_path), reference(present), rtol=0, atol=1e-12)


@pytest.mark.long
def test_it_is_resumed_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    faults = {"inject": [f"kill silo {silo} round 4 at train" for silo in ALL]}
    killed, never = tmp_path / "killed", tmp_path / "never"
    assert federate(settings(killed, rounds=6, failure=faults)) == [None] * len(SIZES)
    federate(settings(killed, rounds=6), resume=True)
    federate(settings(never, rounds=6))
    assert (model_of(killed) == model_of(never)).all()


@pytest.mark.long
def test_silos_that_sit_a_round_out_are_not_counted(tmp_path: Path) -> None:
    run = {"name": "m", "dir": str(tmp_path), "display": "none", "rounds": ROUNDS, "silos_per_round": 3}
    federate(settings(tmp_path, run=run))
    drawn = [line["drawn"] for line in records(tmp_path)]
    np.testing.assert_allclose(model_of(tmp_path), reference(drawn), rtol=0, atol=1e-12)


def test_four_bits_a_weight_travel_in_both_directions() -> None:
    """Three quarters of the counts up and three quarters down, beside less than 20 kB of keys."""
    task = {"name": "digits", "model": "mlp", "hidden": [512, 512]}
    config = configuration.parse({"strategy": {"name": "fedpm"}, "task": task})
    payload = 301_066 * 4 / 8 * 2 * 3 / 4
    assert payload < dry_run(config, 4).bytes_sent_per_round < payload + 20_000


def test_the_network_has_one_magnitude_a_matrix_and_signs_of_the_untrained_model() -> None:
    strategy = FedPM(floor=0.1)
    tensors = [np.array([[0.3, -0.2, 2.0, 1.0]], np.float32), np.array([0.7, -0.7], np.float32)]
    begun = strategy.begin(tensors)
    size = np.float32(np.sqrt(2 / 4))
    assert begun["network"].tolist() == [size, -size, size, size, np.float32(0.7), np.float32(-0.7)]
    assert (begun["model"] == begun["network"] / 2).all()


class Normalized(TwoTasks):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(INPUTS, CLASSES), nn.BatchNorm1d(CLASSES))


def test_weights_that_are_zero_are_given_a_sign() -> None:
    """A head that begins with zeros, or a row of padding, would be no network whatever is learnt."""
    network = FedPM().begin([np.zeros((40, 30), np.float32), np.array([[0.0, -2.0]])])["network"]
    assert (network != 0).all()
    assert 300 < (network[:1200] > 0).sum() < 900
    assert network[-1] < 0


def test_a_model_with_buffers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'"fedpm" evaluates the mean .* buffers such as 1\.running_mean'):
        federate(settings(tmp_path, rounds=1), task=Normalized)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"compress": {"bits": 8}}, r'"fedpm" sends one bit a weight, .* \[compress\] rounds: remove it'),
        (
            {"privacy": {"unit": "silo", "noise_multiplier": 1.0}},
            r'"fedpm" sends masks, which \[privacy\] can',
        ),
        ({"personal": {"name": "ditto"}}, r'"fedpm" trains no parameter, and personal\.name = "ditto" would'),
        ({"strategy": {"name": "fedpm", "floor": 0.4}}, r"strategy\.floor = 0\.4 is not allowed: .* 0\.25"),
        ({"strategy": {"name": "fedpm", "gain": 0}}, r"strategy\.gain = 0 is not allowed"),
        ({"strategy": {"name": "fedpm", "memory": 1}}, r"strategy\.memory = 1 is not allowed"),
        ({"train": {"dtype": "bfloat16"}}, r'"fedpm" trains scores, .* set train\.dtype = "float32"'),
    ],
    ids=str,
)
def test_what_does_not_go_with_masks_is_refused(sections: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        configuration.parse({"strategy": {"name": "fedpm"}} | sections)
