"""A run as JSON: what is about to run, each round's metrics, and the summary of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import silofl
from silofl.aggregation import protocols
from silofl.comm.elastic_group import RankFailure
from silofl.config import Config
from silofl.detection.silo_standing import Verdict
from silofl.federation.federation import Federation
from silofl.federation.participation import describe_participation
from silofl.federation.recomputation import describe_recomputation
from silofl.federation.round import RoundResult
from silofl.federation.silo_clients import describe_clients
from silofl.privacy.claim import NOTHING, outside
from silofl.report.round_metrics import RoundMetrics
from silofl.tasks.preprocessing import Preprocessing
from silofl.tasks.recipe_making import scaling_of

Json = dict[str, Any]


def plan_of(federation: Federation, first_round: int, path: str) -> Json:
    """What is about to run, for people."""
    return {
        "version": silofl.__version__,
        "name": federation.context.config.run.name,
        "silos": federation.context.silos,
        "parameters": federation.silo.model.size,
        "strategy": type(federation.context.strategy).__name__,
        "personal": federation.silo.own.kind,
        "participation": describe_participation(federation.context.config, federation.context.with_data),
        "clients": describe_clients(
            federation.context.config, federation.context.with_data, federation.silo.clients
        ),
        "protocol": federation.aggregator.description,
        "keys": _keys(federation),
        "steps": describe_recomputation(federation.context.config, federation.context.silos),
        "pruning": federation.context.config.prune.text,
        "robust": federation.context.config.robust.text,
        "detection": federation.context.config.detection.text,
        "attack": federation.context.config.attack.text,
        "privacy": NOTHING if federation.privacy is None else federation.privacy.description,
        "private": federation.privacy is not None,
        "outside": _outside(federation),
        "evaluates": federation.context.config.evaluates,
        "device": str(federation.silo.model.vector.device),
        "rounds": federation.context.config.run.rounds,
        "first_round": first_round,
        "path": path,
    }


def metrics_of(
    result: RoundResult,
    reports: list[Json],
    silos: int,
    failures: Sequence[RankFailure],
    changes: tuple[tuple[int, ...], tuple[int, ...]],
    seconds: float,
    *,
    config: Config,
) -> RoundMetrics:
    """A round's metrics, from what every rank reports and what this rank measured.

    `changes` are the silos that failed and those that rejoined since the last line.
    """
    shown = {report["silo"]: report["shown"] for report in reports}
    return RoundMetrics(
        round=result.round,
        means=result.metrics.values,
        undefined_metrics=result.metrics.undefined,
        withheld_metrics=result.metrics.withheld,
        epsilon=_finite(reports[0]["epsilon"]),
        clip_norm=_finite(reports[0]["clip_norm"]),
        per_silo=[shown.get(silo, {}) for silo in range(silos)],
        began=result.began,
        drawn=result.drawn,
        staleness=_staleness(result),
        survivors=result.participants,
        rejected=result.rejected,
        **detected(result.verdict),
        failed=changes[0],
        rejoined=changes[1],
        recovery_seconds=round(sum(failure.seconds for failure in failures), 6),
        clipped_silos=result.quality.clipped_silos,
        encoding_error=result.quality.error,
        coarse_tensors=result.quality.coarse or {},
        lost_tensors=result.quality.lost or {},
        faint_tensors=result.quality.faint or {},
        widest=_widest(result, reports),
        density=result.density,
        bytes_sent=result.bytes_sent,
        messages_sent=result.messages_sent,
        bytes_between_groups=_between_groups(reports),
        seconds=round(seconds, 6),
        seconds_by_phase=_mean_phases([report["phases"] for report in reports]),
        train_seconds=_train_seconds(result, reports, silos) if shows_pace(config) else [],
    )


def detected(verdict: Verdict | None) -> Json:
    """What [detection] has of a round, as the fields of its line; nothing without."""
    if verdict is None:
        return {}
    return {
        "scores": {str(silo): score.shown() for silo, score in sorted(verdict.scores.items())},
        "suspicious": verdict.suspicious,
        "left_out": verdict.left_out,
        "excluded": {str(silo): why for silo, why in verdict.excluded.items()},
        "reinstated": {str(silo): why for silo, why in verdict.reinstated.items()},
    }


def _between_groups(reports: list[Json]) -> int | None:
    """What all ranks together sent to ranks of other groups; None where there are no groups."""
    told = [report["between"] for report in reports if report["between"] is not None]
    return sum(told) if told else None


def _widest(result: RoundResult, reports: list[Json]) -> dict[str, list[int]]:
    """By tensor that others lost to rounding: silos that asked for its range, as they say or as is opened."""
    lost, claimed = result.quality.lost or {}, result.quality.claimed
    say = {name: {one["silo"] for one in reports if name in one["widest"]} for name in lost}
    found = {name: sorted(silos.union(claimed.get(name, ()))) for name, silos in say.items()}
    return {name: silos for name, silos in found.items() if silos}


def _staleness(result: RoundResult) -> dict[str, int] | None:
    """Of the updates in the sum, by silo."""
    if result.staleness is None:
        return None
    return {str(silo): result.staleness[silo] for silo in result.participants}


def shows_pace(config: Config) -> bool:
    """Whether it is shown how long each silo has trained, which tells of its samples."""
    return config.shares_silo_metrics and config.privacy.unit == "none"


def _train_seconds(result: RoundResult, reports: list[Json], silos: int) -> list[float | None]:
    """How long each silo has trained for its update in the sum."""
    told = {one["silo"]: one["train_seconds"] for one in reports if one["silo"] in result.participants}
    return [None if told.get(silo) is None else round(told[silo], 6) for silo in range(silos)]


def _mean_phases(phases: list[dict[str, float]]) -> dict[str, float]:
    """Seconds by phase, the mean over the ranks that were in it."""
    kinds = sorted({kind for phase in phases for kind in phase})
    return {kind: round(fmean(phase[kind] for phase in phases if kind in phase), 6) for kind in kinds}


def summary_of(federation: Federation, rounds: list[RoundMetrics], models: Mapping[str, str]) -> Json:
    """The whole run as JSON: the stable keys of `summary.json`. `models` are the shared ones' SHA-256."""
    last, spent = rounds[-1], federation.epsilon_per_silo()
    phases = sorted({name for one in rounds for name in one.seconds_by_phase})
    context = federation.context
    gap = context.arrangement.spectral_gap(federation.members, context.config.run.seed)
    return {
        "silofl": silofl.__version__,
        "name": federation.context.config.run.name,
        "rounds": last.round,
        "silos": federation.context.silos,
        "keys": _keys(federation),
        "parameters": federation.silo.model.size,
        **_columns(federation.silo.preprocessing),
        "loss": last.means.get("loss"),
        "accuracy": last.means.get("accuracy"),
        "accuracy_per_silo": [silo.get("accuracy") for silo in last.per_silo],
        "metrics": dict(last.means),
        "metrics_per_silo": [dict(silo) for silo in last.per_silo],
        **(federation.context.watched.summary() if federation.context.watched is not None else {}),
        "personal": federation.silo.own.kind,
        "privacy": NOTHING if federation.privacy is None else federation.privacy.claim(last.round),
        "outside": _outside(federation),
        "epsilon": _finite(federation.epsilon()),
        "epsilon_against": _epsilons(federation),
        "epsilon_per_silo": spent and [_finite(epsilon) for epsilon in spent],
        "neighbours": None if federation.privacy is None else federation.context.config.privacy.neighbours,
        "delta": federation.context.config.privacy.delta if federation.privacy is not None else None,
        "seconds": round(sum(one.seconds for one in rounds), 3),
        "seconds_by_phase": {
            name: round(sum(one.seconds_by_phase.get(name, 0.0) for one in rounds), 3) for name in phases
        },
        "density": last.density,
        "bytes_sent_per_round": last.bytes_sent,
        "messages_sent_per_round": last.messages_sent,
        **({} if last.bytes_between_groups is None else {"bytes_between_groups": last.bytes_between_groups}),
        **({} if gap is None else {"spectral_gap": gap}),
        "robust": federation.context.config.robust.text,
        "attack": federation.context.config.attack.text,
        "rejected": [[one.round, silo] for one in rounds for silo in one.rejected],
        "excluded": [[one.round, int(silo)] for one in rounds for silo in one.excluded],
        "reinstated": [[one.round, int(silo)] for one in rounds for silo in one.reinstated],
        "survivors": list(last.survivors),
        "failed": [[one.round, silo] for one in rounds for silo in one.failed],
        "rejoined": [[one.round, silo] for one in rounds for silo in one.rejoined],
        "model_sha256": models.get("model"),
        "models_sha256": dict(models),
    }


def _columns(recipe: Preprocessing | None) -> Json:
    """What is done to columns, and what of it is scaling, by feature."""
    scaling = None if recipe is None else scaling_of(recipe)
    return {
        "scaling": None if scaling is None else scaling.to_json(),
        "preprocessing": None if recipe is None else recipe.to_json(),
    }


def _keys(federation: Federation) -> str:
    """By which keys silos know each other; empty where a sum hides nothing that keys would protect."""
    context = federation.context
    return protocols.describe_keys(context.config.secure, context.with_data)


def _outside(federation: Federation) -> str:
    config = federation.context.config
    return outside(config.privacy, each_silo=config.shares_silo_metrics)


def _epsilons(federation: Federation) -> Json | None:
    """Epsilon for who sees the models, and for a fellow silo, or `privacy.colluding` of them, together."""
    if federation.privacy is None:
        return None
    spent = federation.privacy.spent()
    return {"observer": _finite(spent.observer), "silos": _finite(spent.silos)}


def _finite(epsilon: float | None) -> float | None:
    """None where nothing is bounded: JSON has no infinity."""
    return epsilon if epsilon is not None and math.isfinite(epsilon) else None
