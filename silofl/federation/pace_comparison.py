"""Which way of waiting for silos reaches a target first, by the seconds that their local training takes.

Times are those of `topologies/virtual_time.py`, in which nothing is run. Where the target is a metric, rounds
are run in this process (`simulation.py`), with arrivals in the same virtual time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

from silofl import config as configuration
from silofl.config import Config
from silofl.errors import ConfigError, DataError
from silofl.federation.early_checks import Start, topology
from silofl.federation.participation import buffering_of, fewest_drawn, refuse_unfit
from silofl.federation.simulation import simulate
from silofl.report.round_metrics import RoundMetrics
from silofl.topologies.arrangements._buffering import Buffering
from silofl.topologies.arrangements.registry import build as arrangement_of
from silofl.topologies.virtual_time import VirtualRound, virtual_rounds

LATE = 1.5
"""Of the median of silos' seconds: the deadline where none is given."""
_ENDS = frozenset({"stop_when", "keep_best"})
"""Keys of [run] by which rounds end before the target, or another round's model is kept."""
_ASYNCHRONOUS = '"asynchronous"'
_GOAL = re.compile(r"([\w/ .-]+?)\s*(>=|<=)\s*([-+.\deE]+)")


@dataclass(frozen=True)
class Goal:
    """A metric of all silos and the value that is to be reached."""

    metric: str
    value: float
    at_least: bool

    @classmethod
    def named(cls, text: str) -> Goal:
        """From `accuracy>=0.95` or `loss<=0.3`. ConfigError for what is neither."""
        match = _GOAL.fullmatch(text.strip())
        try:
            value = float(match[3]) if match else math.nan
        except ValueError:
            value = math.nan
        if match is None or not math.isfinite(value):
            raise ConfigError(
                f'--target {text!r} is no target: write it like "accuracy>=0.95" or "loss<=0.3"'
            )
        return cls(match[1], value, match[2] == ">=")

    def reached(self, history: Sequence[Mapping[str, Any]]) -> int | None:
        """The first round whose metric is there; None where no round's is. ConfigError without the metric."""
        if not any(self.metric in line for line in history):
            raise ConfigError(f"--target names {self.metric}, and the task has no such metric")
        for line in history:
            value = line.get(self.metric)
            if value is not None and (value >= self.value if self.at_least else value <= self.value):
                return int(line["round"])
        return None


@dataclass(frozen=True)
class Outcome:
    """What one way of waiting came to.

    Attributes:
        policy: "synchronous", "deadline" or "buffered".
        waits: what opens a sum, in words.
        rounds: to the target; None where it was not reached.
        seconds: of virtual time to there, or as far as was looked.
        updates: of silos, in these rounds.
        staleness: the largest of them, in rounds.
    """

    policy: str
    waits: str
    rounds: int | None
    seconds: float
    updates: int
    staleness: int

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def measured_seconds(path: Path) -> list[float]:
    """Seconds of each silo's cycle in a run: its training, and a round's beside training and waiting.

    DataError where `path` has no metrics of a run, or they have no seconds of every silo.
    """
    try:
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rounds = [RoundMetrics.from_json(json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} has no metrics.jsonl of a run ({type(error).__name__})") from None
    silos = zip(*(one.train_seconds for one in rounds), strict=False)
    every = [[one for one in silo if one is not None] for silo in silos]
    if not every or not all(every):
        raise DataError(
            f"{path / 'metrics.jsonl'} does not have seconds of every silo's training (train_seconds): of an "
            "older run, or of one in which silos do not show what is their own; give --speeds"
        )
    beside = [
        one.seconds - sum(one.seconds_by_phase.get(phase, 0.0) for phase in ("train", "wait"))
        for one in rounds
    ]
    return [fmean(seconds) + fmean(beside) for seconds in every]


def refuse_incomparable(config: Config) -> None:
    """Raise ConfigError where a run of `config` could not have silos go on at their own pace."""
    name = config.topology.name
    if not arrangement_of(config.topology).any_pace:
        raise ConfigError(
            f'silofl simulate compares serverless runs, and topology.name = "{name}" is none: remove '
            f'[topology], or set topology.name = "sharded" or {_ASYNCHRONOUS}'
        )
    head = f"silofl simulate compares with topology.name = {_ASYNCHRONOUS}, which"
    if config.privacy.unit != "none":
        raise ConfigError(f"{head} does not go with [privacy]: remove [privacy] for the comparison")
    tables = config.model_dump(mode="json", exclude_unset=True)
    try:
        configuration.parse(tables | {"topology": {"name": "asynchronous"}})
    except ConfigError as error:
        why = str(error).removeprefix(f"topology.name = {_ASYNCHRONOUS} ")
        raise ConfigError(f"{head} {why}" if why != str(error) else f"{head} cannot be had: {why}") from None


def policies(
    config: Config, silos: int, seconds: Sequence[float], deadline_s: float | None
) -> dict[str, Buffering]:
    """The three ways of waiting, by name; ConfigError where so many silos cannot wait so.

    What `config` says of an asynchronous topology holds for the one in buffers, and for weights.
    """
    refuse_incomparable(config)
    topology(Start(config, silos))
    refuse_unfit(config, silos)
    fewest = min(silos, fewest_drawn(config, silos))
    rule = buffering_of(config, silos) or Buffering(fewest, fewest)
    rule = replace(rule, seconds=tuple(seconds))
    late = deadline_s or rule.deadline_s or LATE * median(seconds)
    everyone = replace(rule, count=silos, deadline_s=None, max_staleness=None)
    return {
        "synchronous": everyone,
        "deadline": replace(everyone, deadline_s=late, max_staleness=rule.max_staleness),
        "buffered": replace(rule, deadline_s=None),
    }


def compare(
    config: Config,
    silos: int,
    seconds: Sequence[float],
    *,
    deadline_s: float | None = None,
    goal: Goal | None = None,
) -> list[Outcome]:
    """How each way of waiting comes to as many updates as `run.rounds` of all silos are, or to the `goal`.

    Args:
        config: of the run.
        silos: how many there are.
        seconds: of each silo's cycle, see `measured_seconds`.
        deadline_s: of rounds with a deadline; None: of the configuration, or 1.5 times the median silo's.
        goal: a metric for which models are trained in this process.
    """
    found = []
    for name, rule in policies(config, silos, seconds, deadline_s).items():
        rounds = _as_many_updates(rule, seconds, silos * config.run.rounds)
        reached: int | None = len(rounds)
        if goal is not None:
            history = _history(config, silos, rule, len(rounds))
            rounds, reached = rounds[: len(history)], goal.reached(history)
        seen = rounds[:reached]
        staleness = max(one for each in seen for one in each.staleness)
        updates = sum(len(each.silos) for each in seen)
        found.append(Outcome(name, rule.waits(silos), reached, seen[-1].opened_s, updates, staleness))
    return found


def _as_many_updates(rule: Buffering, seconds: Sequence[float], updates: int) -> list[VirtualRound]:
    """The rounds until so many updates are in the model."""
    rounds = virtual_rounds(rule, seconds, updates)  # each has one at least
    total = 0
    for number, one in enumerate(rounds, 1):
        total += len(one.silos)
        if total >= updates:
            return rounds[:number]
    return rounds


def _history(config: Config, silos: int, rule: Buffering, rounds: int) -> list[dict[str, Any]]:
    """Metrics of all the rounds, run in this process: none is the last before the target is reached."""
    tables = config.model_dump(mode="json", exclude_unset=True)
    given = tables.get("topology", {})
    weights = {key: value for key, value in given.items() if key in ("method", "alpha", "staleness")}
    shape = {key: value for key, value in given.items() if key in ("exponent", "slope", "grace")}
    tables["topology"] = {
        "name": "asynchronous",
        "buffer": max(rule.count, rule.fewest),
        "seconds": list(rule.seconds),
        **({} if rule.deadline_s is None else {"deadline_s": rule.deadline_s}),
        **({} if rule.max_staleness is None else {"max_staleness": rule.max_staleness}),
        **weights,
        **shape,
    }
    with TemporaryDirectory() as folder:
        run = {"dir": f"{folder}/run", "rounds": rounds, "display": "none", "evaluate_every": 1}
        kept = {key: value for key, value in tables.get("run", {}).items() if key not in _ENDS}
        tables["run"] = kept | run
        tables["failure"] = {"policy": "abort"}
        tables["checkpoint"] = {"every": 0}
        return simulate(configuration.parse(tables), silos=silos).history
