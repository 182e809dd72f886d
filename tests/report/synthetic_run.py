"""A run directory as silofl leaves it, of any size, with silos that fail and come back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from silofl import config as configuration
from silofl.report.round_metrics import RoundMetrics

HOSTILE = (
    "<script>alert(1)</script>'\"&<img src=http://evil.example/x onerror=alert(2)> $\\frac{ \x1b[31m\u202e"
)
"""What a name, a metric or a text of another's run may hold."""
PHASES = ("train", "wait", "aggregate", "evaluate", "step", "checkpoint")


def round_of(number: int, silos: int, *, private: bool = False, name: str = "") -> RoundMetrics:
    """Silo 2 fails in every 40th round and is back in the next."""
    failed = (2,) if number % 40 == 5 else ()
    survivors = tuple(silo for silo in range(silos) if silo not in failed)
    loss, accuracy = 2.0 / number + 0.01 * math.sin(number), 1 - 1 / (number + 1)
    own: list[dict[str, float | None]] = [
        {"train_loss": loss * 0.9 + 0.01 * k, "loss": loss + 0.03 * k, "accuracy": accuracy - 0.01 * k}
        for k in range(silos)
    ]
    more = {name: 0.5} if name else {}
    return RoundMetrics(
        number,
        {} if private else {"loss": loss, "accuracy": accuracy, "auc": accuracy**2, **more},
        epsilon=0.2 * math.sqrt(number) if private else None,
        per_silo=[{} if private or silo in failed else own[silo] for silo in range(silos)],
        began=tuple(range(silos)),
        survivors=survivors,
        failed=failed,
        rejoined=(2,) if number % 40 == 6 else (),
        recovery_seconds=0.01 if failed else 0.0,
        bytes_sent=55_368 + number,
        seconds=0.24 + 0.05 * math.cos(number),
        seconds_by_phase={
            phase: (0.13 + 0.01 * math.sin(number)) / (k + 1) for k, phase in enumerate(PHASES)
        },
    )


def write_run(
    path: Path,
    rounds: int = 6,
    silos: int = 4,
    *,
    ended: bool = True,
    private: bool = False,
    text: str = "",
    **sections: dict[str, Any],
) -> Path:
    """Write `config.toml`, `metrics.jsonl` and, of a run that has `ended`, `summary.json`."""
    path.mkdir(parents=True)
    privacy = {"unit": "silo", "noise_multiplier": 1.0, "max_epsilon": 4.0} if private else {}
    tables: dict[str, Any] = {"run": {"name": text or "synthetic", "rounds": rounds}, "privacy": privacy}
    for name, keys in sections.items():
        tables[name] = tables.get(name, {}) | keys
    (path / "config.toml").write_text(configuration.dump(configuration.parse(tables)))
    every = [round_of(number, silos, private=private, name=text) for number in range(1, rounds + 1)]
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(one.to_json())}\n" for one in every))
    summary = {"silofl": "0.1.0", "rounds": rounds, "silos": silos, "parameters": 6090}
    summary |= {"privacy": text or "none", "keys": text, "models_sha256": {"model": "0" * 64}}
    if ended:
        (path / "summary.json").write_text(json.dumps(summary))
    return path
