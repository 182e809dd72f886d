"""The aggregator of a run, as its configuration has it: for the silos that are there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from silofl import config as configuration
from silofl.aggregation import protocols
from silofl.aggregation.base import Aggregator
from silofl.aggregation.compressed import Compression
from silofl.aggregation.neighbour_aggregator import neighbour_aggregator
from silofl.compression import registry as codecs
from silofl.federation.global_mask import kept_of
from silofl.federation.in_buckets import in_buckets
from silofl.federation.sum_spec import aggregation_spec, summed

if TYPE_CHECKING:
    from silofl.federation.federation import RunContext


def aggregator_of(context: RunContext, fragment: int = 0) -> Aggregator:
    """The aggregator of a fragment; collective."""
    config, group = context.config, context.group
    own, tolerant = (context.silo, context.strategy, context.silos), group.fault_tolerant
    spec = aggregation_spec(config, *own, tolerant=tolerant, fragment=fragment)
    if context.openings is not None:
        spec = in_buckets(config, spec, context.openings.buckets)
    secure = configuration.for_silo(config, group.silo_id).secure
    signer, privacy = context.trust.signer, context.privacy
    if context.arrangement.own_models:
        codec = codecs.build(config.compress)
        of_neighbours = partial(neighbour_aggregator, group, secure, codec=codec, signer=signer)
        if privacy is None:
            return of_neighbours(spec)
        return privacy.wrap(of_neighbours(privacy.inner_spec(spec)), spec)
    build = partial(protocols.build, group, secure, signer=signer)
    if privacy is None:
        way, left = Compression.of(config.compress), context.feedback.residuals
        words = protocols.choose_protocol(secure, context.with_data).private
        return summed(group, build, spec, way, left, words=words, kept=kept_of(context.mask))
    return privacy.wrap(build(privacy.inner_spec(spec)), spec)
