"""Which number of bands leaves the least noise in a model at a run's epsilon, told before the run starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from silofl.errors import ConfigError
from silofl.privacy.bands import matrix_for
from silofl.privacy.plan import Plan

CHOICES = (1, 2, 4, 8, 16)
"""More bands than these cost memory, and models in `benchmarks/README.md` were no better for them."""
ALIKE = 1.05
"""Fewer bands are preferred where more leave less noise by no more than this factor."""


def errors_of(plan: Plan, choices: Iterable[int]) -> dict[int, float]:
    """Expected error of the sum of all releases up to a round with each number of bands, in clipping norms.

    Root of the mean square over rounds, of one coordinate, each with the noise that `target_epsilon` needs.
    Left out are numbers of bands for which no noise reaches it.
    """
    found = {}
    for bands in choices:
        matrix = matrix_for(bands, plan.rounds)
        config = plan.config.model_copy(update={"bands": bands})
        try:
            noise = replace(plan, config=config, matrix=matrix).noise_multiplier()
        except ConfigError:  # a ring that has no room for correlated noise, say
            continue
        found[bands] = noise * matrix.error(plan.rounds)
    return found


def better(plan: Plan) -> tuple[int, float] | None:
    """The number of bands to prefer to the plan's, and which part of its error that would leave.

    None where no other leaves clearly less; the fewest that are `ALIKE` to the best.
    """
    now, most = plan.matrix.bands, min(plan.rounds, int(1 / plan.config.sample_rate))
    errors = errors_of(plan, sorted({now, *(one for one in CHOICES if one <= most)}))
    least = min(errors.values()) * ALIKE
    chosen = min(bands for bands, error in errors.items() if error <= least)
    if errors[now] <= errors[chosen] * ALIKE:
        return None
    return chosen, errors[chosen] / errors[now]
