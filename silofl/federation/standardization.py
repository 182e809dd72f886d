"""`data.standardize = "federated"`: mean and deviation of all silos' training records together.

By two sums of a few numbers a column, made as securely as those of updates, before the first round. Every
silo keeps what came of them in its folder of the run directory: a resume takes that, and a silo that returns
is told it, so that no sum is opened again for other silos. It is part of the model: `summary.json` has it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from silofl import config as configuration
from silofl import private_files
from silofl.aggregation import protocols
from silofl.aggregation.base import Aggregator
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.checkpoint.atomic_files import storage, write_bytes
from silofl.checkpoint.names import stem
from silofl.comm.collective_errors import allgather_parsed, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.crypto.signer import Signer
from silofl.errors import ChangedDataError, ConfigError
from silofl.federation.schema import agree_on_schema
from silofl.tasks.files import Files
from silofl.tasks.scaling import Scaling, first_sums, mean_of, pooled_scaling, second_sums

FILE = "standardize.json"
_WINDOWS = (-160, 0, 220)
"""Powers of two by which three parts of a number are multiplied, each then an exact number of its own."""
_ENDS = (64, -96)
"""Of which powers of two the first and the second part are multiples."""


def agree_on_scaling(
    group: ElasticGroup, config: Config, task: Files, silos: int, signer: Signer, path: Path, *, resume: bool
) -> Scaling:
    """What all silos' columns are scaled by: as in the run's earlier jobs, else from all records. Collective.

    The task has the samples then, and keeps them for its next `data`.

    Raises:
        ConfigError: two silos kept other statistics, or a file of them cannot be read.
        MismatchError: silos have other columns than most.
        ChangedDataError: the columns are not those that the run began with.
        DataError: as of `Files.data`.
    """
    scaling = group.step(lambda: _kept_by_any(group, path)) if resume else None

    def columns() -> None:
        with raise_on_all_ranks(group.comm):
            task.read(group.silo_id)
        agree_on_schema(group.comm, task.schema())
        with raise_on_all_ranks(group.comm):
            _refuse_other_columns(scaling, task, group.silo_id)

    group.step(columns)
    return _added_up(group, config, task, silos, signer) if scaling is None else scaling


def _added_up(group: ElasticGroup, config: Config, task: Files, silos: int, signer: Signer) -> Scaling:
    secure = configuration.for_silo(config, group.silo_id).secure
    spec = AggregationSpec(
        (VectorSpec("statistics", 1, weighting="uniform"),),
        np.dtype(np.float64),
        1,
        config.run.seed,
        configuration.digest(config),
        silos,
    )
    features = task.training_features(group.silo_id)
    aggregator = protocols.build(group, secure, spec, signer)
    try:
        first = exact_sums(aggregator, first_sums(features))
        second = exact_sums(aggregator, second_sums(features, mean_of(first)))
    finally:
        aggregator.close()
    return pooled_scaling([name for name, _ in task.schema()], first, second)


def exact_sums(aggregator: Aggregator, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over silos, within a unit of the last place, of values (k,) below 2^280 in magnitude; collective.

    A number is cut into parts that `Aggregator.sum_scalars` loses nothing of: multiples of 2^64, of 2^-96,
    and the rest down to 2^-316.
    """
    parts, rest = [], values
    for end in _ENDS:
        parts.append(np.rint(np.ldexp(rest, -end)))
        parts[-1] = np.ldexp(parts[-1], end)
        rest = rest - parts[-1]
    scaled = [np.ldexp(part, power) for part, power in zip([*parts, rest], _WINDOWS, strict=True)]
    sums = aggregator.sum_scalars(np.concatenate(scaled)).reshape(len(_WINDOWS), -1)
    back = [np.ldexp(one, -power) for one, power in zip(sums, _WINDOWS, strict=True)]
    return np.array([math.fsum(column) for column in zip(*back, strict=True)])


def keep(path: Path, silo: int, scaling: Scaling) -> None:
    """Have a run's statistics on a silo's disk. StorageError where that refuses."""
    folder = path / stem(silo)
    with storage(folder):
        private_files.make_folder(folder)
    write_bytes(folder / FILE, dumps(scaling).encode())


def dumps(scaling: Scaling) -> str:
    """As text, for a file and for a silo that returns."""
    return json.dumps(scaling.to_json())


def loads(text: str) -> Scaling:
    """From `dumps`. ValueError, TypeError or KeyError for what is none."""
    return Scaling.of_json(json.loads(text))


def refuse_told(path: Path, silo: int, told: str) -> None:
    """ConfigError where others tell a silo that comes back other statistics than it kept, if it kept any."""
    kept = _kept(path, silo)
    if kept is not None and loads(kept) != loads(told):
        raise ConfigError(
            f"the others scale columns by other statistics than silo {silo} kept in {stem(silo)}/{FILE} of "
            "its run directory: one of them is not of this run"
        )


def _kept(path: Path, silo: int) -> str | None:
    """What `keep` wrote, checked; None without a file."""
    file = path / stem(silo) / FILE
    try:
        return dumps(loads(private_files.read_bytes(file).decode()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError):
        raise ConfigError(
            f"{file} is damaged, by which the columns of this run are scaled: put it back from a copy, or "
            "remove it to take that of the other silos"
        ) from None


def _kept_by_any(group: ElasticGroup, path: Path) -> Scaling | None:
    """The statistics that silos kept; None where no silo has any, as before a first start. Collective."""
    own: str | None = None
    with raise_on_all_ranks(group.comm):
        own = _kept(path, group.silo_id)
    told = allgather_parsed(group.comm, own, _parsed, "the statistics of its columns")
    known = {silo: one for silo, one in zip(group.members, told, strict=True) if one is not None}
    first = next(iter(known), 0)
    for silo, scaling in known.items():
        if scaling != known[first]:
            raise ConfigError(
                f"silo {silo} has kept other statistics of this run's columns than silo {first}: put its own "
                f"{path / stem(silo) / FILE} back from a copy, or remove it to take that of the other silos",
                rank=0,
            )
    return known.get(first)


def _parsed(told: str | None) -> Scaling | None:
    return None if told is None else loads(told)


def _refuse_other_columns(scaling: Scaling | None, task: Files, silo: int) -> None:
    names = tuple(name for name, _ in task.schema())
    if scaling is not None and scaling.columns != names:
        raise ChangedDataError(
            f"silo {silo} has other columns than those whose statistics this run began with: restore them, "
            "or begin another run with --run"
        )
