"""What a run watches of its metrics: when to end early, and of which round the best model is.

`results.py` hands each round's values to `observe`, after ranks have told each other that they have the same.
What is decided is in every silo's checkpoint. The best model is in memory on every rank and in the checkpoint
of the first silo that is there: one copy more than there is without it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, final

import numpy as np

from silofl.comm.collective_errors import allgather_parsed
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config, RunConfig
from silofl.errors import CheckpointError, ConfigError
from silofl.federation.silo import Silo
from silofl.federation.stateful import Json, Part, State
from silofl.types import Vector

Told = Mapping[str, float | None]


@dataclass(frozen=True)
class Watched:
    """What is known of the rounds so far.

    Attributes:
        best_value, best_round: of `run.keep_best`; None before the first evaluation.
        value: the best of `run.stop_when` that was better by its `min_delta`.
        since: evaluations since then.
        stopped: the round after which the run ended early.
        best_sha256: of the best model, in hex; empty without. Every silo has it, and one the model.
    """

    best_value: float | None = None
    best_round: int | None = None
    value: float | None = None
    since: int = 0
    stopped: int | None = None
    best_sha256: str = ""

    @classmethod
    def parsed(cls, told: Any) -> Self | None:
        """What `asdict` made, as another silo told it. An error for what no run can have seen."""
        if told is None:
            return None
        digest, since = str(told["best_sha256"]), int(told["since"])
        found = cls(
            *(_number(told["best_value"]), _round(told["best_round"]), _number(told["value"])),
            *(since, _round(told["stopped"]), digest),
        )
        if since < 0 or (found.best_round is None) != (not digest):
            raise ValueError
        return found


@final
class WatchedMetrics(Part):
    """One rank's; all ranks have the same.

    Args:
        group: the ranks.
        config: of the run, with `run.stop_when` or `run.keep_best`.
        size: of the model's shared values, d.
        dtype: in which they travel.

    Attributes:
        best: the model (d,) of the best round; None before the first evaluation, and where none is kept.
        notices: what a restore has found.
    """

    name = "watched"

    def __init__(self, group: ElasticGroup, config: Config, size: int, dtype: np.dtype[Any]) -> None:
        self._group, self._size, self._dtype = group, size, dtype
        self._config, self._stop, self._keep = config.run, config.run.stop_when, config.run.keep_best
        self._known = Watched()
        self.best: Vector | None = None
        self.notices: list[str] = []

    @classmethod
    def of(cls, group: ElasticGroup, config: Config, silo: Silo) -> Self | None:
        """Those of a configuration; None where nothing is watched.

        ConfigError where the best model would be less than a silo evaluates.
        """
        if config.run.stop_when is None and config.run.keep_best is None:
            return None
        if config.run.keep_best is not None and silo.model.private_names:
            raise ConfigError(
                "run.keep_best keeps the shared model of a round, and parts of this model stay with each "
                "silo, as they are in the last round: remove run.keep_best, or what keeps them there"
            )
        return cls(group, config, silo.model.size, silo.model.wire_dtype)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the metrics that are watched, each once."""
        return tuple(dict.fromkeys(one.metric for one in (self._stop, self._keep) if one is not None))

    @property
    def ended(self) -> str:
        """Why the run has ended early, for people; empty where it has not."""
        stop, known = self._stop, self._known
        if stop is None or known.stopped is None:
            return ""
        return (
            f"run.stop_when: {stop.metric} has not been better than {known.value:.6g} for {stop.patience} "
            f"evaluation(s); the run ends after round {known.stopped}"
        )

    def refuse_unknown(self, names: frozenset[str]) -> None:
        """Raise ConfigError, on every rank, for a metric that no silo's evaluation has; collective.

        `names` are of this silo's numbers.
        """
        group = self._group

        def tell() -> list[frozenset[str]]:
            return allgather_parsed(
                group.comm, sorted(names), lambda sent: frozenset(map(str, sent)), "the names of its metrics"
            )

        refuse_unknown(self._config, group.step(tell))

    def observe(self, round_number: int, told: Told, values: Vector) -> None:
        """Take in the metrics of a round whose model is `values` (d,); the same on every rank.

        One that is no number, as where a silo failed meanwhile, counts for nothing.
        """
        keep, stop, known = self._keep, self._stop, self._known
        value = None if keep is None else told.get(keep.metric)
        if keep is not None and _better(value, known.best_value, higher=bool(keep.higher)):
            self.best = values.copy()
            digest = _digest(self.best)
            known = replace(known, best_value=value, best_round=round_number, best_sha256=digest)
        value = None if stop is None else told.get(stop.metric)
        if stop is not None and value is not None:
            better = _better(value, known.value, higher=bool(stop.higher), by=stop.min_delta)
            known = replace(known, value=value, since=0) if better else replace(known, since=known.since + 1)
            known = replace(known, stopped=round_number if known.since >= stop.patience else None)
        self._known = known

    def summary(self) -> Json:
        """For `summary.json`: of which round the model is, and whether the run ended early."""
        found: Json = {}
        keep, stop, known = self._keep, self._stop, self._known
        if keep is not None:
            mode = "max" if keep.higher else "min"
            found["best"] = {"metric": keep.metric, "mode": mode, "value": known.best_value}
            found["best"]["round"] = known.best_round
        if stop is not None:
            found["stopped_early"] = known.stopped
        return found

    def state(self) -> State:
        """See `Stateful`."""
        holds = self.best is not None and self._group.silo_id == min(self._group.members)
        return {"known": asdict(self._known), **({"best": self.best} if holds else {})}

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`. CheckpointError, on every rank, where silos have not the same, or none has any."""
        group, own = self._group, state if member else None

        def tell() -> tuple[list[tuple[Watched | None, bool]], tuple[int, ...]]:
            mine = [None if own is None else own["known"], own is not None and "best" in own]
            return allgather_parsed(group.comm, mine, _parsed, "what it watches"), group.members

        told, members = group.step(tell)
        kept = {silo: one for silo, (one, _) in zip(members, told, strict=True) if one is not None}
        if not kept:
            raise CheckpointError("no silo has kept what run.stop_when and run.keep_best have seen", rank=0)
        first, known = next(iter(kept.items()))
        for silo, one in kept.items():
            if one != known:
                raise CheckpointError(
                    f"silo {silo} has kept something else of what run.stop_when and run.keep_best have seen "
                    f"than silo {first}: one of the two checkpoints was changed; put it back from a copy",
                    rank=0,
                )
        self._known, self.best = known, None
        if known.best_round is not None:
            holders = [silo for silo, (_, has) in zip(members, told, strict=True) if has]
            self._share(holders[:1], None if own is None else own.get("best"))

    def rejoin_state(self) -> Json:
        """See `Stateful`; the best model follows by `share`."""
        return asdict(self._known)

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`."""
        known = Watched.parsed(told)
        assert known is not None, "the others have one"
        self._known = known

    def share(self, newcomers: tuple[int, ...]) -> None:
        """Give silos that rejoin the best model; collective."""
        if self._known.best_round is not None:
            self._share([silo for silo in self._group.members if silo not in newcomers], self.best)

    def _share(self, holders: list[int], mine: Vector | None) -> None:
        """Let all ranks have the best model of the first of `holders` that is there; collective.

        Where none is, that model is lost, and another is looked for. CheckpointError, on every rank, where it
        is not the one that was the best.
        """
        group, values = self._group, np.empty(self._size, self._dtype)

        def spread() -> bool:
            giver = next((silo for silo in group.members if silo in holders), None)
            if giver is None:
                return False
            given = mine if group.silo_id == giver and mine is not None else values[:0]
            counts = [self._size if silo == giver else 0 for silo in group.members]
            group.comm.allgather(np.ascontiguousarray(given), values, counts)
            return True

        if group.step(spread):
            if _digest(values) != self._known.best_sha256:
                raise CheckpointError(
                    "the model that was kept for run.keep_best is not that of round "
                    f"{self._known.best_round}: the checkpoint of the first silo was changed; put it back "
                    "from a copy",
                    rank=0,
                )
            self.best = values
            return
        self.notices.append(
            f"the best model, of round {self._known.best_round}, lay with a silo that is not here: "
            "run.keep_best looks for another from here on"
        )
        self._known = replace(self._known, best_value=None, best_round=None, best_sha256="")


def _better(value: float | None, best: float | None, *, higher: bool, by: float = 0.0) -> bool:
    if value is None:
        return False
    return best is None or (value > best + by if higher else value < best - by)


def _number(told: Any) -> float | None:
    found = None if told is None else float(told)
    if found is not None and not math.isfinite(found):
        raise ValueError
    return found


def _round(told: Any) -> int | None:
    found = None if told is None else int(told)
    if found is not None and found < 1:
        raise ValueError
    return found


def _digest(values: Vector) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def _parsed(sent: Any) -> tuple[Watched | None, bool]:
    known, has = sent
    return Watched.parsed(known), has is True


def refuse_unknown(run: RunConfig, names: Iterable[frozenset[str]]) -> None:
    """Raise ConfigError for a metric that no silo's evaluation has; `names` are of each silo's numbers."""
    every = frozenset[str]().union(*names)
    for key, one in (("stop_when", run.stop_when), ("keep_best", run.keep_best)):
        if one is not None and one.metric not in every:
            has = f"the task has {', '.join(sorted(every))}: name one of these"
            raise ConfigError(
                f"run.{key} watches the metric {one.metric!r}, and "
                + (has if every else "no silo has held-out samples: remove it, or give a silo some"),
                rank=0,
            )


def disagreements(told: Mapping[int, Told], names: tuple[str, ...]) -> list[str]:
    """A sentence for each watched metric that silos, by number, do not have the same of: sums are."""
    found = []
    for name in names:
        values = {silo: one.get(name) for silo, one in told.items()}
        first = min(values)
        others = [str(silo) for silo, value in values.items() if value != values[first]]
        if others:
            found.append(
                f"silo {', '.join(others)} has another {name} of all silos than silo {first}: run.stop_when "
                "and run.keep_best leave this round out; it runs other code, or lies"
            )
    return found


def agreed(told: list[Told], names: tuple[str, ...]) -> Told:
    """By name the value that all ranks have told; None where they differ, or one has none."""
    values = {name: {one.get(name) for one in told} for name in names}
    return {name: next(iter(found)) if len(found) == 1 else None for name, found in values.items()}
