"""Releases in dp-accounting's own form, so that anybody can work out their epsilon without silofl.

Google's dp-accounting describes what happened as a tree of `DpEvent`s. Here it is made twice from releases:
as JSON, and as Python that is to be pasted. The Gaussians are those that the accountant counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from silofl.privacy.accountant import Method, best_orders
from silofl.privacy.loss_distributions import gaussian_of
from silofl.privacy.releases import Release, replaced_in

Json = dict[str, Any]

RELATIONS = {
    "replace-special": "REPLACE_SPECIAL",
    "add-remove": "ADD_OR_REMOVE_ONE",
    "replace-one": "REPLACE_ONE",
}
"""dp-accounting's `NeighboringRelation` by name in `privacy.neighbours`."""
SKELLAM = (
    "dp-accounting has no event for skellam noise: its Renyi divergences are given in place of one (Agarwal, "
    "Kairouz, Liu 2021, theorem 3.5)"
)
REPLACED = "dp-accounting has no event for one person, in several silos that sample, replaced by another"


def inexpressible(spent: Mapping[Release, int]) -> str:
    """Why dp-accounting has no event for some of the releases; empty where it has one for each."""
    if any(release.mechanism == "skellam" for release in spent):
        return SKELLAM
    several = any(release.institutions > 1 and release.sample_rate < 1 for release in spent)
    return REPLACED if several and replaced_in(spent) else ""


def event_of(spent: Mapping[Release, int], method: Method) -> Json:
    """The tree as JSON: `{"class": ..., fields}`, with the names of dp-accounting's classes and fields.

    Only for what is not `inexpressible`. Under "rdp", whose sums of orders dp-accounting knows for records
    that are there or not, two that replace each other are twice as far apart. A person whom several silos
    sample is a mixture of as many shifts as may have been drawn.
    """
    gaussians = Counter[tuple[float, float, int]]()
    for release, count in spent.items():
        rate, institutions = release.sample_rate, release.institutions
        if method == "rdp":
            noise, institutions = release.noise_multiplier / release.apart, 1
        else:
            noise = gaussian_of(release)[0]
        if rate == 1:
            noise, institutions = noise / institutions, 1
        gaussians[noise, rate, institutions] += count
    return {
        "class": "ComposedDpEvent",
        "events": [_repeated(*one, n) for one, n in sorted(gaussians.items())],
    }


def _repeated(noise: float, rate: float, institutions: int, count: int) -> Json:
    event: Json = {"class": "GaussianDpEvent", "noise_multiplier": noise}
    if institutions > 1:
        shifts = [float(number) for number in range(institutions + 1)]
        probs = [
            math.comb(institutions, n) * rate**n * (1 - rate) ** (institutions - n)
            for n in range(institutions + 1)
        ]
        event = {"class": "MixtureOfGaussiansDpEvent", "standard_deviation": noise}
        event |= {"sensitivities": shifts, "sampling_probs": probs}
    elif rate < 1:
        event = {"class": "PoissonSampledDpEvent", "sampling_probability": rate, "event": event}
    return {"class": "SelfComposedDpEvent", "event": event, "count": count}


def python_of(spent: Mapping[Release, int], delta: float, method: Method, name: str) -> str:
    """Python that assigns to `name` the epsilon of releases, which are of one relation, by dp-accounting."""
    if not spent:
        return f"{name} = 0.0  # nothing was released\n"
    why = inexpressible(spent)
    if why == REPLACED:
        return f"{name} = None  # {why}\n"
    if why:
        return _python_of_orders(spent, delta, name)
    tree = _source(event_of(spent, method), 1)
    if method == "rdp":
        orders = best_orders(spent, [delta])[0]
        accountant = f"rdp.RdpAccountant({orders})"
    else:
        relation = RELATIONS[next(iter(spent)).neighbours]
        accountant = f"pld.PLDAccountant(dp_accounting.NeighboringRelation.{relation})"
    library = "rdp" if method == "rdp" else "pld"
    return (
        f"import dp_accounting\nfrom dp_accounting import {library}\n\n"
        f"event = {tree}\n{name} = {accountant}.compose(event).get_epsilon({delta!r})\n"
    )


def _python_of_orders(spent: Mapping[Release, int], delta: float, name: str) -> str:
    orders, divergences = best_orders(spent, [delta])
    return (
        f"from dp_accounting import rdp\n\n# {SKELLAM}\n"
        f"orders, divergences = {orders}, {divergences}\n"
        f"{name} = rdp.compute_epsilon(orders, divergences, {delta!r})[0]\n"
    )


def _source(event: Json, depth: int) -> str:
    """An event as an expression."""
    indent = "    " * depth
    if "events" in event:
        inner = "".join(f"{indent}{_source(one, depth + 1)},\n" for one in event["events"])
        return f"dp_accounting.dp_event.ComposedDpEvent([\n{inner}{indent[4:]}])"
    fields = [
        _source(value, depth) if isinstance(value, dict) else repr(value)
        for key, value in event.items()
        if key != "class"
    ]
    return f"dp_accounting.dp_event.{event['class']}({', '.join(fields)})"
