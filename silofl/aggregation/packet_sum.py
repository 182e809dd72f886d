"""Means of packets in the clear: every silo's goes to every other, and each rank makes the whole mean."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Authorizer, authorize
from silofl.aggregation.compressed import Compression, compresses, on_every_rank, part_of
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.residuals import Residuals
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.sum_terms import NOTHING_IN_COMMON, Common
from silofl.aggregation.tail import EncodingQuality, valid_weight
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.compression.base import PacketCodec, weighted_mean
from silofl.errors import DataError, ProtocolError
from silofl.types import Contribution, Total, Vector, Weighting

DIGEST = 16


@dataclass(frozen=True)
class Received:
    """What one silo's message says.

    Attributes:
        samples: as how many it counts.
        weight: of its vectors whose weighting is "round".
        scalars: in the spec's order.
        vectors: (d_name,) by name.
    """

    samples: float
    weight: float
    scalars: tuple[float, ...]
    vectors: Mapping[str, Vector]


class PacketSum:
    """`Aggregator` of a codec that has packets: see the module. Every silo sees every other's packet.

    Silos compare what they have received, so that none can give two of them different packets.

    Args:
        group: the ranks.
        spec: what is averaged.
        compression: with a `PacketCodec`.
        residuals: this silo's, which error feedback adds.
    """

    def __init__(
        self, group: ElasticGroup, spec: AggregationSpec, compression: Compression, residuals: Residuals
    ) -> None:
        self._group, self.spec, self._way, self._residuals = group, spec, compression, residuals
        assert isinstance(compression.codec, PacketCodec), "others are added up"
        self._codec: PacketCodec = compression.codec
        self.layout = on_every_rank(spec, group.members)
        self.served = self.layout.shards
        self.participants = group.members
        self.quality = EncodingQuality()
        self.summed_samples = float(group.comm.allreduce(np.array([float(spec.samples)]))[0])
        self._total: Total | None = None

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        return f"plain (every rank sees every update, as {type(self._codec).__name__} leaves it)"

    def prepare(self) -> None:
        """See `Aggregator`; nothing is made ahead."""

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        authorizer: Authorizer | None = None,
        common: Common = NOTHING_IN_COMMON,
    ) -> None:
        """See `Aggregator`. Raises ProtocolError, on every rank, naming whose packet is none."""
        self._residuals.begin()
        self._total = None
        absent = self._group.silo_id in common.absent
        message = b"" if absent else self._message(contribution, round_number)
        received, total = self._group.step(lambda: self._added_up(message, common.absent))
        self._total, self.participants = total, tuple(received)
        self.summed_samples = sum(one.samples for one in received.values())
        authorize(self._group, authorizer, self.participants)

    def _message(self, contribution: Contribution, round_number: int) -> bytes:
        numbers = [float(self.spec.samples), contribution.weight]
        numbers += [contribution.scalars[name] for name in self.spec.scalars]
        parts = [struct.pack(f"<{len(numbers)}d", *numbers)]
        for one in self.spec.vectors:
            values = contribution.vectors[one.name]
            packet = self._packet(one, values, round_number) if compresses(one) else values.tobytes()
            parts += [struct.pack("<Q", len(packet)), packet]
        return b"".join(parts)

    def _packet(self, one: VectorSpec, values: Vector, round_number: int) -> bytes:
        if self._way.keeps_error:
            values = self._residuals.added(one, values)
        draw = self._way.draw(self.spec.seed, round_number, one.name).of_silo(self._group.silo_id)
        packet = self._codec.pack(values, draw)
        if self._way.keeps_error:
            sent = self._codec.unpack(packet, one.size, values.dtype)
            self._residuals.propose(one, values - sent)
        return packet

    def _added_up(self, message: bytes, absent: tuple[int, ...]) -> tuple[dict[int, Received], Total]:
        """What each silo has sent that brings something, and the mean of it; collective."""
        silos, every = self._exchange(message, absent)
        with raise_on_all_ranks(self._group.comm):
            received = {silo: self._parsed(silo, one) for silo, one in zip(silos, every, strict=True)}
            return received, self._mean([*received.values()])

    def _exchange(self, message: bytes, absent: tuple[int, ...]) -> tuple[tuple[int, ...], list[bytes]]:
        """The silos that bring something, and the message of each; collective."""
        comm, members = self._group.comm, self._group.members
        comm.mark("collect first")
        every = comm.allgather_bytes(message)
        seen = b"".join(hashlib.sha256(one).digest()[:DIGEST] for one in every)
        told = comm.allgather_bytes(seen)
        for place, silo in enumerate(members):
            part = slice(place * DIGEST, (place + 1) * DIGEST)
            if len({one[part] for one in told}) > 1:
                raise ProtocolError(
                    f"silos have received different packets from silo {silo}, or one of them says so; "
                    "nothing was made of them",
                    sender=silo,
                )
        here = [(silo, one) for silo, one in zip(members, every, strict=True) if silo not in absent]
        return tuple(silo for silo, _ in here), [one for _, one in here]

    def _parsed(self, silo: int, message: bytes) -> Received:
        try:
            return self._read(message)
        except (ValueError, struct.error):
            raise ProtocolError(
                f"silo {silo}'s packet is none of {type(self._codec).__name__}: it runs another version, or "
                "the packet was changed on its way; nothing was made of it",
                sender=silo,
            ) from None

    def _read(self, message: bytes) -> Received:
        count = 2 + len(self.spec.scalars)
        samples, weight, *scalars = struct.unpack_from(f"<{count}d", message)
        if not (math.isfinite(samples) and samples > 0):
            raise ValueError("no number of samples")
        vectors: dict[str, Vector] = {}
        place = 8 * count
        for one in self.spec.vectors:
            (length,) = struct.unpack_from("<Q", message, place)
            packet = message[place + 8 : place + 8 + length]
            if len(packet) != length:
                raise ValueError("cut off")
            place += 8 + length
            if compresses(one):
                vectors[one.name] = self._codec.unpack(packet, one.size, self.spec.dtype)
            else:
                vectors[one.name] = np.frombuffer(packet, self.spec.dtype)
            if vectors[one.name].size != one.size or not np.isfinite(vectors[one.name]).all():
                raise ValueError("of another length, or not finite")
        if place != len(message):
            raise ValueError("too long")
        return Received(samples, weight, tuple(scalars), vectors)

    def _mean(self, received: Sequence[Received]) -> Total:
        for one in received:
            unfit = [not valid_weight(one.weight), *(not math.isfinite(number) for number in one.scalars)]
            if any(unfit):
                name = ("weight of the round", *self.spec.scalars)[unfit.index(True)]
                raise DataError(f"a silo's {name} is not finite, or too large; nothing was added up", rank=0)
        by_samples = self._shares("samples", received)
        mean = {}
        for vector in self.spec.vectors:
            rows = [one.vectors[vector.name] for one in received]
            shares = self._shares(vector.weighting, received)
            joined = self._codec.joined if compresses(vector) else weighted_mean
            mean[vector.name] = joined(rows, shares)
        scalars = {
            name: sum(share * one.scalars[k] for share, one in zip(by_samples, received, strict=True))
            for k, name in enumerate(self.spec.scalars)
        }
        return Total(mean, scalars, len(received), self.spec.silos)

    def _shares(self, weighting: Weighting, received: Sequence[Received]) -> list[float]:
        """Every silo's part of a mean."""
        weights = {"samples": [one.samples for one in received], "round": [one.weight for one in received]}
        own = weights.get(weighting, [1.0] * len(received))
        return [one / sum(own) for one in own]

    def pieces(self, index: int) -> dict[str, NDArray[Any]]:
        """See `WholeSums`: every rank has all of it already."""
        return {}

    def counts(self, name: str) -> list[int]:
        """See `WholeSums`."""
        return []

    def take(self, gathered: Mapping[str, NDArray[Any]]) -> None:
        """See `WholeSums`."""

    def total(self, index: int) -> Total:
        """See `Aggregator`; of any slice."""
        whole = self._total
        if whole is None:
            raise RuntimeError("nothing was added up")
        mean = part_of(self.layout, whole.mean, index)
        return Total(mean, whole.scalars, whole.silos, whole.all_silos)

    def sum_scalars(
        self, values: NDArray[np.float64], made_from: Sequence[Vector] = ()
    ) -> NDArray[np.float64]:
        """See `Aggregator`."""
        return self._group.step(lambda: self._group.comm.allreduce(values))

    def close(self) -> None:
        """See `Aggregator`; nothing is held."""
