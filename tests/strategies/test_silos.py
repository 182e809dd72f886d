"""Real silos, which train by torch, and both halves of each strategy, against the plain references."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from silofl import config as configuration
from silofl.federation.local_work import RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.registry import build
from silofl.types import Total
from tests.strategies import naive
from tests.strategies.naive import SIZE, SIZES, Array
from tests.strategies.test_federated import CASES, LR, STEPS, Softmax

BOUNDS = (0, 2, SIZE)


def federate(table: dict[str, Any], present: Any, *, again: bool) -> Array:
    """The model in the end. `again`: each round is taken twice by each silo, and silos resume after each."""
    train = {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"}
    config = configuration.parse({"strategy": table, "train": train})
    strategy, task = build(config.strategy), Softmax()
    silos = [Silo(config, task, k, len(SIZES), "cpu", strategy) for k in range(len(SIZES))]
    shared = {name: np.zeros(SIZE) for name in strategy.shared}
    spans = [slice(*span) for span in pairwise(BOUNDS)]
    server = [strategy.init(span.stop - span.start, np.dtype(float)) for span in spans]
    for number, here in enumerate(present, 1):
        sent = []
        for k in here:
            for _ in range(1 + again):
                fitted = silos[k].fit(RoundStart(shared, np.empty(0), number, strategy))
            vectors = {name: v.copy() for name, v in fitted.contribution.vectors.items()}
            sent.append(replace(fitted.contribution, vectors=vectors))
            silos[k].accept(fitted)
            if again:
                state = copy.deepcopy(silos[k].state())
                silos[k] = Silo(config, task, k, len(SIZES), "cpu", strategy)
                silos[k].restore(state)
        samples = [silos[k].samples for k in here]
        weights = {name: samples if by == "samples" else None for name, by in strategy.sends.items()}
        scalars = {
            name: float(np.average([one.scalars[name] for one in sent], weights=samples))
            for name in strategy.scalars
        }
        totals = []
        for span in spans:
            mean = {
                name: np.average([one.vectors[name][span] for one in sent], axis=0, weights=weights[name])
                for name in strategy.sends
            }
            totals.append(Total(mean, scalars, len(here), len(SIZES)))
        over_slices = np.sum([*map(strategy.part, server, totals)], axis=0)
        for index, (span, total) in enumerate(zip(spans, totals, strict=True)):
            views = {name: values[span] for name, values in shared.items()}
            whole = replace(total, over_slices=over_slices)
            server[index] = strategy.step(server[index], views, whole)
    return shared["model"]


@pytest.mark.covering(1)
@pytest.mark.parametrize(("table", "reference"), CASES, ids=[str(table) for table, _ in CASES])
@pytest.mark.parametrize("again", [False, True])
def test_silos_do_what_the_papers_say(table: dict[str, Any], reference: Any, again: bool) -> None:
    model = federate(table, naive.SOME[:10], again=again)
    expected = reference(naive.silos(), naive.SOME[:10])
    assert np.abs(expected).max() > 0.2
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-12)
