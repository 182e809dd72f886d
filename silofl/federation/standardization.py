"""What is done to columns, as far as silos find it together: means, deviations, categories.

By few sums of a few numbers a column, made as securely as those of updates, before the first round; under
[privacy] by one of values within public bounds, with noise (`privacy/noisy_statistics.py`). Every
silo keeps what came of them in its folder of the run directory: a resume takes that, and a silo that returns
is told it, so that no sum is opened again for other silos. It is part of the model: `summary.json` has it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
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
from silofl.checkpoint.trust import Trust
from silofl.comm.collective_errors import allgather_parsed, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.crypto.signer import Signer
from silofl.errors import ChangedDataError, ConfigError, LessProtectionError
from silofl.federation.privacy.budget import spent_in
from silofl.federation.privacy.noisy_statistics import ROUND, NoisyStatistics, OfColumns
from silofl.federation.privacy.release_log import ReleaseLog, log_path
from silofl.federation.schema import agree_on_schema
from silofl.privacy.ledger import Ledger
from silofl.tasks.bounded_columns import POWER
from silofl.tasks.column_agreement import column_agreement
from silofl.tasks.files import Files
from silofl.tasks.preprocessing import Preprocessing
from silofl.tasks.recipe_making import Agreed

FILE = "preprocessing.json"
_WINDOWS = (-160, 0, 220)
"""Powers of two by which three parts of a number are multiplied, each then an exact number of its own."""
_ENDS = (64, -96)
"""Of which powers of two the first and the second part are multiples."""


@dataclass(frozen=True)
class Statistics:
    """What is done to columns, and what was spent to know it."""

    preprocessing: Preprocessing
    spent: str = ""
    """The ledger, as text; empty where there was no noise."""

    @property
    def ledger(self) -> Ledger:
        """What was spent; empty without privacy."""
        return Ledger.from_json(self.spent) if self.spent else Ledger()

    def same_as(self, other: Statistics) -> bool:
        """Whether they are of one run: silos whose data name no columns have the same without names."""
        mine, its = (
            [replace(column, name="") for column in one.preprocessing.columns] for one in (self, other)
        )
        names = same_columns(self.preprocessing.names, other.preprocessing.names)
        target = self.preprocessing.target == other.preprocessing.target
        return names and target and (mine, self.spent) == (its, other.spent)


def same_columns(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether names are the same; data without any are taken in the order of the others'."""
    return one == other or (len(one) == len(other) and not (any(one) and any(other)))


def agree_on_statistics(
    group: ElasticGroup, config: Config, task: Files, silos: int, trust: Trust, path: Path, *, resume: bool
) -> Statistics:
    """What is done to all silos' columns: as in the run's earlier jobs, else from all records. Collective.

    The task has the samples then, and keeps them for its next `data`. Under [privacy] every silo has the
    run's lock, and what was found is on its disk.

    Raises:
        ConfigError: two silos kept other statistics, or a file of them cannot be read.
        MismatchError: silos have other columns than most.
        ChangedDataError: the columns are not those that the run began with.
        LessProtectionError: what is kept says that less was spent than a silo's own log.
        DataError: as of `Files.data`.
    """
    kept = group.step(lambda: _kept_by_any(group, path)) if resume else None
    private = config.privacy.unit != "none"

    def columns() -> None:
        with raise_on_all_ranks(group.comm):
            task.read(group.silo_id)
        agree_on_schema(group.comm, task.schema())
        with raise_on_all_ranks(group.comm):
            _refuse_other_columns(kept, task, group.silo_id)
            if private and kept is not None:
                _refuse_forgotten(kept, group.silo_id, path, str(trust.run))

    group.step(columns)
    if kept is not None:
        return kept
    make = partial(statistics_aggregator, group, config, silos, trust.signer)
    if not private:
        return Statistics(_added_up(make, task, group.silo_id, config.run.seed))
    found = _added_up_with_noise(
        group, config, make, task, silos, NoisyStatistics(group, config, path, str(trust.run))
    )
    with raise_on_all_ranks(group.comm):
        keep(path, group.silo_id, found)
    return found


def statistics_aggregator(
    group: ElasticGroup, config: Config, silos: int, signer: Signer | None
) -> Aggregator:
    """What adds statistics up, over the silos that are there; collective."""
    secure = configuration.for_silo(config, group.silo_id).secure
    spec = AggregationSpec(
        (VectorSpec("statistics", 1, weighting="uniform"),),
        np.dtype(np.float64),
        1,
        config.run.seed,
        configuration.digest(config),
        silos,
    )
    return protocols.build(group, secure, spec, signer)


def _added_up(make: Callable[[], Aggregator], task: Files, silo: int, seed: int) -> Preprocessing:
    agreement = column_agreement(task, silo, seed)
    aggregator = make()
    try:
        summand = next(agreement)
        while True:
            summand = agreement.send(exact_sums(aggregator, summand))
    except StopIteration as end:
        found: Preprocessing = end.value
        return found
    finally:
        aggregator.close()


def _added_up_with_noise(
    group: ElasticGroup,
    config: Config,
    make: Callable[[], Aggregator],
    task: Files,
    silos: int,
    noisy: NoisyStatistics,
) -> Statistics:
    by_person = config.privacy.unit == "patient"
    own = OfColumns(config.privacy, task.bounded_sums(group.silo_id, by_person=by_person), POWER)
    noisy.begin()
    noisy.refuse_without_round(own, silos)
    found = noisy.reduce(make, own)
    scaling = task.bounded(group.silo_id).scaling(found.sums, found.deviation)
    return Statistics(task.recipe(Agreed(scaling)), found.spent.to_json())


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


def keep(path: Path, silo: int, statistics: Statistics) -> None:
    """Have a run's statistics on a silo's disk. StorageError where that refuses."""
    folder = path / stem(silo)
    with storage(folder):
        private_files.make_folder(folder)
    write_bytes(folder / FILE, dumps(statistics).encode())


def dumps(statistics: Statistics) -> str:
    """As text, for a file and for a silo that returns."""
    spent = {"spent": json.loads(statistics.spent)} if statistics.spent else {}
    return json.dumps(statistics.preprocessing.to_json() | spent)


def loads(text: str) -> Statistics:
    """From `dumps`. ValueError, TypeError, KeyError or ConfigError for what is none."""
    table = json.loads(text)
    spent = Ledger.from_json(json.dumps(table["spent"])).to_json() if "spent" in table else ""
    table.pop("spent", None)
    return Statistics(Preprocessing.from_json(table), spent)


def of_returning(path: Path, silo: int, told: str | None) -> Statistics | None:
    """What others tell a silo that comes back; None where silos agree on nothing.

    ConfigError where it kept others, if it kept any.
    """
    if not told:
        return None
    kept = _kept(path, silo)
    if kept is not None and not loads(kept).same_as(loads(told)):
        raise ConfigError(
            f"the others scale columns by other statistics than silo {silo} kept in {stem(silo)}/{FILE} of "
            "its run directory: one of them is not of this run"
        )
    return loads(told)


def _kept(path: Path, silo: int) -> str | None:
    """What `keep` wrote, checked; None without a file."""
    file = path / stem(silo) / FILE
    try:
        return dumps(loads(private_files.read_bytes(file).decode()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, ConfigError):
        raise ConfigError(
            f"{file} is damaged, by which the columns of this run are scaled: put it back from a copy, or "
            "remove it to take that of the other silos"
        ) from None


def _kept_by_any(group: ElasticGroup, path: Path) -> Statistics | None:
    """The statistics that silos kept; None where no silo has any, as before a first start. Collective."""
    own: str | None = None
    with raise_on_all_ranks(group.comm):
        own = _kept(path, group.silo_id)
    told = allgather_parsed(group.comm, own, _parsed, "the statistics of its columns")
    known = {silo: one for silo, one in zip(group.members, told, strict=True) if one is not None}
    first = next(iter(known), 0)
    for silo, statistics in known.items():
        if not statistics.same_as(known[first]):
            raise ConfigError(
                f"silo {silo} has kept other statistics of this run's columns than silo {first}: put its own "
                f"{path / stem(silo) / FILE} back from a copy, or remove it to take that of the other silos",
                rank=0,
            )
    return known.get(first)


def _parsed(told: str | None) -> Statistics | None:
    return None if told is None else loads(told)


def _refuse_other_columns(kept: Statistics | None, task: Files, silo: int) -> None:
    names = tuple(name for name, _ in task.schema())
    if kept is not None and not same_columns(kept.preprocessing.names, names):
        raise ChangedDataError(
            f"silo {silo} has other columns than those whose statistics this run began with: restore them, "
            "or begin another run with --run"
        )


def _refuse_forgotten(kept: Statistics, silo: int, path: Path, run: str) -> None:
    """Raise LessProtectionError where a silo's log has more spent on statistics than what is kept says."""
    logged = spent_in(ReleaseLog(log_path(path, silo), run), silo, last=ROUND)
    if kept.ledger.forgets(logged, silo):
        raise LessProtectionError(
            f"what silo {silo} is to scale its columns by says that less was spent for it than its own "
            "release log has: the run does not go on with less protection than it had"
        )
