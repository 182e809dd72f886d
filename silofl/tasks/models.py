"""The built-in models. None has dropout or batch statistics, and all can be cast to float64 or bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from silofl.config import TaskConfig
from silofl.errors import ConfigError


def linear(inputs: int, outputs: int) -> nn.Module:
    """Softmax regression: (batch, ...) with `inputs` values a sample -> logits (batch, outputs)."""
    return mlp(inputs, (), outputs)


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Module:
    """Fully connected layers with ReLU between: (batch, ...) -> logits (batch, outputs).

    `inputs` is the number of values a sample, whatever its shape; `hidden` holds the inner widths.
    """
    widths = [inputs, *hidden, outputs]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(channels: int, height: int, width: int, outputs: int) -> nn.Module:
    """Two 3x3 convolutions (16 and 32 channels), each halved by max pooling, and one linear layer.

    Images (batch, channels, height, width) -> logits (batch, outputs); height and width at least 4.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), outputs),
    )


def build_model(task: TaskConfig, shape: Sequence[int], classes: int) -> nn.Module:
    """The model that `task.model` names, for samples of `shape`: (features,) or (channels, height, width).

    Raises:
        ConfigError: a CNN for a table, or for images of less than 4 by 4 pixels.
    """
    inputs = 1
    for length in shape:
        inputs *= length
    if task.model == "linear":
        return linear(inputs, classes)
    if task.model == "mlp":
        return mlp(inputs, task.hidden, classes)
    if len(shape) != 3:
        raise ConfigError(
            f"task.model = 'cnn' needs images, and a sample of this task is a row of {inputs} numbers: "
            "set task.model to 'mlp' or 'linear'"
        )
    if min(shape[1:]) < 4:
        raise ConfigError(
            f"task.model = 'cnn' needs images of at least 4 by 4 pixels, and these have {shape[1]} by "
            f"{shape[2]}: set task.image_size larger or task.model to 'mlp'"
        )
    channels, height, width = shape
    return cnn(channels, height, width, classes)
