"""What a silo sends in a round, counted in a trial round of zeros among threads: `silofl check`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np

from silofl.aggregation import protocols
from silofl.aggregation.base import Aggregator, Claim
from silofl.aggregation.compressed import Compression
from silofl.aggregation.magnitudes import measure
from silofl.aggregation.neighbour_aggregator import neighbour_aggregator
from silofl.aggregation.residuals import Residuals
from silofl.aggregation.shards import ALIGNMENT
from silofl.aggregation.spec import AggregationSpec
from silofl.aggregation.transformed import Binding
from silofl.comm.collective_errors import allgather_object
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator, SharedBuffer
from silofl.comm.threads import run_in_threads
from silofl.compression.base import Codec, FactorCodec
from silofl.config import SecureConfig
from silofl.crypto.identity import SIGNATURE_BYTES
from silofl.crypto.noise_keys import FINGERPRINT_BYTES
from silofl.federation.privacy.compressed_noise import noisy_sum, words_spec
from silofl.federation.sum_spec import compressed
from silofl.strategies.base import Strategy
from silofl.topologies.arrangements.base import Groups
from silofl.topologies.base import BUFFERS, Topology
from silofl.types import Contribution
from silofl_kernels import ring_dtype

TRIAL_VALUES = 1 << 16
"""Longer vectors are foreseen from trials of about so many values."""


EXCHANGES = frozenset(
    {"allgather", "allgather_bytes", "allreduce", "alltoall", "alltoall_bytes", "barrier", "broadcast_bytes"}
)
"""What of a communicator waits for other ranks."""


@dataclass(frozen=True)
class Edge:
    """What one rank sends another in a round.

    Attributes:
        messages: payloads, however many packets carry them.
        bytes: of all of them.
    """

    messages: int = 0
    bytes: int = 0


Edges = dict[tuple[int, int], Edge]
"""By sender and receiver."""


@dataclass(frozen=True)
class Sent:
    """What one silo sends in a round.

    Attributes:
        bytes: payload that it hands to other ranks.
        exchanges: how often it waits for others, one after another; of a long vector those that a short one
            has, for the others follow each other without a wait.
        between: what all ranks together send to ranks of other groups, where there are groups.
        edges: what each rank sends each other.
    """

    bytes: int
    exchanges: int
    between: int = 0
    edges: Edges = field(default_factory=dict)

    def grown(self, more: Sent, periods: int) -> Sent:
        """The same of a vector that is longer by so many periods, where one by one of them has `more`."""

        def of(one: int, other: int) -> int:
            return one + (other - one) * periods

        edges = {
            pair: Edge(of(edge.messages, more.edges[pair].messages), of(edge.bytes, more.edges[pair].bytes))
            for pair, edge in self.edges.items()
        }
        return replace(
            self, bytes=of(self.bytes, more.bytes), between=of(self.between, more.between), edges=edges
        )


ANY_SIGNATURE = bytes(SIGNATURE_BYTES).hex()
"""As long as what silos sign of a sum before it is opened."""


class _Counted:
    """A communicator whose exchanges are counted; `far`: of ranks that share no memory."""

    def __init__(self, comm: Communicator, *, far: bool) -> None:
        self._comm, self._far, self.exchanges = comm, far, 0

    def __getattr__(self, name: str) -> Any:
        self.exchanges += name in EXCHANGES
        return getattr(self._comm, name)

    def shared_buffer(self, nbytes: int) -> SharedBuffer | None:
        """See `Communicator`."""
        return None if self._far else self._comm.shared_buffer(nbytes)


class _Open:
    """A gate that lets every sum through."""

    def attempt(self, round_number: int) -> int:
        """See `ReleaseGate`."""
        return 0

    def repeats(self, round_number: int, attempt: int, tag: str) -> bool:
        """See `ReleaseGate`."""
        return True

    def authorize(self, round_number: int, attempt: int, tag: str, silos: tuple[int, ...]) -> None:
        """See `ReleaseGate`."""


@dataclass(frozen=True)
class TrialRound:
    """A round of a configuration, for counting what it sends.

    Attributes:
        secure: [secure].
        topology: what makes the one that [topology] names.
        strategy: decides which vectors are sent and shared.
        words: whether ring integers are added up, as under distributed privacy.
        tolerant: whether ranks may fail, so that replicas are kept.
        shares: whether silos tell each other what shares of noise are bound to.
        compression: what is done to vectors before they are added up; None: nothing.
        between: by what messages between neighbours are made shorter; None where all silos add up.
        far: whether no two silos share a node, so that nothing goes through its memory.
        flat: groups that messages do not pass through, and between which they are counted.
    """

    secure: SecureConfig
    topology: Callable[..., Topology]
    strategy: Strategy
    words: bool
    tolerant: bool
    shares: bool = False
    compression: Compression | None = None
    between: Codec | None = None
    far: bool = False
    flat: Groups = ()

    def sent(self, spec: AggregationSpec) -> Sent:
        """What the first silo with data sends in one round: sum, keys, and the new shared vectors.

        `spec` is what is added up; its sample count does not matter.
        """
        longest = max(one.size for one in spec.vectors)

        def trial(length: int) -> Sent:
            return self._trial(spec if length == longest else _cut(spec, length))

        period = _period(self.secure, spec.silos)
        factors = self.compression is not None and isinstance(self.compression.codec, FactorCodec)
        if longest <= 2 * period or factors:  # shapes decide how long those are
            return trial(longest)
        short = period + longest % period
        return trial(short).grown(trial(short + period), (longest - short) // period)

    def _trial(self, spec: AggregationSpec) -> Sent:
        sizes = {one.name: one.size for one in spec.vectors}
        buffers = sizes.get(BUFFERS, 0)
        parameters = max(size for name, size in sizes.items() if name != BUFFERS)

        def rank(comm: Communicator) -> Sent:
            counted = _Counted(comm, far=self.far)
            group = ElasticGroup(cast("Communicator", counted), fault_tolerant=self.tolerant)
            if self.flat:
                comm.arrange(self.flat, routed=False)
            values = np.zeros(parameters + buffers, spec.dtype)
            own = replace(spec, samples=0) if comm.rank in spec.coordinators else spec
            aggregator = partial(self._aggregator, group, own)
            made = self.topology(group, self.strategy, aggregator, values, parameters)
            zeros = {name: np.zeros(size, spec.dtype) for name, size in sizes.items()}
            contribution = Contribution(zeros, dict.fromkeys(spec.scalars, 0.0))
            edges: Edges = {}

            def sent_to(silo: int, nbytes: int) -> None:
                pair = comm.rank, silo
                edge = edges.get(pair, Edge())
                edges[pair] = Edge(edge.messages + 1, edge.bytes + nbytes)

            comm.on_sent(sent_to)
            before, waited, far = comm.bytes_sent, counted.exchanges, comm.bytes_between_groups
            made.aggregator.prepare()
            made.reduce(
                contribution,
                1,
                measure(contribution, spec),
                b"",
                absent=spec.coordinators,
                authorizer=(lambda _: Claim(ANY_SIGNATURE, lambda _: None)) if self._private(spec) else None,
            )
            made.step(np.empty(parameters, spec.dtype), resync=False)
            between = comm.bytes_between_groups - far
            sent = Sent(comm.bytes_sent - before, counted.exchanges - waited, between, edges)
            made.close()
            return sent

        ranks = spec.silos + len(spec.coordinators)
        every = run_in_threads(ranks, rank)
        first = every[spec.bringing(tuple(range(ranks)))[0]]
        edges = {pair: edge for one in every for pair, edge in one.edges.items()}
        return replace(first, between=sum(one.between for one in every), edges=edges)

    def _private(self, spec: AggregationSpec) -> bool:
        return protocols.choose_protocol(self.secure, spec.silos).private

    def _aggregator(self, group: ElasticGroup, spec: AggregationSpec) -> Aggregator:
        own = self.secure.model_copy(update={"identity": "", "roster": "", "passphrase_file": ""})
        private = self._private(spec)
        if self.between is not None:
            return neighbour_aggregator(group, own, spec, self.between)
        if not self.words:
            build = partial(protocols.build, group, own)
            return compressed(group, build, spec, self.compression, Residuals(), words=private)
        inner = protocols.build(group, own, words_spec(spec, self.compression))
        ring = ring_dtype(own.bits if private else 32)

        def bind(*of: Any) -> Binding:
            told = bytes(FINGERPRINT_BYTES)
            return Binding(
                bytes.fromhex(allgather_object(group.comm, told.hex())[0]) if self.shares else told
            )

        made_of: tuple[Any, ...] = ring, [], _Open(), bind, lambda inner: 1.0
        return noisy_sum(inner, spec, self.compression, group.silo_id, *made_of)


def _period(secure: SecureConfig, silos: int) -> int:
    """Values after which bytes grow again as before: all slices have grown by as many whole cache lines."""
    step = ALIGNMENT * silos * secure.committee
    return step * max(TRIAL_VALUES // step, 1)


def _cut(spec: AggregationSpec, length: int) -> AggregationSpec:
    """The same vectors, the longest of them of `length` values and its tensors as many."""
    longest = max(one.size for one in spec.vectors)
    vectors = [
        replace(one, size=length, ends=np.minimum(one.tensor_ends, length)) if one.size == longest else one
        for one in spec.vectors
    ]
    for place, one in enumerate(vectors):
        if one.size == length and one.ends is not None:
            vectors[place] = replace(one, ends=np.append(one.ends[:-1], length))
    return replace(spec, vectors=tuple(vectors))
