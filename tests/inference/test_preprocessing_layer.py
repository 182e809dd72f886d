"""The first layer is the recipe, bit for bit, and as ONNX nearly so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from silofl.inference.loading import load
from silofl.inference.onnx_export import export_onnx
from silofl.inference.preprocessing_layer import PreprocessingLayer
from silofl.tasks.preprocessing import ColumnRecipe, Preprocessing
from tests.inference.conftest import Run, table

SEX = ("f", "m", "missing")
RECIPE = Preprocessing(
    (
        ColumnRecipe("age", impute=50.1, flag=True, center=50.3, scale=19.7),
        ColumnRecipe("dose", center=1e9, scale=3e-3),
        ColumnRecipe("sex", kind="categorical", categories=SEX),
        ColumnRecipe("weight", impute=70.2, center=70.0),
    )
)


def test_it_makes_the_features_of_the_recipe() -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(50, 4)) * [20, 0.1, 1, 9] + [50, 1e9, 0, 70]
    raw[::7, 0] = raw[::5, 3] = np.nan
    raw[:, 2] = rng.integers(0, 3, 50)
    texts = [["f", "m", ""][int(place)] for place in raw[:, 2]]
    age, dose, _, weight = raw.T
    expected = RECIPE.features({"age": age, "dose": dose, "sex": texts, "weight": weight})
    found = PreprocessingLayer(RECIPE)(torch.from_numpy(raw))
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), expected)
    assert expected[:, 1].sum() > 0  # of the flag
    assert expected[:, 3:6].sum() == 50


def test_images_are_shifted_and_scaled() -> None:
    recipe = Preprocessing((ColumnRecipe("image", kind="image", center=0.3, scale=0.7),))
    images = np.random.default_rng(0).random((2, 1, 4, 4)).astype(np.float32)
    assert np.array_equal(
        PreprocessingLayer(recipe)(torch.from_numpy(images)).numpy(), recipe.features(images)
    )


@pytest.mark.long
def test_onnx_has_the_preprocessing_and_the_card(run: Run, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = load(run.path)
    export_onnx(model, tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    rows = table(9)[:, :3]
    (found,) = session.run(None, {"raw": rows})
    assert np.allclose(found, model.outputs(rows), rtol=1e-5, atol=1e-6)
    assert '"malignant"' in session.get_modelmeta().custom_metadata_map["silofl"]
    told = (tmp_path / "m.onnx").read_bytes()
    assert not any(word in told for word in (b"silofl/", b"-packages", b".py"))  # folders of who exports
