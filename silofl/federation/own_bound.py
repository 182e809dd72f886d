"""A bound on the length of this silo's own update, kept before masks hide it: by honest silos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from silofl.aggregation.magnitudes import Magnitudes, measure
from silofl.aggregation.protocols import choose_protocol
from silofl.federation.federation import Federation
from silofl.federation.local_work import Fitted


def within_bound(federation: Federation, fitted: Fitted, magnitudes: Magnitudes) -> tuple[Fitted, Magnitudes]:
    """What this silo brings, each vector cut to the length that [robust] bounds it by under a secure sum.

    Not collective. Nobody sees whether a silo has done so.
    """
    context = federation.context
    rule = context.config.robust.rule
    bound = None if rule is None else rule.own_bound
    if bound is None or not choose_protocol(context.config.secure, context.with_data).private:
        return fitted, magnitudes
    vectors = dict(fitted.contribution.vectors)
    for name, vector in vectors.items():
        length = float(np.sqrt(np.add.reduce(vector.astype(np.float64) ** 2)))
        if length > bound:
            vectors[name] = vector * vector.dtype.type(bound / length)
    contribution = replace(fitted.contribution, vectors=vectors)
    return replace(fitted, contribution=contribution), measure(contribution, federation.aggregator.spec)
