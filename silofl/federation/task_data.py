"""What a task gives of one silo: samples, columns, and whose they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import TensorDataset

from silofl.config import Config, PrivacyConfig
from silofl.errors import ConfigError, DataError
from silofl.tasks.base import SiloData, Task
from silofl.tasks.checks import data_of, schema_of
from silofl.tasks.column_kinds import Schema
from silofl.tasks.files import Files
from silofl.tasks.preprocessing import Preprocessing
from silofl.tasks.user_code import UserCode
from silofl.training.clients.client_split import ClientSplit
from silofl.training.persons import Persons


class TaskData(NamedTuple):
    """What a task gives of one silo before its model is made."""

    data: SiloData
    """At least one training sample."""
    schema: Schema
    """Name and kind of each column, where the task tells of them."""
    preprocessing: Preprocessing | None = None
    """What was done to columns of files; None of any other task."""


def data_of_task(task: Task, number: int, silos: int, code: UserCode, place: int | None = None) -> TaskData:
    """Have a task read the data of silo `number`. Raises DataError without samples, UserCodeError.

    `place`: its number among the `silos` with data, where there are ranks without; files are named by its
    `number` all the same.
    """
    asked = number if place is None or isinstance(task, Files) else place
    with code.calling("data", task.data):
        data = data_of(task.data(asked, silos), number)
        samples = len(data.train)
    if samples == 0:
        raise DataError(
            f"silo {number} has no training samples: give it data or start without it", rank=number
        )
    with code.calling("schema"):
        return TaskData(data, schema_of(task), task.preprocessing if isinstance(task, Files) else None)


def counted_of(privacy: PrivacyConfig, persons: Persons, split: ClientSplit | None, silos: int) -> int:
    """As how many of what is protected a silo counts in sums; as its training records where nothing is.

    A rank without data as none.
    """
    if privacy.records is not None and len(persons):
        return max(1, round(privacy.records / silos))
    return len(split) if split is not None and privacy.unit == "client" else len(persons)


def persons_of(data: SiloData, privacy: PrivacyConfig, number: int) -> Persons:
    """Whose the training records are. ConfigError where that has to be known and is not."""
    if privacy.unit != "patient":
        return Persons(np.arange(len(data.train)))
    if data.owners is None:
        raise ConfigError(
            f'silo {number}: privacy.unit = "patient" needs to know whose a record is, and the task does not '
            "tell: return SiloData(train, test, owners) from data(silo, silos), or set privacy.unit = "
            '"example"',
            rank=number,
        )
    return Persons(data.owners, privacy.records_per_patient)


def training_data(
    config: Config, task: Task, number: int, silos: int, code: UserCode, data: TaskData | None = None
) -> TaskData:
    """What silo `number` trains on: `data`, or what the task gives; changed where it attacks so.

    What is held out stays. Raises ConfigError where the attack cannot be carried out on such data.
    """
    data = data_of_task(task, number, silos, code) if data is None else data
    attack = config.attack.attack
    if attack is None or not attack.poisons or number not in attack.silos:
        return data
    given, rng = data.data, np.random.default_rng([config.run.seed, number])
    tensors = given.train.tensors if isinstance(given.train, TensorDataset) else ()
    if len(tensors) != 2:
        raise ConfigError(
            f'silo {number}: attack.name = "{config.attack.name}" changes samples and labels, and the task '
            "gives no TensorDataset of these two: choose an attack on updates, such as sign_flip",
            rank=number,
        )
    try:
        samples, labels = (one.cpu().numpy() for one in tensors)
        arrays = attack.poison(samples, labels, rng)
    except ValueError as error:
        raise ConfigError(f"silo {number}: {error}", rank=number) from None
    train = TensorDataset(*(torch.from_numpy(one).to(tensors[0].device) for one in arrays))
    return data._replace(data=SiloData(train, given.test, given.owners))
