"""Handwritten digits."""

from __future__ import annotations

from typing import final

import numpy as np
from torch import nn

from silofl.config import DataConfig, TaskConfig
from silofl.tasks import packaged
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification
from silofl.tasks.dealt import Published, deal
from silofl.tasks.models import build_model

_MEAN_PIXELS = (
    (0, 0, 5, 12, 12, 6, 1, 0),
    (0, 2, 10, 12, 10, 8, 2, 0),
    (0, 3, 10, 7, 7, 8, 2, 0),
    (0, 2, 9, 9, 10, 8, 2, 0),
    (0, 2, 8, 9, 10, 9, 3, 0),
    (0, 2, 7, 7, 8, 8, 3, 0),
    (0, 1, 8, 10, 9, 9, 4, 0),
    (0, 0, 6, 12, 12, 7, 2, 0),
)
"""Of the published digits, of 16."""
_PUBLISHED = Published(1797, 10, np.ravel(_MEAN_PIXELS) / 16.0)


@final
class Digits(Classification):
    """1797 real handwritten digits of 8 by 8 pixels, ten classes; comes with scikit-learn.

    Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits (its test set). A sample is
    float32 (1, 8, 8) with values from 0 to 1.
    """

    shape = (1, 8, 8)
    classes = tuple(map(str, range(_PUBLISHED.classes)))

    def __init__(self, task: TaskConfig, data: DataConfig, seed: int) -> None:
        self._task, self._data, self._seed = task, data, seed

    def model(self) -> nn.Module:
        """The MLP, CNN or linear model of `task.model`."""
        return build_model(self._task, self.shape, _PUBLISHED.classes)

    def data(self, silo: int, silos: int) -> SiloData:
        """This silo's digits. Raises ConfigError where there are more silos than digits."""
        pixels, labels = packaged.read("digits.csv.gz")
        images = pixels.reshape(-1, 1, 8, 8) / 16.0
        return deal(images, labels, _PUBLISHED, self._data, seed=self._seed, silo=silo, silos=silos)
