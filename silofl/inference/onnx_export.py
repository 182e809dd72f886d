"""`silofl export RUN model.onnx`: the model with its preprocessing, for programs without torch."""

from __future__ import annotations

import io
import json
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import torch

from silofl.checkpoint.atomic_files import write_bytes
from silofl.errors import ConfigError, MissingDependencyError
from silofl.inference.trained_model import TrainedModel


def export_onnx(model: TrainedModel, path: Path) -> None:
    """Write a model as ONNX: input `raw`, of any number of samples, and output `outputs`.

    `raw` is what `TrainedModel.forward` takes, float64 where columns are preprocessed: NaN where a number is
    missing, and for a column of categories the place of the value in its list. The metadata `silofl` is the
    model's card.

    Raises:
        MissingDependencyError: the extra `onnx` is not installed.
        ConfigError: the shape of a sample is not known, or torch cannot export the model.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - what torch.onnx needs
    except ImportError as error:
        raise MissingDependencyError(
            "ONNX needs onnx and onnxscript, which are not installed: pip install 'silofl[onnx]'"
        ) from error
    example = _example(model)
    dimensions = {0: torch.export.Dim("samples", min=1)}
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(
                model.eval(),
                (example,),
                dynamo=True,
                input_names=["raw"],
                output_names=["outputs"],
                dynamic_shapes=(dimensions,),
                verbose=False,
            )
    except Exception as error:
        raise ConfigError(
            f"torch.onnx cannot export the model of {model.card.task}: {type(error).__name__}; use it by "
            "silofl.load, or export model.network by a program of your own"
        ) from error
    assert program is not None
    proto = program.model_proto
    for part in (*proto.graph.node, *proto.graph.value_info, *(n for f in proto.functions for n in f.node)):
        part.ClearField("metadata_props")  # traces of calls, with folders of who exports
        part.ClearField("doc_string")
    onnx.helper.set_model_props(proto, {"silofl": json.dumps(model.card.to_json(), sort_keys=True)})
    write_bytes(path, proto.SerializeToString(), private=False)


def _example(model: TrainedModel) -> torch.Tensor:
    card = model.card
    recipe = card.preprocessing
    if recipe is not None and not recipe.of_images:
        return torch.zeros(2, len(recipe.columns), dtype=torch.float64)
    if not card.shape:
        raise ConfigError(
            f"the model of {card.task} does not tell the shape of a sample, which ONNX needs: export "
            "model.network by torch.onnx with an example of your own"
        )
    return torch.zeros(2, *card.shape)
