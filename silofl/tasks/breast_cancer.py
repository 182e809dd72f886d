"""Clinical measurements of breast masses."""

from __future__ import annotations

from typing import final

from torch import nn

from silofl.config import DataConfig, TaskConfig
from silofl.tasks import packaged
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification
from silofl.tasks.dealt import deal
from silofl.tasks.models import build_model

_FEATURES, _CLASSES = 30, 2


@final
class BreastCancer(Classification):
    """569 patients, 30 measurements of cell nuclei each, malignant (0) or benign (1); from scikit-learn.

    Street, Wolberg and Mangasarian 1993, UCI Breast Cancer Wisconsin (Diagnostic). A sample is float32 (30,).

    Each measurement is shifted and scaled by its mean and deviation over the published data set. These 60
    constants are public, use no diagnosis and are the same at every silo, like a laboratory's reference
    ranges; statistics of a silo's own few patients would give each silo another scale.
    """

    def __init__(self, task: TaskConfig, data: DataConfig, seed: int) -> None:
        self._task, self._data, self._seed = task, data, seed
        self.model()  # refuses a CNN before any data is read

    def model(self) -> nn.Module:
        """The MLP or linear model of `task.model`."""
        return build_model(self._task, (_FEATURES,), _CLASSES)

    def data(self, silo: int, silos: int) -> SiloData:
        """This silo's patients. Raises ConfigError where there are more silos than patients."""
        measured, labels = packaged.read("breast_cancer.csv", header_lines=1)
        features = (measured - measured.mean(axis=0)) / measured.std(axis=0)
        return deal(features, labels, self._data, seed=self._seed, silo=silo, silos=silos)
