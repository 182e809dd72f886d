"""What all built-in tasks of published data have in common: cross entropy and accuracy."""

from __future__ import annotations

from silofl.tasks.headed import Headed
from silofl.tasks.heads.classification import ClassificationHead


class Classification(Headed):
    """A task whose batch is (features, labels): float32 (batch, ...) and int64 (batch,).

    Its `model` gives logits (batch, classes). Metrics are `accuracy`, and of two classes `auc`.
    """

    head = ClassificationHead()
