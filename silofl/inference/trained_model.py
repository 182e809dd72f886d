"""A trained model as it is used: a torch module of raw features, and predictions of arrays and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from silofl.errors import ConfigError, DataError
from silofl.inference.model_card import ModelCard
from silofl.inference.preprocessing_layer import PreprocessingLayer
from silofl.tasks.base import Task
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.readers.rows import some

Output = NDArray[Any]


@final
class TrainedModel(nn.Module):
    """What a run has trained, ready to use; made by `silofl.load`.

        model = silofl.load("runs/hospitals")
        model.predict(frame)            # a pandas DataFrame, a dict of columns, or an array
        model(torch.tensor(raw))        # outputs, such as logits, as of any torch module

    `predict` and its like evaluate in the batches in which the run evaluated: then their bits are the run's.

    Attributes:
        card: what the file says of itself.
        preprocessing: from raw columns to features; None where there is nothing to do.
        network: the task's model.
        head: what becomes of outputs.
        task: the task, which has the loss and the metrics.
    """

    def __init__(self, card: ModelCard, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.card, self.task = card, task
        self.preprocessing = None if card.preprocessing is None else PreprocessingLayer(card.preprocessing)
        self.network, self.head = network, card.head

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that it takes, in their order; empty where they have no names."""
        recipe = self.card.preprocessing
        return () if recipe is None or not all(recipe.names) else recipe.names

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of probabilities."""
        return self.card.classes

    def forward(self, raw: Tensor) -> Tensor:
        """Outputs for raw features (batch, columns), or images (batch, channels, height, width).

        Logits, or of a regression the number in its own units.

        Missing numbers are NaN, and categories the places of theirs: see `PreprocessingLayer`.
        """
        return self._of_features(raw if self.preprocessing is None else self.preprocessing(raw))

    def _of_features(self, features: Tensor) -> Tensor:
        first = next((one for one in self.network.parameters() if one.is_floating_point()), None)
        if first is not None:
            kind = first.dtype if features.is_floating_point() else features.dtype
            features = features.to(first.device, kind)
        outputs: Tensor = self.network(features)
        return self.head.in_units(outputs) if isinstance(outputs, Tensor) else outputs

    def outputs(self, data: Any, **where: Any) -> Output:
        """Outputs of the network, such as logits, as a NumPy array (samples, ...).

        Args:
            data: a DataFrame or a mapping of columns, which are taken by name, others passed over; or an
                array (samples, columns) in the order of `columns`; or images.
            where: `source`, `word` and `rows`, by which messages call the data: see `Preprocessing.features`.

        Raises:
            DataError: columns that are not there, or values that the model does not take; one sentence
                that names them.
        """
        features = self.features(data, **where)
        found = []
        with self._evaluating():
            for start in range(0, len(features), self.card.batch_size):
                outputs = self._of_batch(features[start : start + self.card.batch_size])
                if not isinstance(outputs, Tensor):
                    raise ConfigError(
                        f"the model of {self.card.task} returns a {type(outputs).__name__} and no tensor: "
                        "call model.network on batches of its own"
                    )
                found.append(outputs.to(torch.promote_types(outputs.dtype, torch.float32)).cpu())
            if not found:
                found.append(self._none(features))
        return torch.cat(found).numpy()

    def _of_batch(self, features: Tensor) -> Any:
        """Outputs for some samples. DataError where the network cannot take them, as of a wrong shape."""
        try:
            outputs = self._of_features(features)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{self._unfit(features)} ({type(error).__name__})") from error
        if isinstance(outputs, Tensor) and (
            outputs.shape[:1] != features.shape[:1]
            or (self.card.kind == "classification" and outputs.ndim < 2)
        ):
            raise DataError(f"{self._unfit(features)}: no outputs for each")
        return outputs

    def _unfit(self, features: Tensor) -> str:
        shape, kind = tuple(features.shape[1:]), str(features.dtype).removeprefix("torch.")
        return (
            f"the model of {self.card.task} does not take samples of the shape {shape} and type {kind}: give "
            "an array (samples, ...) as the task has it"
        )

    def _none(self, features: Tensor) -> Tensor:
        """Outputs of no sample, of the shape that outputs have."""
        outputs = self._of_features(features.new_zeros(1, *features.shape[1:]))
        return outputs[:0].to(torch.promote_types(outputs.dtype, torch.float32)).cpu()

    def predict_proba(self, data: Any, **where: Any) -> Output:
        """Probabilities float32 (samples, classes), of each label by itself where there may be several.

        Of a survival model those of surviving beyond the end of each interval, which `classes` name.

        Arguments and errors as of `outputs`; ConfigError where the model's outputs are no probabilities.
        """
        if self.head.probabilities(np.zeros((1, max(1, len(self.classes))), np.float32)) is None:
            kind = self.card.kind
            what = f"a {kind}" if kind else 'a task without an attribute kind, such as "classification"'
            raise ConfigError(
                f"the model of {self.card.task} is of {what}, whose outputs are no probabilities: call "
                "predict or outputs"
            )
        found = self.head.probabilities(self.outputs(data, **where))
        assert found is not None, "see above"
        return found

    def predict(self, data: Any, **where: Any) -> Output:
        """What each sample is taken for: the name of its class; whether it has each label; or its number.

        Of a survival model a risk from 0 to 1: one less the mean of the probabilities of survival.

        Arguments and errors as of `outputs`.
        """
        return self.head.decided(self.outputs(data, **where))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """In evaluation mode, without gradients; put back afterwards."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(training)

    def features(self, data: Any, **where: Any) -> Tensor:
        """What the network takes for `data`, see `outputs`: float32 (samples, ...), or an own task's type."""
        recipe = self.card.preprocessing
        if isinstance(data, Tensor):
            data = data.detach().cpu().numpy()
        if _by_name(data):
            counted = Counter(tidy(str(name)) for name in data)
            twice = [name for name in self.columns if counted[name] > 1]
            if twice:
                source = where.get("source", "the table")
                raise DataError(f"{source} has several columns {some(twice)}: rename or remove all but one")
            data = {tidy(str(name)): data[name] for name in data}
            if recipe is None:
                raise ConfigError(
                    f"the model of {self.card.task} knows no names of columns: give an array of what it takes"
                )
        else:
            data = np.asarray(data)
        if recipe is None:
            return self._unnamed(data)
        if recipe.of_images and not isinstance(data, dict):
            data = _images(data)
        elif isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] != len(recipe.columns):
            names = f": {some(self.columns)}" if self.columns else ""
            raise DataError(
                f"{where.get('source', 'the table')} has {data.shape[1]} column(s), and the model takes "
                f"{len(recipe.columns)}{names}"
            )
        elif isinstance(data, np.ndarray) and data.dtype.kind in "biufc":
            texts = [column.name for column in recipe.columns if column.kind == "categorical"]
            if texts:
                raise DataError(
                    f"an array of numbers has no categories, which the model takes in {some(texts)}: give "
                    "columns by name; model(tensor) takes the places of categories"
                )
        return torch.from_numpy(recipe.features(data, **where))

    def _unnamed(self, data: NDArray[Any]) -> Tensor:
        """Samples of a task that has no recipe of columns."""
        shape = self.card.shape
        if data.dtype.kind not in "biufc":
            raise DataError(f"the samples are of type {data.dtype}: give numbers")
        if shape and data.shape[1:] != shape:
            if data.ndim == 2 and data.shape[1] == np.prod(shape):
                data = data.reshape(-1, *shape)
            else:
                raise DataError(
                    f"the samples have the shape {data.shape}, and the model takes (samples, "
                    f"{', '.join(map(str, shape))})"
                )
        if data.dtype.kind == "f" or shape:
            data = data.astype(np.float32 if data.dtype != np.float64 or shape else np.float64)
        return torch.from_numpy(np.ascontiguousarray(data))

    def extra_repr(self) -> str:
        """The task, and the columns."""
        taken = some(self.columns) if self.columns else ""
        return f"{self.card.task}{': ' if taken else ''}{taken}"


def _by_name(data: Any) -> bool:
    """Whether columns have names: a mapping, or a DataFrame of any library."""
    return isinstance(data, Mapping) or (hasattr(data, "columns") and hasattr(data, "__getitem__"))


def _images(data: NDArray[Any]) -> NDArray[Any]:
    """Images (n, channels, height, width); greys may have no channel. Bytes are scaled to 0..1."""
    if data.ndim == 3:
        data = data[:, None]
    return data / np.float32(255) if data.dtype == np.uint8 else data
