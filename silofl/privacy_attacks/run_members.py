"""Membership inference on a run of one's own: how much of its training records a trained model shows.

The attacker has the model, and records with their labels, and does not know which of them were trained on.
Here that is known: what is found is about real records, without noise, and for the institution alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from silofl.errors import ConfigError, DataError
from silofl.inference.evaluation import labelled_files
from silofl.inference.trained_model import TrainedModel
from silofl.privacy_attacks.membership.base import Evidence, Floats
from silofl.privacy_attacks.membership.loss_threshold import LossThreshold
from silofl.privacy_attacks.roc import Worth, worth
from silofl.tasks.base import CollatingTask, PerExampleTask, SizedDataset
from silofl.tasks.checks import data_of
from silofl.tasks.files import Files
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches

Samples = tuple[list[SizedDataset], list[SizedDataset]]
"""Data sets that a model was trained on, and data sets that it was not."""


def samples_of_silos(model: TrainedModel, silos: int) -> Samples:
    """What each of so many silos trains on and holds out, as the task itself deals it.

    Raises ConfigError for a task that reads files, which have to be named.
    """
    if isinstance(model.task, Files):
        raise ConfigError("which files? name those of training after the run, such as data/south.csv")
    found: Samples = [], []
    for silo in range(silos):
        with UserCode(silo, alone=True).calling("data", model.task.data):
            data = data_of(model.task.data(silo, silos), silo)
        found[0].append(data.train)
        found[1].extend([] if data.test is None else [data.test])
    return found


def samples_of_files(model: TrainedModel, paths: Sequence[Path], *, decimal: str = ".") -> Samples:
    """What a run trained on of files, and held out of them.

    Raises as `labelled_files` does.
    """
    every = labelled_files(model, paths, decimal=decimal)
    held = labelled_files(model, paths, held_out=True, decimal=decimal)
    pairs = [(one.samples, other.samples) for one, other in zip(every, held, strict=True)]
    trained = [_first(one, len(one) - len(other)) for one, other in pairs]
    return trained, [one.samples for one in held]


def _first(samples: SizedDataset, count: int) -> SizedDataset:
    """Those that are trained on come first."""
    assert isinstance(samples, Dataset)
    return Subset(samples, range(count))


def membership_of(model: TrainedModel, samples: Samples) -> Worth:
    """What a threshold of the loss is worth in telling records of training from others (Yeom et al. 2018).

    It is the least that an attacker has; with shadow models, `membership/` has stronger ones.

    Raises DataError where there are fewer than two records of either kind, or a loss is not finite.
    """
    losses = [_losses_of_all(model, sets) for sets in samples]
    members = np.repeat([True, False], [len(one) for one in losses])
    every = np.concatenate(losses)
    if min(map(len, losses)) < 2 or not np.isfinite(every).all():
        raise DataError(
            f"{len(losses[0])} records of training and {len(losses[1])} others, "
            f"{np.count_nonzero(~np.isfinite(every))} of them without a finite loss, tell nothing: take two "
            "of each at least"
        )
    return worth(LossThreshold().scores(Evidence(every)), members)


def _losses_of_all(model: TrainedModel, sets: Sequence[SizedDataset]) -> Floats:
    return np.concatenate([np.empty(0), *(losses_of(model, one) for one in sets)])


def losses_of(model: TrainedModel, samples: SizedDataset) -> Floats:
    """The loss of each sample (m,), by the task's `losses` where it has it, else of batches of one."""
    task, network = model.task, model.network
    code, each = UserCode(0, alone=True), isinstance(task, PerExampleTask)
    first = next(network.parameters(), torch.empty(0))
    collate = task.collate if isinstance(task, CollatingTask) else None
    batches = Batches(samples, first.dtype, first.device, collate=collate, code=code)
    found, training = [np.empty(0)], network.training
    network.eval()
    try:
        with torch.no_grad(), code.calling("loss", task.loss):
            for batch, _ in batches.in_order(model.card.batch_size if each else 1):
                one = (
                    task.losses(network, batch)
                    if isinstance(task, PerExampleTask)
                    else task.loss(network, batch)
                )
                found.append(one.double().cpu().numpy().reshape(-1))
    finally:
        network.train(training)
    return np.concatenate(found)
