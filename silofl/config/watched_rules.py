"""What `run.stop_when` and `run.keep_best` do not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.strategies.base import Strategy

if TYPE_CHECKING:
    from silofl.config import Config


def watched_rules(config: Config, strategy: Strategy) -> list[tuple[bool, str]]:
    """Each rule a condition and the sentence that says what to do."""
    run, privacy = config.run, config.privacy
    keys = [name for name in ("stop_when", "keep_best") if getattr(run, name) is not None]
    key = " and ".join(f"run.{name}" for name in keys)
    decides = "decide" if len(keys) > 1 else "decides"
    unknown = [name for name in keys if getattr(run, name).higher is None]
    return [
        *(
            (
                True,
                f"run.{name} watches {getattr(run, name).metric!r}, of whose name nobody knows "
                'whether more or less is better: set its mode = "max" or "min"',
            )
            for name in unknown
        ),
        (
            bool(keys) and privacy.unit != "none",
            f"{key} {decides} by metrics of held-out records, without noise, what all see of a run with "
            f'privacy.unit = "{privacy.unit}": set run.rounds instead, or remove [privacy]',
        ),
        (
            run.keep_best is not None and len(strategy.models) > 1,
            f'run.keep_best keeps one model, and strategy.name = "{config.strategy.name}" has '
            f"{len(strategy.models)}: remove it",
        ),
        (
            run.keep_best is not None and config.personal.name != "none",
            f'run.keep_best keeps the shared model of a round, and personal.name = "{config.personal.name}" '
            "has another of each silo's, which is the last round's: remove one of them",
        ),
    ]
