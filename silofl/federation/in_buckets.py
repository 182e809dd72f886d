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
    return replace(spec, vectors=vectors, bucketing=Bucketing(rule.bucket, rule.fewest(rule.f), kept))


def describe_buckets(config: Config, silos: int) -> str:
    """What means of buckets show, and to whom, of a run of so many silos; empty where there are none."""
    rule = config.robust.rule
    if rule is None or rule.bucket == 1 or not choose_protocol(config.secure, silos).private:
        return ""
    count, size, hidden = silos // rule.bucket, rule.bucket, rule.bucket - 2
    who = "1 silo that colludes sees" if hidden == 1 else f"{hidden} silos that collude see"
    return (
        f"buckets: in each round the means of {count} drawn buckets of {size} silos or more are opened, "
        f"slice by slice to the ranks that serve them: count them as known to all; {who} no other's update "
        f"in any round, {hidden + 1} do in some; over many rounds they tell what one silo's updates have in "
        "common, which [privacy] alone bounds"
    )
