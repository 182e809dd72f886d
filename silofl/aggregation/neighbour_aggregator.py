"""What a run without a shared model adds up: each silo's neighbours' messages, and numbers of all silos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation import protocols
from silofl.aggregation.base import Aggregator, Authorizer
from silofl.aggregation.layout import Layout
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.neighbour_sums import Exchanged, NeighbourSums, PlainNeighbourSums, WeightsOf
from silofl.aggregation.spec import AggregationSpec
from silofl.aggregation.sum_terms import NOTHING_IN_COMMON, Common
from silofl.aggregation.tail import EncodingQuality
from silofl.comm.elastic_group import ElasticGroup
from silofl.compression.base import KEY_BYTES, Codec, Draw, PacketCodec
from silofl.config import SecureConfig
from silofl.crypto.kdf import digest
from silofl.crypto.signer import Signer
from silofl.types import Contribution, Total, Vector


@dataclass(frozen=True)
class Message:
    """What came of an exchange of messages (m,).

    Attributes:
        own: what others have of this silo's own, which a codec may have changed.
        exchanged: the weighted sum of its neighbours' (m,), and this silo's weight.
    """

    own: Vector
    exchanged: Exchanged


class NeighbourAggregator:
    """`Aggregator` whose sums over all silos are those of `inner`, and which has `exchange` beside them.

    Args:
        inner: adds up metrics, and models at the end of a run.
        neighbours: exchanges messages.
        codec: what they are made shorter by, where an algorithm asks for that.
    """

    def __init__(self, inner: Aggregator, neighbours: NeighbourSums, codec: Codec) -> None:
        self._inner, self._neighbours, self._codec = inner, neighbours, codec
        self.spec: AggregationSpec = inner.spec
        self.layout: Layout = inner.layout
        self.participants = inner.participants

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        return self._neighbours.description

    @property
    def quality(self) -> EncodingQuality:
        """See `Aggregator`: messages are not rounded to a range."""
        return EncodingQuality()

    @property
    def summed_samples(self) -> float:
        """See `Aggregator`."""
        return self._inner.summed_samples

    def prepare(self) -> None:
        """See `Aggregator`: keys of neighbours are made for all rounds at once."""

    def exchange(
        self,
        message: Vector,
        weights: WeightsOf,
        number: int,
        absent: tuple[int, ...] = (),
        authorizer: Authorizer | None = None,
        *,
        compressed: bool = False,
    ) -> Message:
        """Exchange messages with this silo's neighbours: see `NeighbourSums.exchange`. Collective."""
        given = weights, number, absent, authorizer
        if not compressed:
            found = Message(message, self._neighbours.exchange(message, *given))
        elif isinstance(self._codec, PacketCodec):
            found = self._packets(self._codec, message, weights, number, absent, authorizer)
        else:
            draw, length = self._draw(number), len(message)
            sent = self._codec.encode(message, draw)
            got = self._neighbours.exchange(sent, *given)
            total = self._codec.decode(got.total, draw, length)
            found = Message(self._codec.decode(sent, draw, length), replace(got, total=total))
        self.participants = found.exchanged.silos
        return found

    def _packets(
        self,
        codec: PacketCodec,
        message: Vector,
        weights: WeightsOf,
        number: int,
        absent: tuple[int, ...],
        authorizer: Authorizer | None,
    ) -> Message:
        def read(packet: bytes) -> Vector:
            return codec.unpack(packet, len(message), message.dtype)

        packet = codec.pack(message, self._draw(number).of_silo(self._neighbours.silo))
        sums = self._neighbours
        assert isinstance(sums, PlainNeighbourSums), "masked sums have no packets"
        return Message(read(packet), sums.exchange_packets(packet, read, weights, number, absent, authorizer))

    def _draw(self, number: int) -> Draw:
        """What is lost stays in the copies that neighbours keep, so that a codec may be biased."""
        key = digest("neighbours' codec", self.spec.seed.to_bytes(8, signed=True), number.to_bytes(8))
        return Draw(key[:KEY_BYTES], keeps_error=True)

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        authorizer: Authorizer | None = None,
        common: Common = NOTHING_IN_COMMON,
    ) -> None:
        """See `Aggregator`: over all silos."""
        self._inner.reduce(contribution, round_number, magnitudes, authorizer, common)

    def total(self, index: int) -> Total:
        """See `Aggregator`."""
        return self._inner.total(index)

    def sum_scalars(
        self, values: NDArray[np.float64], made_from: Sequence[Vector] = ()
    ) -> NDArray[np.float64]:
        """See `Aggregator`: of each silo's own model, so that there is nothing to compare."""
        return self._neighbours.sum_scalars(self._inner, values)

    def close(self) -> None:
        """See `Aggregator`."""
        self._neighbours.close()
        self._inner.close()


def neighbour_aggregator(
    group: ElasticGroup,
    secure: SecureConfig,
    spec: AggregationSpec,
    codec: Codec,
    signer: Signer | None = None,
) -> NeighbourAggregator:
    """The aggregator of `spec` for the ranks that there are now, in the clear or masked; collective.

    See `SumProtocol.build` for the `signer`.
    """
    inner = protocols.build(group, secure, spec, signer)
    if not protocols.choose_protocol(secure, spec.silos).private:
        return NeighbourAggregator(inner, PlainNeighbourSums(group), codec)
    from silofl.aggregation.masked_neighbour_sums import MaskedNeighbourSums

    session = protocols.session_of(group, secure, spec, signer)
    return NeighbourAggregator(inner, MaskedNeighbourSums(session), codec)
