"""[robust] under a secure sum: means of buckets in the place of updates, and what they show."""

from __future__ import annotations

from dataclasses import replace

from silofl.aggregation.bucketing import Bucketing, DrawnBuckets
from silofl.aggregation.protocols import choose_protocol
from silofl.aggregation.spec import AggregationSpec
from silofl.config import Config


def in_buckets(config: Config, spec: AggregationSpec, drawn: DrawnBuckets | None = None) -> AggregationSpec:
    """What is added up where [robust] goes with a secure sum; every silo counts once.

    `drawn` has which buckets there were.
    """
    rule = config.robust.rule
    if rule is None or not choose_protocol(config.secure, spec.silos).private:
        return spec
    vectors = tuple(replace(one, weighting="uniform") for one in spec.vectors)
    if rule.bucket == 1:  # each silo does by itself what the rule asks
        return replace(spec, vectors=vectors, rows=False)
    kept = DrawnBuckets() if drawn is None else drawn
    bucketing = Bucketing(rule.bucket, rule.fewest(rule.f), rule.f, rule.redraw, kept)
    return replace(spec, vectors=vectors, bucketing=bucketing)


def describe_buckets(config: Config, silos: int) -> str:
    """What means of buckets show, and to whom, of a run of so many silos; empty where there are none."""
    rule = config.robust.rule
    if rule is None or rule.bucket == 1 or not choose_protocol(config.secure, silos).private:
        return ""
    count, size, hidden = silos // rule.bucket, rule.bucket, rule.bucket - 2
    who = "1 silo that colludes sees" if hidden == 1 else f"{hidden} silos that collude see"
    drawn = "drawn when silos come or go"
    over_time = (
        "each change of silos draws others, and several sets of means tell what one silo's updates have"
    )
    if rule.redraw is not None:
        every = "every round" if rule.redraw == 1 else f"every {rule.redraw} rounds"
        drawn, over_time = (
            f"drawn anew {every}",
            "after five draws or so means tell what one silo's updates have",
        )
    return (
        f"buckets: in each round the means of {count} buckets of {size} silos or more, {drawn}, are opened, "
        f"slice by slice to the ranks that serve them: count them as known to all; {who} no other's update; "
        f"{over_time} in common, which [privacy] alone bounds"
    )
