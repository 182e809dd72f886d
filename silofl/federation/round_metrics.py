"""The line that a round leaves in `metrics.jsonl`, and the summary of all of them."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import silofl
from silofl.comm.elastic_group import RankFailure
from silofl.federation.failure.policy import silos_text
from silofl.federation.federation import Federation
from silofl.federation.round import RoundResult

Record = dict[str, Any]


def plan_of(federation: Federation, first_round: int, path: str) -> Record:
    """What is about to run, for people."""
    return {
        "version": silofl.__version__,
        "name": federation.config.run.name,
        "silos": federation.silos,
        "parameters": federation.silo.model.size,
        "strategy": type(federation.strategy).__name__,
        "protocol": federation.aggregator.description,
        "privacy": "" if federation.privacy is None else federation.privacy.description,
        "device": str(federation.silo.model.vector.device),
        "rounds": federation.config.run.rounds,
        "first_round": first_round,
        "path": path,
    }


def record_of(
    result: RoundResult,
    reports: list[Record],
    silos: int,
    failure: RankFailure,
    returned: tuple[int, ...],
    seconds: float,
    sent: int,
) -> Record:
    """A round as JSON. `seconds_by_phase` are means over the silos that were in a phase; `per_silo` is in the
    order of their numbers.

    `began` are the silos that the round was begun with, `survivors` those whose updates are in the model.
    `seconds` and the phase `checkpoint` count the commit of the round before, for this line is written before
    its own round is committed.
    """
    phases = [report["phases"] for report in reports]
    kinds = sorted({kind for phase in phases for kind in phase})
    means = {kind: fmean(phase[kind] for phase in phases if kind in phase) for kind in kinds}
    spent = {kind: reports[0][kind] for kind in ("epsilon", "clip_norm")}
    shown = {report["silo"]: report["shown"] for report in reports}
    return {
        "round": result.round,
        **result.means,
        **{name: value for name, value in spent.items() if value is not None and math.isfinite(value)},
        "per_silo": [shown.get(silo, {}) for silo in range(silos)],
        "began": list(result.began),
        "survivors": list(result.participants),
        "lost": list(failure.silos),
        "returned": list(returned),
        "recovery_seconds": round(failure.seconds, 6),
        "clipped_silos": result.clipped_silos,
        "bytes_sent": sent,
        "seconds": round(seconds, 6),
        "seconds_by_phase": {name: round(value, 6) for name, value in means.items()},
    }


def notices_of(record: Record, bound: float | None) -> list[str]:
    """What people should read beside a round's line; `bound` is `secure.range`."""
    notices = []
    if record["lost"]:
        notices.append(
            f"{silos_text(tuple(record['lost']))} lost in round {record['round']}; "
            f"the others met after {record['recovery_seconds']:.2f} s"
        )
    if record["clipped_silos"]:
        notices.append(
            f"{record['clipped_silos']} silos had values beyond secure.range = {bound}, "
            "which were clipped; raise it, or leave it out"
        )
    return notices


def summary_of(federation: Federation, records: list[Record], model_sha256: str) -> Record:
    """The whole run as JSON: the stable keys of `summary.json`."""
    last, spent = records[-1], federation.epsilon_per_silo()
    phases = sorted({name for record in records for name in record["seconds_by_phase"]})
    return {
        "silofl": silofl.__version__,
        "name": federation.config.run.name,
        "rounds": last["round"],
        "silos": federation.silos,
        "parameters": federation.silo.model.size,
        "loss": last.get("loss"),
        "accuracy": last.get("accuracy"),
        "accuracy_per_silo": [silo.get("accuracy") for silo in last["per_silo"]],
        "epsilon": _finite(federation.epsilon()),
        "epsilon_per_silo": spent and [_finite(epsilon) for epsilon in spent],
        "delta": federation.config.privacy.delta if federation.privacy is not None else None,
        "seconds": round(sum(record["seconds"] for record in records), 3),
        "seconds_by_phase": {
            name: round(sum(record["seconds_by_phase"].get(name, 0.0) for record in records), 3)
            for name in phases
        },
        "bytes_sent_per_round": last["bytes_sent"],
        "survivors": last["survivors"],
        "lost": [[record["round"], silo] for record in records for silo in record["lost"]],
        "returned": [[record["round"], silo] for record in records for silo in record["returned"]],
        "model_sha256": model_sha256,
    }


def _finite(epsilon: float | None) -> float | None:
    """None where nothing is bounded: JSON has no infinity."""
    return epsilon if epsilon is not None and math.isfinite(epsilon) else None
