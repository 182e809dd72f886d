"""What a rank without data has in their place: no sample, and columns as silos with data tell them."""

from __future__ import annotations

from typing import Any

from silofl.comm.collective_errors import allgather_parsed, texts
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.federation.task_data import TaskData, data_of_task
from silofl.tasks.base import SiloData, Task
from silofl.tasks.files import Files
from silofl.tasks.preprocessing import Preprocessing
from silofl.tasks.user_code import UserCode
from silofl.topologies.arrangements.registry import coordinators


class NoSamples:
    """A dataset of none."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError(index)


def no_data() -> TaskData:
    """Of a rank that has none."""
    return TaskData(SiloData(NoSamples(), None), ())


def is_without(config: Config, silo: int, ranks: int) -> bool:
    """Whether a rank of so many has no data."""
    return silo in coordinators(config.topology, ranks)


def data_of(config: Config, task: Task, code: UserCode, ranks: int) -> TaskData:
    """The data of the silo that `code` is of, among so many ranks; none of a coordinator's."""
    without = coordinators(config.topology, ranks)
    if code.silo in without:
        return no_data()
    place = code.silo - sum(other < code.silo for other in without)
    return data_of_task(task, code.silo, ranks - len(without), code, place)


def told_columns(group: ElasticGroup, config: Config, task: Task, data: TaskData, ranks: int) -> TaskData:
    """Of a rank without data, with columns as the first silo with data has them; else `data`. Collective.

    Told are names and kinds of columns, the shape of a sample and what is done to columns, which all silos
    have alike: no value of any record. A model of files is made by them.
    """
    if not coordinators(config.topology, ranks):
        return data

    def tell() -> list[dict[str, Any]]:
        return allgather_parsed(group.comm, _told(task, data), _checked, "its columns")

    every = [one for one in group.step(tell) if one["has"]]
    if len(data.data.train):
        return data
    first = every[0]
    recipe = None if first["recipe"] is None else Preprocessing.from_json(first["recipe"])
    if isinstance(task, Files):
        task.expect(first["shape"])
        if recipe is not None:
            task.agree(recipe)
    return data._replace(schema=first["schema"], preprocessing=recipe)


def _told(task: Task, data: TaskData) -> dict[str, Any]:
    recipe = data.preprocessing
    return {
        "has": len(data.data.train) > 0,
        "schema": [list(pair) for pair in data.schema],
        "shape": list(task.shape or ()) if isinstance(task, Files) else [],
        "recipe": None if recipe is None else recipe.to_json(),
    }


def _checked(told: Any) -> dict[str, Any]:
    pairs = [texts(pair) for pair in told["schema"]]
    return {
        "has": told["has"] is True,
        "schema": [(name, kind) for name, kind in pairs],
        "shape": tuple(int(size) for size in told["shape"]),
        "recipe": told["recipe"],
    }
