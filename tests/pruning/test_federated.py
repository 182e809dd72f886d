"""Federations of threads with [prune], against NumPy: in the clear, masked, compressed, with a return."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import ProtocolError
from silofl.federation.global_mask import GlobalMask
from silofl.federation.loop import train
from tests.campaigns import mostly_long
from tests.federation import rejoining
from tests.federation.test_rejoining import tree_of
from tests.federation.threads import prepare, records
from tests.pruning.naive import ALL, LR, ROUNDS, SHAPES, SIZES, Array, D, Pull, pruned_fedavg

SILOS = len(SIZES)
VICTIM, FAILS, BACK = 2, 3, 6
BEHIND = FAILS - 2
WITHOUT = tuple(silo for silo in ALL if silo != VICTIM)
MAGNITUDE = {"name": "magnitude", "density": 0.25, "end": 7}
FEEDBACK = {"bits": 4, "rotation": True, "error_feedback": True}
PLAIN, SECAGG = {"protocol": "plain"}, {"protocol": "secagg", "bits": 32}
CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], float]] = [
    (MAGNITUDE, {}, PLAIN, 1e-9),
    (MAGNITUDE | {"scope": "tensor", "begin": 2, "every": 2, "end": 8}, {}, PLAIN, 1e-9),
    ({"name": "structured", "density": 0.4, "end": 6, "keep": ["filt*"]}, {}, PLAIN, 1e-9),
    ({"name": "structured", "density": 0.4, "end": 6}, {}, SECAGG, 1e-6),
    (MAGNITUDE, {}, SECAGG, 1e-6),
    (MAGNITUDE, FEEDBACK, {"protocol": "secagg"}, 1e-6),
    (MAGNITUDE, {"name": "random_k", "ratio": 0.5} | FEEDBACK, SECAGG, 1e-6),
    (MAGNITUDE, {"name": "random_k", "ratio": 0.5}, PLAIN, 1e-9),
    (MAGNITUDE, {}, {"protocol": "additive", "committee": 3, "bits": 32}, 1e-6),
]
"""What is pruned, compressed, what adds it up, and by how much it may differ from the reference."""


def settings(
    path: Path, prune: Any, compress: Any, secure: Any, rounds: int = ROUNDS, **sections: Any
) -> Any:
    return configuration.parse(
        {
            "run": {"name": "f", "dir": str(path), "display": "none", "rounds": rounds},
            "train": {"full_batch": True, "steps": 1, "lr": LR, "dtype": "float64"},
            "prune": prune,
            "compress": compress,
            "secure": secure,
        }
        | sections
    )


def federate(config: Any, *, resume: bool = False) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, Pull(), comm=comm, resume=resume)

    return run_in_threads(SILOS, rank, timeout_s=60)


def model_of(path: Path) -> Array:
    found = load_file(path / "model.safetensors")
    return np.concatenate([found[name].ravel() for name in SHAPES])


def mask_of(path: Path, number: int, silo: int) -> Any:
    return np.unpackbits(tree_of(path, number, silo)["prune"]["kept"], count=D).astype(bool)


@pytest.mark.covering(0)
@pytest.mark.parametrize(("prune", "compress", "secure", "bound"), mostly_long(CASES, 2, 4), ids=str)
def test_masks_and_models_are_those_of_the_reference(
    tmp_path: Path, prune: Any, compress: Any, secure: Any, bound: float
) -> None:
    results = federate(settings(tmp_path, prune, compress, secure, checkpoint={"keep": ROUNDS}))
    assert len({one["model_sha256"] for one in results}) == 1
    expected, masks = pruned_fedavg([ALL] * ROUNDS, prune, compress)
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=bound)
    for number, mask in enumerate(masks, 1):
        for silo in ALL:
            assert (mask_of(tmp_path, number, silo) == mask).all()
    assert len({mask.sum() for mask in masks}) > 3
    pruned = ~masks[-1]
    assert (model_of(tmp_path)[pruned] == 0).all()
    matrices = D - SHAPES["bias"][0] if prune["name"] == "magnitude" else None
    if matrices is not None:
        told = [line["density"] for line in records(tmp_path)]
        assert told == [(mask.sum() - SHAPES["bias"][0]) / matrices for mask in masks]
        assert results[0]["density"] == told[-1]


def test_bytes_go_with_what_is_left(tmp_path: Path) -> None:
    """Beside keys, which are anew with every mask: two bytes up and down a value, of four silos."""
    federate(settings(tmp_path, MAGNITUDE | {"end": 2, "every": 2}, {}, {"protocol": "secagg"}, 4))
    sent = [line["bytes_sent"] for line in records(tmp_path)]
    _, masks = pruned_fedavg([ALL] * 4, MAGNITUDE | {"end": 2, "every": 2})
    fewer = D - int(masks[-1].sum())
    assert sent[0] == sent[1]
    up_and_down = 3 * (2 + 2) * fewer / SILOS  # a slice to each, and of its own slice's sum to each
    assert sent[1] - sent[3] == pytest.approx(up_and_down, abs=3 * 2 * 2 * 64)  # slices begin with 64 values


def test_a_silo_comes_back_to_the_mask_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had not sent of weights that were pruned since is not sent any more."""
    prepare(monkeypatch)
    failure = {"policy": "respawn", "inject": [f"kill silo {VICTIM} round {FAILS} at train"]}
    config = settings(tmp_path, MAGNITUDE, FEEDBACK, {"protocol": "secagg"}, failure=failure)
    results = rejoining.federate(monkeypatch, config, Pull, SILOS, VICTIM, after=BACK - 1)
    assert len({result["model_sha256"] for result in results}) == 1
    present = [line["survivors"] for line in records(tmp_path)]
    assert present == [[*(WITHOUT if FAILS <= number < BACK else ALL)] for number in range(1, ROUNDS + 1)]
    began = [line["began"] for line in records(tmp_path)]  # without it, for the mask was made anew meanwhile
    assert began[FAILS - 1] == [*WITHOUT]
    expected, masks = pruned_fedavg(present, MAGNITUDE, FEEDBACK, began=began, back=(VICTIM, BACK, BEHIND))
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-6)
    for silo in ALL:
        assert (mask_of(tmp_path, ROUNDS, silo) == masks[-1]).all()
        left = tree_of(tmp_path, ROUNDS, silo)["error_feedback"]["residuals"]
        assert sum(map(len, left.values())) == masks[-1].sum()
    forgetful, _ = pruned_fedavg(present, MAGNITUDE, FEEDBACK, began=began, back=(VICTIM, BACK, 0))
    assert np.abs(expected - forgetful).max() > 1e-3


RESUMED: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (MAGNITUDE, {}, {}),
    (MAGNITUDE, {"name": "random_k", "ratio": 0.5} | FEEDBACK, {}),
    ({"name": "structured", "density": 0.4, "end": 7, "every": 3}, {"name": "powersgd"}, {"name": "fedadam"}),
    ({"name": "structured", "density": 0.4, "end": 3}, {"name": "powersgd"}, {}),
]


@pytest.mark.parametrize(
    ("killed_in", "prune", "compress", "strategy"),
    mostly_long([(number, *one) for number in (5, 4) for one in RESUMED], 2),
    ids=str,
)
def test_it_is_resumed_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prune: Any, compress: Any, strategy: Any, killed_in: int
) -> None:
    """Also where the round before the resume has just pruned, and where it has not."""
    prepare(monkeypatch)
    faults = {"inject": [f"kill silo {silo} round {killed_in} at train" for silo in ALL]}
    killed, never, given = tmp_path / "killed", tmp_path / "never", {"strategy": strategy}
    assert federate(settings(killed, prune, compress, SECAGG, failure=faults, **given)) == [None] * SILOS
    federate(settings(killed, prune, compress, SECAGG, **given), resume=True)
    federate(settings(never, prune, compress, SECAGG, **given))
    assert (model_of(killed) == model_of(never)).all()
    for silo in ALL:
        left, other = (tree_of(run, ROUNDS, silo)["error_feedback"]["residuals"] for run in (killed, never))
        assert left.keys() == other.keys()
        assert all((left[name] == other[name]).all() for name in left)
        assert (mask_of(killed, ROUNDS, silo) == mask_of(never, ROUNDS, silo)).all()


@pytest.mark.long
def test_a_silo_that_was_away_is_resumed_to_the_mask_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own checkpoint is of an older round, with more weights, and with what it had not sent of them."""
    prepare(monkeypatch)
    deaths = [f"kill silo {VICTIM} round {FAILS} at train"]
    deaths += [f"kill silo {silo} round {BACK + 1} at train" for silo in WITHOUT]
    failure = {"policy": "shrink", "inject": deaths}
    assert federate(settings(tmp_path, MAGNITUDE, FEEDBACK, SECAGG, failure=failure)) == [None] * SILOS
    results = federate(settings(tmp_path, MAGNITUDE, FEEDBACK, SECAGG), resume=True)
    assert len({result["model_sha256"] for result in results}) == 1
    lines = records(tmp_path)
    present, began = ([line[key] for line in lines] for key in ("survivors", "began"))
    first = present.index([*ALL], FAILS) + 1
    assert first in (BACK, BACK + 1), "it goes on from the newest round whose files are whole"
    assert present == [[*(WITHOUT if FAILS <= number < first else ALL)] for number in range(1, ROUNDS + 1)]
    expected, masks = pruned_fedavg(present, MAGNITUDE, FEEDBACK, began=began, back=(VICTIM, first, BEHIND))
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-6)
    for silo in ALL:
        assert (mask_of(tmp_path, ROUNDS, silo) == masks[-1]).all()


def test_silos_with_different_masks_open_no_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the sum is opened, although all have the same model: two weights of it are zero anyway."""
    honest, first = GlobalMask.mask_after, math.prod(SHAPES["first"])

    def mask_after(mask: GlobalMask, number: int, values: Any) -> Any:
        kept = honest(mask, number, values)
        two = [np.flatnonzero(~kept[:first])[0], np.flatnonzero(kept[:first])[-1]]
        values[two] = 0
        kept[two] = (True, False) if mask._group.silo_id == 1 else (False, True)
        return kept

    monkeypatch.setattr(GlobalMask, "mask_after", mask_after)
    with pytest.raises(ProtocolError, match=r"different terms of the sum"):
        federate(settings(tmp_path, MAGNITUDE | {"end": 1}, {}, SECAGG, 4))


@pytest.mark.long
def test_sums_of_sketches_begin_anew_with_each_mask(tmp_path: Path) -> None:
    sketch = {"name": "count_sketch", "ratio": 0.6, "kept": 0.1, "error_feedback": True}
    results = federate(settings(tmp_path, MAGNITUDE, sketch | {"bits": 8}, {"protocol": "secagg"}))
    assert len({one["model_sha256"] for one in results}) == 1
    assert np.count_nonzero(model_of(tmp_path)) < D
