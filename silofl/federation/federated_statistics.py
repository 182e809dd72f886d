"""`silofl stats`: statistics of all silos' tables together, added up as securely as updates are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl import __version__, silo_log
from silofl.aggregation.base import Aggregator
from silofl.checkpoint.atomic_files import write_json
from silofl.comm.collective_errors import allgather_object, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.config import Config
from silofl.errors import ConfigError, SiloflError, StoppedError
from silofl.federation.preparation import Prepared, prepare
from silofl.federation.standardization import exact_sums, statistics_aggregator
from silofl.tasks.heads import Head, head_of
from silofl.tasks.readers import Samples
from silofl.tasks.recipe_making import numeric_schema
from silofl.tasks.table_statistics import Json, Shown, table_statistics
from silofl.topologies.arrangements.registry import coordinators

FILE = "stats.json"


def federated_statistics(
    config: Config,
    shown: Shown,
    *,
    comm: Communicator,
    noise_multiplier: float | None = None,
    on_directory: Callable[[Path], None] = lambda _: None,
) -> tuple[Json, Path]:
    """Statistics of the files of all silos, every rank reading its own; collective, and the same on each.

    Rank 0 writes them into a directory of their own, beside the run's: `FILE`. Under [privacy]
    they are one noisy sum, of noise of `noise_multiplier`, `privacy.standardize_noise_multiplier` where None.

    Raises:
        ConfigError: there are no files, or as of `noisy_table_sums.noisy_sums`.
        StoppedError: a silo failed after a sum with its numbers was read.
        DataError, MismatchError: as before a run, of data and columns.
    """
    with raise_on_all_ranks(comm):
        refuse_unfit(config, noise_multiplier)
    bounds = {name: (low, high) for name, (low, high) in config.data.bounds.items()}
    shown = replace(shown, ranges=bounds | dict(shown.ranges))
    prepared = prepare(as_tables(config), comm=comm, resume=False, on_directory=on_directory)
    with prepared.peers:
        try:
            return _found(prepared, shown, noise_multiplier), prepared.path
        finally:
            silo_log.end()


def refuse_unfit(config: Config, noise_multiplier: float | None) -> None:
    """Raise ConfigError where there is nothing to read, or noise is asked for that nothing counts."""
    if noise_multiplier is not None and config.privacy.unit == "none":
        raise ConfigError(
            '--noise-multiplier is of noise under [privacy], and privacy.unit is "none": set privacy.unit = '
            '"example", or leave it out'
        )
    if noise_multiplier is not None and not 0 < noise_multiplier < math.inf:
        raise ConfigError(f"--noise-multiplier {noise_multiplier} is no number above 0: correct it")
    if coordinators(config.topology, 1):
        raise ConfigError(
            f'silofl stats is of ranks that all have data, and topology.name = "{config.topology.name}": add '
            "--set topology.name=sharded, and start a rank for each of them alone"
        )
    if config.task.factory or config.task.name != "files":
        raise ConfigError('silofl stats reads tables: set task.name = "files" and data.path')


def as_tables(config: Config) -> Config:
    """The configuration with which tables are read as they stand: with missing values, and not scaled."""
    every: dict[str, Any] = {"impute": {"*": "mean"}, "flag_missing": [], "standardize": False}
    every |= {"center": {}, "scale": {}, "bounds": {}}
    own = {"name": f"{config.run.name or 'run'}-stats"}
    own |= {"dir": f"{config.run.dir.rstrip('/')}-stats"} if config.run.dir else {}
    run = config.run.model_copy(update=own)
    task = config.task.model_copy(update={"class_weights": None})
    return config.model_copy(update={"data": config.data.model_copy(update=every), "run": run, "task": task})


def _found(prepared: Prepared, shown: Shown, noise_multiplier: float | None) -> Json:
    config, group, samples = prepared.start.config, prepared.group, prepared.samples
    assert samples is not None, "files are read before"
    with raise_on_all_ranks(group.comm):
        if samples.features.ndim != 2:
            raise ConfigError("silofl stats is of tables, and data.path has images: they have no columns")
        head = head_of(config.task, config.data)
        numbers = {name for name, _ in numeric_schema(samples.schema)} | set(head.numbers(samples.labels))
        for name in sorted(set(shown.ranges) - numbers - {"*"}):
            kind = "of features" if name not in dict(samples.schema) else "of numbers, but of categories"
            raise ConfigError(f"--range has {name!r}, which is no column {kind}: correct the name")
    private = config.privacy.unit != "none"
    multiplier = config.privacy.standardize_noise_multiplier if noise_multiplier is None else noise_multiplier
    _refuse_other_requests(group.comm, shown, multiplier if private else 0.0)
    if private:
        from silofl.federation.noisy_table_sums import noisy_sums

        told = noisy_sums(prepared, head, shown, multiplier)
    else:
        told = _exact(prepared, samples, head, shown)
    found = {"silofl": __version__, "of": prepared.start.silos, **told}

    def keep() -> None:
        with raise_on_all_ranks(group.comm):
            if group.comm.rank == 0:
                write_json(prepared.path / FILE, json.loads(json.dumps(found)), private=False)

    group.step(keep)
    return found


def _exact(prepared: Prepared, samples: Samples, head: Head, shown: Shown) -> Json:
    """Without noise; collective."""
    config, group = prepared.start.config, prepared.group
    group.started()  # from here on others go on without a silo that fails
    sums = _Sums(
        group, lambda: statistics_aggregator(group, config, prepared.start.silos, prepared.trust.signer)
    )
    statistics = table_statistics(config.data, samples, head, shown)
    try:
        summand = next(statistics)
        while True:
            summand = statistics.send(sums.of(summand))
    except StopIteration as end:
        return {"silos": list(sums.silos), **end.value}


def _refuse_other_requests(comm: Communicator, shown: Shown, noise_multiplier: float) -> None:
    """Raise ConfigError on all ranks where one asks for other statistics: sums would mean nothing."""
    ranges = {name: list(pair) for name, pair in shown.ranges.items()}
    asked = {"--bins": shown.bins, "--range": ranges, "--noise-multiplier": noise_multiplier}
    every = allgather_object(comm, asked)
    for option in asked:
        for rank, other in enumerate(every):
            if other[option] != every[0][option]:
                raise ConfigError(
                    f"silofl stats needs the same {option} on all ranks: it is {every[0][option]} on rank 0 "
                    f"and {other[option]} on rank {rank}",
                    rank=0,
                )


class _Sums:
    """Sums over one set of silos: that of the first that was read.

    A silo that fails before is left out. After that nothing more is shown: the difference of sums over other
    silos would tell of what that silo has. Of one that fails within a later sum the ranks have seen one such
    sum by then.
    """

    def __init__(self, group: ElasticGroup, make: Callable[[], Aggregator]) -> None:
        self._group, self._make = group, make
        self.silos: tuple[int, ...] = ()

    def of(self, summand: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over all silos of what each brings; collective."""
        while True:
            aggregator = self._make()
            try:
                silos = aggregator.layout.shards.members
                self._refuse_others(silos)
                *total, summed = exact_sums(aggregator, np.append(summand, 1.0))
                if summed == len(self._group.members):
                    silos = self._group.members
                    self._refuse_others(silos)
            except SiloflError:  # which all ranks raise together; after any other they do not meet
                aggregator.close()
                raise
            aggregator.close()
            if math.isnan(summed) and self._group.members != silos:
                continue  # a silo failed, and nothing was read
            self.silos = silos
            return np.array(total)

    def _refuse_others(self, silos: tuple[int, ...]) -> None:
        if self.silos and silos != self.silos:
            lost = sorted(set(self.silos) - set(silos))
            raise StoppedError(
                f"silo {lost[0]} failed after a sum with its numbers was read, and without it the next would "
                "tell of them: start the same command again when it is back",
                rank=0,
            )
