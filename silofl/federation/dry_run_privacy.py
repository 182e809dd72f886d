"""What is promised of privacy at the end of a run, found out before it runs: a part of `silofl check`."""

from __future__ import annotations

from collections.abc import Mapping

from silofl.config import Config, conflicts
from silofl.federation.dry_run_silos import DryRunSilos
from silofl.federation.privacy import compressed_noise
from silofl.federation.privacy.compressed_noise import sent_values, way_of
from silofl.federation.privacy.data_budget import foretold
from silofl.federation.privacy.guarantee import describe, notes, plan_for, refuse_over_budget
from silofl.federation.privacy.pipeline import refuse_unprotectable
from silofl.federation.silo import Silo
from silofl.privacy.band_choice import better
from silofl.privacy.claim import NOTHING
from silofl.privacy.column_statistics import StatisticsPlan
from silofl.privacy.plan import Plan
from silofl.privacy.releases import Release
from silofl.report.dry_run_table import SiloDryRun
from silofl.tasks.recipe_making import numeric_schema

SMOOTHING = 0.5
"""Momentum from which on the model follows sums of noise more than single rounds of it."""


def foretold_privacy(
    config: Config, rows: list[SiloDryRun], silo: Silo, every: DryRunSilos
) -> tuple[str, list[str]]:
    """The epsilon that the run will end with if no silo fails; raises what the run would refuse."""
    if config.privacy.unit == "none":
        return NOTHING, []
    refuse_unprotectable(silo, config.privacy)
    expected = config.privacy.records is not None  # with which every silo counts alike
    silos = every.with_data
    records = silo.counted * silos if expected else sum(row.counted for row in rows)
    before = _before(config, silos, silo)
    plan = plan_for(config, sent_values(config, silo.model), records, silos, silos, before=before)
    noise = plan.noise_multiplier()
    refuse_over_budget(plan, noise)
    whole, method = plan.whole(noise), plan.method
    budgets = [foretold(every.config(row.silo), row.silo, whole, method) for row in rows]
    told = [*budgets, _of_bands(config, plan), *compressed_noise.notes(way_of(config), plan, noise)]
    return describe(plan, noise), [*notes(plan, noise), *filter(None, told)]


def _before(config: Config, silos: int, silo: Silo) -> Mapping[Release, int]:
    """What statistics of columns release before the first round; ConfigError as of the run's."""
    if not config.data.standardize:
        return {}
    statistics = StatisticsPlan(config.privacy, silos, len(numeric_schema(silo.schema)))
    statistics.refuse_dear()
    return statistics.of_sum(silos)


def _of_bands(config: Config, plan: Plan) -> str:
    """A sentence on the number of bands that leaves less noise; empty where none does, or can be set."""
    privacy = config.privacy
    several = config.model_copy(update={"privacy": privacy.model_copy(update={"bands": 2})})
    refused = any(wrong for wrong, _ in conflicts.band_rules(several))
    found = None if refused or privacy.target_epsilon is None else better(plan)
    if found is None:
        return ""
    bands, part = found
    told = (
        f"privacy.bands = {bands} would leave {part:.2f} of this noise in the sum of all rounds, at the same"
    )
    momentum = getattr(config.strategy, "momentum", 0.0) >= SMOOTHING
    return f"{told} epsilon" + ("" if momentum or bands == 1 else "; set strategy.momentum = 0.9 with it")
