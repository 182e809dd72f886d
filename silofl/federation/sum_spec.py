"""What sums are made of, and what [prune] and [compress] put around the aggregator that adds it up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from silofl import config as configuration
from silofl.aggregation import factored
from silofl.aggregation.base import Aggregator
from silofl.aggregation.compressed import CompressedSum, Compression
from silofl.aggregation.factored import FactoredSum
from silofl.aggregation.packet_sum import PacketSum
from silofl.aggregation.pruned_sum import PrunedSum, pruned_spec
from silofl.aggregation.residuals import Residuals
from silofl.aggregation.sketched import SketchedSum
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.compression.base import Codec, FactorCodec, SketchCodec
from silofl.compression.none import NoCodec
from silofl.config import Config
from silofl.federation.in_buckets import in_buckets
from silofl.federation.recomputation import recomputations, replica_count
from silofl.federation.silo import Silo
from silofl.strategies.base import Strategy
from silofl.topologies.arrangements.registry import coordinators
from silofl.topologies.base import BUFFERS
from silofl.types import Mask

WHOLE = Compression(NoCodec(), bits=None, rotation=False, keeps_error=False)
"""All values are sent, and every rank has the whole sum."""


def aggregation_spec(
    config: Config, silo: Silo, strategy: Strategy, silos: int, *, tolerant: bool, fragment: int = 0
) -> AggregationSpec:
    """What sums are made of: the strategy's vectors, of one `fragment`, and the model's buffers, exactly.

    `silos` are all ranks, those without data, too.
    """
    model, part = silo.model, silo.fragments[fragment]
    names = tuple(model.tensor_names[part.tensors])
    shapes = tuple(model.tensor_shapes[part.tensors])
    ends = model.tensor_ends[part.tensors] - part.values.start
    vectors = [
        VectorSpec(
            name, part.size, "counts" if name in strategy.masks else "scaled", weighting, names, ends, shapes
        )
        for name, weighting in strategy.sends.items()
    ]
    buffers = model.size - model.trainable
    if buffers:
        named = tuple(model.buffer_names)
        vectors.append(VectorSpec(BUFFERS, buffers, "exact", "samples", named, model.buffer_ends))
    without_data = coordinators(config.topology, silos)
    spec = AggregationSpec(
        tuple(vectors),
        model.wire_dtype,
        silo.counted,
        config.run.seed,
        configuration.digest(config),
        silos - len(without_data),
        replica_count(config, silos) if tolerant else 0,
        strategy.scalars,
        strategy.needs == "rows" or config.robust.rule is not None or config.detection.active,
        recomputations(config, silos),
        without_data,
        next(iter(without_data), None),
    )
    return in_buckets(config, spec)


def unfit(vectors: Sequence[VectorSpec], codec: Codec) -> str | None:
    """Why a codec has nothing to make shorter of vectors, naming key, value and remedy; None where it has."""
    if isinstance(codec, FactorCodec):
        return factored.unfit(vectors, codec)
    if isinstance(codec, SketchCodec):
        return next(filter(None, (codec.unfit(one.size) for one in vectors)), None)
    return None


def summed(
    group: ElasticGroup,
    build: Callable[[AggregationSpec], Aggregator],
    spec: AggregationSpec,
    way: Compression | None,
    residuals: Residuals,
    *,
    words: bool,
    kept: Mask | None = None,
) -> Aggregator:
    """The aggregator of what is left of a pruned model, compressed; see `compressed`. Collective.

    `kept` (P,) is the mask; None where nothing is pruned.
    """
    if kept is None:
        return compressed(group, build, spec, way, residuals, words=words)
    way = WHOLE if way is None else way
    inner = compressed(group, build, pruned_spec(spec, kept), way, residuals, words=words)
    return PrunedSum(inner, spec, kept)


def compressed(
    group: ElasticGroup,
    build: Callable[[AggregationSpec], Aggregator],
    spec: AggregationSpec,
    way: Compression | None,
    residuals: Residuals,
    *,
    words: bool,
) -> Aggregator:
    """The aggregator of `spec` that `build` makes, or one of what [compress] makes of it; collective.

    Args:
        group: the ranks.
        build: makes the aggregator of a spec.
        spec: what is added up.
        way: of [compress]; None: as it is.
        residuals: of error feedback.
        words: whether sums are of ring words.
    """
    if not words:  # floats have room for ones and zeros
        vectors = (replace(one, format="scaled") if one.format == "counts" else one for one in spec.vectors)
        spec = replace(spec, vectors=tuple(vectors))
    if way is None and any(one.format == "counts" for one in spec.vectors):
        way = WHOLE
    if way is None:
        return build(spec)
    if isinstance(way.codec, FactorCodec):
        return FactoredSum(group, build, spec, way, residuals, words=words)
    if isinstance(way.codec, SketchCodec):
        return SketchedSum(group, build, spec, way, residuals, words=words)
    if not way.codec.linear:
        return group.step(lambda: PacketSum(group, spec, way, residuals))
    return CompressedSum(build, spec, way, residuals, words=words, silo=group.silo_id)
