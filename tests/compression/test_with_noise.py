"""[compress] under [privacy]: noise covers what a codec sends, and the sum's words go both ways."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from silofl.compression.base import KEY_BYTES, Draw
from silofl.compression.registry import CODECS
from silofl.config import parse
from silofl.crypto.noise_keys import NONCE_BYTES, NoiseKeys
from silofl.crypto.secret import Secret
from silofl.errors import ConfigError
from silofl.federation.dry_run import dry_run
from silofl.federation.privacy import engine
from silofl.federation.run_logger import RunLogger
from silofl.transforms.noise import SiloNoise
from tests.federation.test_privacy import SILOS, federate, lines
from tests.federation.test_privacy import settings as private
from tests.federation.threads import prepare

DRAWN = {"name": "random_k", "ratio": 0.25}
SILO: dict[str, dict[str, Any]] = {
    "privacy": {"unit": "silo", "noise_multiplier": 0.5, "clip_norm": 0.5, "delta": 1e-3},
    "strategy": {"name": "fedavg", "momentum": 0.0},
}


def run(path: Path, compress: dict[str, Any], **sections: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    few = {"run": {"rounds": 2}}
    config = private(path, **SILO | few | sections | ({"compress": compress} if compress else {}))
    results = federate(config)
    assert all(isinstance(result, dict) for result in results), results
    assert len({result["model_sha256"] for result in results}) == 1
    return results[0], lines(path)


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every run's silos draw by the same secrets."""

    def fixed(own: Any, nonce: bytes, silo: int, *, run: bytes) -> NoiseKeys:
        return NoiseKeys(Secret(bytes([silo + 1] * 32)), bytes(16), silo, run=bytes(16))

    monkeypatch.setattr(engine, "NoiseKeys", fixed)


def values(folder: Path) -> dict[str, bytes]:
    """The bytes of a model's tensors, whose file tells the run's settings, too."""
    tensors = load_file(next(folder.rglob("model.safetensors")))
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("unit", ["silo", pytest.param("example", marks=pytest.mark.long)])
def test_words_both_ways_give_the_model_that_slices_give(tmp_path: Path, unit: str) -> None:
    """Nothing but the way back differs: the grid, the noise and the sum are the same, bit for bit."""
    sections: dict[str, Any] = {"secure": {"bits": 16}}
    if unit == "example":
        sections |= {"privacy": {"noise_multiplier": 0.5}, "strategy": {"name": "fedsgd"}}
    whole, slices = run(tmp_path / "slices", {}, **sections)
    short, words = run(tmp_path / "words", {"bits": 16}, **sections)
    assert whole["epsilon"] == short["epsilon"]
    assert values(tmp_path / "slices") == values(tmp_path / "words")
    assert [line["epsilon"] for line in slices] == [line["epsilon"] for line in words]
    assert words[-1]["bytes_sent"] < slices[-1]["bytes_sent"]


def test_noise_is_planned_for_what_is_sent_and_costs_the_same_epsilon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(RunLogger, "notice", lambda self, text: told.append(text))
    sections: dict[str, Any] = {"secure": {"bits": 16}}
    _, whole = run(tmp_path / "whole", {"bits": 16}, **sections)
    _, drawn = run(tmp_path / "drawn", DRAWN, **sections)
    assert drawn[-1]["bytes_sent"] < whole[-1]["bytes_sent"]
    assert drawn[-1]["epsilon"] == pytest.approx(whole[-1]["epsilon"], rel=1e-2)  # finer grids round less
    counts = [text.split()[0] for text in told if "of 16 bits both ways: of 32767 levels" in text]
    assert counts == ["63"] * SILOS + ["16"] * SILOS
    config = private(tmp_path, **SILO | {"compress": DRAWN} | sections)
    assert any("values are sent, of 16 bits both ways" in note for note in dry_run(config, SILOS).notes)


@pytest.mark.long
def test_the_grid_alone_leaves_what_the_codec_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same values are drawn, and count as many times, as without [privacy]."""
    monkeypatch.setattr(SiloNoise, "encode", lambda self, values, place, out: values)
    quiet = {"unit": "silo", "noise_multiplier": 1e-4, "clip_norm": 2.0, "delta": 1e-3}
    sections = SILO | {"compress": DRAWN, "train": {"full_batch": True, "steps": 10}, "privacy": quiet}
    with_noise = private(tmp_path / "noise", **sections)
    run = {"name": "clear", "dir": str(tmp_path / "clear/run"), "display": "none", "rounds": 5}
    without = parse({"run": run} | {name: keys for name, keys in sections.items() if name != "privacy"})
    models = []
    for config in (with_noise, without):
        assert all(isinstance(result, dict) for result in federate(config))
        found = load_file(Path(config.run.dir) / "model.safetensors")
        models.append(np.concatenate([found[key].ravel() for key in sorted(found)]))
    assert np.linalg.norm(models[1]) > 1.0
    assert np.linalg.norm(models[0] - models[1]) < 0.2 * np.linalg.norm(models[1])


@pytest.mark.long
def test_a_killed_run_resumes_with_equal_bytes_and_equal_epsilon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    faults = {"policy": "abort", "inject": [f"kill silo {silo} round 3 at reveal" for silo in range(SILOS)]}
    own = {"checkpoint": {"key_file": str(tmp_path / "keys" / "silo-{silo}.key")}, "compress": DRAWN}
    monkeypatch.setattr("silofl.federation.privacy.engine.new_nonce", lambda: bytes(NONCE_BYTES))
    monkeypatch.setattr("silofl.federation.run_trust.new_run_id", lambda comm: "0" * 32)
    whole = federate(private(tmp_path / "whole", **SILO | own))[0]
    killed = federate(private(tmp_path / "killed", **SILO | own, failure=faults))
    assert any(result is None for result in killed)
    resumed = federate(private(tmp_path / "killed", **SILO | own), resume=True)
    assert {result["model_sha256"] for result in resumed} == {whole["model_sha256"]}
    assert {result["epsilon"] for result in resumed} == {whole["epsilon"]}


def test_a_round_goes_on_without_a_silo_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    failure = {"policy": "shrink", "inject": ["kill silo 2 round 3 at collect first"]}
    results = federate(private(tmp_path, **SILO | {"compress": DRAWN, "failure": failure}))
    left = [result for result in results if result is not None]
    assert len(left) == 3
    assert len({result["model_sha256"] for result in left}) == 1
    assert left[0]["survivors"] == [0, 1, 3]


@pytest.mark.parametrize("name", [name for name, codec in CODECS.items() if codec.shortens])
@settings(deadline=None, max_examples=50)
@given(values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60), seed=st.integers(0, 255))
def test_what_noise_covers_is_never_longer_than_what_was_clipped(
    name: str, values: list[float], seed: int
) -> None:
    codec, vector = CODECS[name](), np.array(values, np.float32)
    sent = codec.encode(vector, Draw(bytes([seed] * KEY_BYTES)))
    assert np.linalg.norm(sent.astype(np.float64)) <= np.linalg.norm(vector.astype(np.float64))
    assert np.array_equal(codec.encode(-vector, Draw(bytes([seed] * KEY_BYTES))), -sent)


@pytest.mark.parametrize(
    ("compress", "privacy", "told"),
    [
        (DRAWN, {"place": "central"}, 'set privacy.place = "distributed"'),
        (DRAWN, {"place": "local"}, 'set privacy.place = "distributed"'),
        ({"name": "powersgd"}, {}, 'set compress.name = "random_k", or remove it'),
        ({"bits": 4}, {}, "secure.bits = 32: remove compress.bits, or set both alike"),
        (DRAWN | {"bits": 32, "rotation": True}, {}, "privacy.rotate is the rotation"),
        (DRAWN | {"error_feedback": True}, {}, "which noise does not cover"),
        (DRAWN, {"bands": 2}, "remove one of them"),
    ],
)
def test_what_noise_would_not_cover_is_refused(
    tmp_path: Path, compress: dict[str, Any], privacy: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        private(tmp_path, **SILO | {"compress": compress, "privacy": SILO["privacy"] | privacy})
