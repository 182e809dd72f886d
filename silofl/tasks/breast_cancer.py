"""Clinical measurements of breast masses."""

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
from silofl.tasks.preprocessing import ColumnRecipe, Preprocessing

_SCALE = (
    (14.1273, 3.52095),
    (19.2896, 4.29725),
    (91.969, 24.2776),
    (654.889, 351.605),
    (0.0963603, 0.0140518),
    (0.104341, 0.0527663),
    (0.0887993, 0.0796497),
    (0.0489191, 0.0387687),
    (0.181162, 0.0273902),
    (0.0627976, 0.00705416),
    (0.405172, 0.277069),
    (1.21685, 0.551163),
    (2.86606, 2.02008),
    (40.3371, 45.451),
    (0.00704098, 0.00299988),
    (0.0254781, 0.0178924),
    (0.0318937, 0.0301595),
    (0.0117961, 0.00616486),
    (0.0205423, 0.0082591),
    (0.0037949, 0.00264374),
    (16.2692, 4.82899),
    (25.6772, 6.14085),
    (107.261, 33.573),
    (880.583, 568.856),
    (0.132369, 0.0228124),
    (0.254265, 0.157198),
    (0.272188, 0.208441),
    (0.114606, 0.0656746),
    (0.290076, 0.0618131),
    (0.0839458, 0.0180454),
)
"""Mean and standard deviation of each measurement over the published data set, in the order of its file."""
_MEANS, _DEVIATIONS = np.transpose(_SCALE)
_PUBLISHED = Published(569, 2, np.zeros(len(_SCALE)))
_MEASURED = (
    *("radius", "texture", "perimeter", "area", "smoothness"),
    *("compactness", "concavity", "concave points", "symmetry", "fractal dimension"),
)
_NAMES = (
    *(f"mean {one}" for one in _MEASURED),
    *(f"{one} error" for one in _MEASURED),
    *(f"worst {one}" for one in _MEASURED),
)
"""As scikit-learn calls the columns."""


@final
class BreastCancer(Classification):
    """569 patients, 30 measurements of cell nuclei each, malignant (0) or benign (1); from scikit-learn.

    Street, Wolberg and Mangasarian 1993, UCI Breast Cancer Wisconsin (Diagnostic). A sample is float32 (30,).

    Each measurement is shifted and scaled by its mean and deviation over the published data set. These 60
    constants stand here, use no diagnosis and are the same at every silo, like a laboratory's reference
    ranges: no patient of the file that is read has a part in what becomes of another's measurements.
    """

    shape = (len(_SCALE),)
    classes = ("malignant", "benign")
    preprocessing = Preprocessing(
        tuple(
            ColumnRecipe(name, center=center, scale=scale)
            for name, (center, scale) in zip(_NAMES, _SCALE, strict=True)
        )
    )
    """What becomes of measurements: see `Preprocessing`."""

    def __init__(self, task: TaskConfig, data: DataConfig, seed: int) -> None:
        self._task, self._data, self._seed = task, data, seed
        self.model()  # refuses a CNN before any data is read

    def model(self) -> nn.Module:
        """The MLP or linear model of `task.model`."""
        return build_model(self._task, self.shape, _PUBLISHED.classes)

    def data(self, silo: int, silos: int) -> SiloData:
        """This silo's patients. Raises ConfigError where there are more silos than patients."""
        measured, labels = packaged.read("breast_cancer.csv", header_lines=1)
        features = (measured - _MEANS) / _DEVIATIONS
        return deal(features, labels, _PUBLISHED, self._data, seed=self._seed, silo=silo, silos=silos)
