"""What ranks exchange at the end of a round and of a run, and what the leading rank writes of it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from silofl.comm.collective_errors import Result, allgather_object, capture, raise_on_all_ranks, texts
from silofl.config import Config
from silofl.errors import ProtocolError, SiloflError
from silofl.federation.mean_model import published_values
from silofl.federation.round import RoundResult
from silofl.federation.run_state import RunState
from silofl.federation.rundir import write_own_model
from silofl.federation.signed_decisions import sign_decisions
from silofl.federation.silo import Silo
from silofl.federation.summary import metrics_of, summary_of
from silofl.federation.watched_metrics import agreed, disagreements
from silofl.inference.model_card import ModelCard
from silofl.report.round_metrics import RoundMetrics
from silofl.tasks.base import ListeningTask
from silofl.training.metric_states import checked_names
from silofl.types import Vector

Json = dict[str, Any]
SHOWN = 3
"""Names of tensors that a notice has, of many."""


def conclude(state: RunState, result: RoundResult, began: float, *, asked: bool) -> bool:
    """Write and show the round's line; whether any rank was `asked` to stop. Collective.

    The line comes before the commit of its round: one too many is dropped by a resume, one too few would
    be lost. The round before is committed in the same exchange.
    """
    group, federation = state.group, state.federation
    with state.clock.phase("checkpoint"):
        affordable = capture(federation.affordable)
        mine = _report(state, result, affordable, asked=asked)
        problem = affordable.error(group.comm.rank)
        reports = group.step(lambda: _commit(state, mine, problem))
        members = state.follow_failures()
    state.affordable = min(report["affordable"] for report in reports)
    failed = state.tracker.mark_failed(members)
    state.changed = state.changed or bool(failed)  # where all was made anew within the round
    state.respawns.note(failed, result.round)
    failures, state.seen = group.failures[state.seen :], len(group.failures)
    silos, changes = federation.context.silos, state.tracker.changes()
    seconds = time.perf_counter() - began
    metrics = metrics_of(result, reports, silos, failures, changes, seconds, config=state.config)
    state.logger.round(metrics)
    sign_decisions(federation, metrics)
    if federation.context.watched is not None:
        names, told = federation.context.watched.names, [report["watched"] for report in reports]
        federation.context.watched.observe(result.round, agreed(told, names), federation.values)
        for notice in disagreements(dict(zip(members, told, strict=False)), names):
            state.logger.notice(notice)
    if any(report["listens"] for report in reports):
        group.step(lambda: _tell_task(state, metrics))
    for notice in (*metrics.notices(state.config.secure.range), *_unmoved(state, result.round)):
        state.logger.notice(notice)
    return any(report["stop"] for report in reports)


def _tell_task(state: RunState, metrics: RoundMetrics) -> None:
    """Call the task's `on_round`, where it has one; raises on all ranks what any raised. Collective."""
    silo = state.federation.silo
    with raise_on_all_ranks(state.group.comm):
        if isinstance(silo.task, ListeningTask):
            with silo.code.calling("on_round", silo.task.on_round):
                silo.task.on_round(metrics.to_json())


def _unmoved(state: RunState, round_number: int) -> list[str]:
    """What this silo's first training has left as it was; nothing under [privacy], where noise hides it."""
    names = state.federation.silo.trainer.unmoved
    if round_number != 1 or not names or state.config.privacy.unit != "none":
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [
        f"training in silo {state.group.silo_id} has not moved {', '.join(names[:SHOWN])}{more}: let the "
        "loss depend on every parameter that requires a gradient and the optimizer have it, or freeze it"
    ]


def _report(state: RunState, result: RoundResult, affordable: Result[int], *, asked: bool) -> Json:
    """What this rank tells the others of its round."""
    federation, watched = state.federation, state.federation.context.watched
    phases, own_pace = state.clock.take(), result.staleness is not None
    return {
        "silo": state.group.silo_id,
        "shown": result.shown(state.config),
        "widest": list(result.quality.widest),
        "phases": phases,
        "train_seconds": result.train_seconds if own_pace else phases.get("train"),
        "stop": asked,
        "affordable": 0 if affordable.error(0) else affordable.value(),
        "epsilon": federation.epsilon() if state.group.comm.rank == 0 else None,
        "clip_norm": federation.clip_norm,
        "between": result.bytes_between_groups,
        "listens": isinstance(federation.silo.task, ListeningTask),
        "watched": {} if watched is None else {one: result.metrics.values.get(one) for one in watched.names},
    }


def _commit(state: RunState, mine: Json, problem: SiloflError | None) -> list[Json]:
    """Every rank's report, each under the number of the silo that it came from; collective."""
    told = state.checkpoints.commit_pending(mine, problem or state.logger.problem)
    return [_checked(report, silo) for silo, report in zip(state.group.members, told, strict=True)]


def _checked(report: Any, silo: int) -> Json:
    """A `_report` as `silo` told it. ProtocolError, which names it, for what is none."""
    try:
        checked_names(report["shown"])
        return {
            "silo": silo,
            "shown": {name: _number(value) for name, value in report["shown"].items()},
            "widest": texts(report["widest"]),
            "phases": {str(phase): float(seconds) for phase, seconds in report["phases"].items()},
            "train_seconds": _number(report["train_seconds"]),
            "stop": report["stop"] is True,
            "affordable": int(report["affordable"]),
            "epsilon": _number(report["epsilon"]),
            "clip_norm": _number(report["clip_norm"]),
            "between": None if report["between"] is None else int(report["between"]),
            "listens": report["listens"] is True,
            "watched": {str(name): _number(value) for name, value in report["watched"].items()},
        }
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise ProtocolError(
            f"silo {silo}'s report of a round is refused: it is none that silofl sends", sender=silo, rank=0
        ) from None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def finish(state: RunState) -> Json:
    """Write the model and the summary; the summary on every rank. Collective."""
    group, logger, federation = state.group, state.logger, state.federation
    shared = published_values(federation, _last_round(state))

    def write() -> Json:
        summary: Json = {}
        with raise_on_all_ranks(group.comm):
            if logger.problem is not None:
                raise logger.problem
            _write_own_model(state)
            if group.comm.rank == 0:
                logger.become_leader(state.plan())
                digests = {} if shared is None else _write_models(state, shared)
                summary = summary_of(federation, logger.written_rounds(), digests)
                logger.write_summary(summary)
        first: Json = allgather_object(group.comm, summary)[0]
        return first

    summary = group.step(write)
    logger.finish(summary)
    federation.close()
    return summary


def _last_round(state: RunState) -> int:
    rounds = state.logger.rounds
    return rounds[-1].round if rounds else state.first_round - 1


def _write_models(state: RunState, values: Vector) -> dict[str, str]:
    """Write the shared models, the first of `values` (d,) as `model.safetensors`; their SHA-256 by name."""
    federation = state.federation
    shared, watched = federation.topology.shared, federation.context.watched
    buffers = federation.values[len(shared["model"]) :]
    best = values if watched is None or watched.best is None else watched.best
    card = card_of(state.config, federation.silo).metadata()

    def written(name: str) -> str:
        values = best if name == "model" else np.concatenate([shared[name], buffers])
        return state.logger.write_model(federation.silo.export(values), card, name)

    return {name: written(name) for name in federation.context.strategy.models}


def _write_own_model(state: RunState) -> None:
    """Write this silo's own model, where it has one, into its own folder; no other silo is told of it."""
    federation, last = state.federation, _last_round(state)
    federation.silo.model.load(federation.own_values(last))
    arrays = federation.silo.own.arrays(last)
    if arrays is not None:
        silo = state.group.silo_id
        write_own_model(state.path, silo, arrays, card_of(state.config, federation.silo, of=silo).metadata())


def card_of(config: Config, silo: Silo, of: int | None = None) -> ModelCard:
    """What a model file says of itself: of the shared model, or the personal one `of` this silo."""
    return ModelCard.of(config, silo.task, silo.schema, of)
