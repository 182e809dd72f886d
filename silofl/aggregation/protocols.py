"""The protocols of a sum: what each of them is, and which one [secure] names.

Aggregators are imported where they are built: they need the kernels and their compiler, which take longer to
load than a configuration takes to be refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, final

from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import SecureConfig
from silofl.crypto import signer
from silofl.crypto.framing import MOST_SILOS
from silofl.crypto.graph import Bounds, colluding_openers
from silofl.crypto.signer import Signer
from silofl.crypto.threshold import describe_threshold, fewest_of, threshold_of
from silofl.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from silofl.aggregation.base import Aggregator
    from silofl.aggregation.secure_session import SecureSession
    from silofl.aggregation.spec import AggregationSpec

MASKED = frozenset({"bits", "range", "rounding", "prg", "threshold", "allow_two"})
"""What sums of masked fixed-point numbers read of [secure]."""
Given = Literal["sum", "buckets", "rows"]


class SumProtocol(Protocol):
    """A way to add up contributions. Ask it for what it is, never for its name."""

    private: ClassVar[bool]
    """Whether no silo sees another's contribution."""
    recovers: ClassVar[bool]
    """Whether a round goes on when a rank fails in it."""
    commits: ClassVar[bool]
    """Whether replicas of a slice's sum lie with other ranks before anybody can read it."""
    arranged: ClassVar[bool]
    """Whether one rank may serve everything, and ranks may add up what others see nothing of on the way."""
    gives: ClassVar[frozenset[Given]]
    """Whether the server sees the sum alone, means of buckets of silos, or every silo's slice as well."""
    reads: ClassVar[frozenset[str]]
    """The keys of [secure] that it makes use of, besides those of every run; others are refused where set."""

    def fewest(self, secure: SecureConfig, silos: int) -> int:
        """The fewest silos that a round of a run of `silos` may be over."""

    def openers(self, secure: SecureConfig, silos: int) -> tuple[int, str]:
        """How many silos, colluding, see through the sum, and why."""

    def bears(self, secure: SecureConfig, silos: int) -> str:
        """How many silos may die, collude or lie, in one line; empty where nothing is hidden."""

    def refusal(self, secure: SecureConfig, ranks: int) -> str | None:
        """Why so many ranks cannot run it; None if they can."""

    def build(
        self, group: ElasticGroup, secure: SecureConfig, spec: AggregationSpec, signer: Signer | None
    ) -> Aggregator:
        """The aggregator for the ranks that there are now; collective.

        `signer` is this silo's in the run; None: by [secure], else made for these sums.
        """


@final
@dataclass(frozen=True)
class Plain:
    """Sums in the clear."""

    private: ClassVar[bool] = False
    recovers: ClassVar[bool] = True
    commits: ClassVar[bool] = False
    arranged: ClassVar[bool] = True
    gives: ClassVar[frozenset[Given]] = frozenset({"sum", "rows"})
    reads: ClassVar[frozenset[str]] = frozenset()

    def fewest(self, secure: SecureConfig, silos: int) -> int:
        """See `SumProtocol`."""
        return min(2, silos)

    def openers(self, secure: SecureConfig, silos: int) -> tuple[int, str]:
        """See `SumProtocol`."""
        return 1, 'secure.protocol is "plain"'

    def bears(self, secure: SecureConfig, silos: int) -> str:
        """See `SumProtocol`."""
        return ""

    def refusal(self, secure: SecureConfig, ranks: int) -> str | None:
        """See `SumProtocol`."""
        return None

    def build(
        self, group: ElasticGroup, secure: SecureConfig, spec: AggregationSpec, signer: Signer | None
    ) -> Aggregator:
        """See `SumProtocol`."""
        from silofl.aggregation.plain import PlainAggregator

        return group.step(lambda: PlainAggregator(group, spec))


@final
@dataclass(frozen=True)
class SecAggProtocol:
    """Masked sums with dropout recovery (Bonawitz et al. 2017, Bell et al. 2020)."""

    private: ClassVar[bool] = True
    recovers: ClassVar[bool] = True
    commits: ClassVar[bool] = True
    arranged: ClassVar[bool] = True
    gives: ClassVar[frozenset[Given]] = frozenset({"sum", "buckets"})
    reads: ClassVar[frozenset[str]] = MASKED | {"recompute"}

    def fewest(self, secure: SecureConfig, silos: int) -> int:
        """See `SumProtocol`."""
        return fewest_of(secure, silos)

    def openers(self, secure: SecureConfig, silos: int) -> tuple[int, str]:
        """See `SumProtocol`."""
        sparse = colluding_openers(silos)
        if sparse is not None:
            return sparse, "each silo shares its keys among some others only"
        threshold = threshold_of(secure, silos)
        return threshold, f"secure.threshold is {threshold}"

    def bears(self, secure: SecureConfig, silos: int) -> str:
        """See `SumProtocol`."""
        return describe_threshold(secure, silos)

    def refusal(self, secure: SecureConfig, ranks: int) -> str | None:
        """See `SumProtocol`."""
        return _unfit_threshold(secure, ranks)

    def build(
        self, group: ElasticGroup, secure: SecureConfig, spec: AggregationSpec, signer: Signer | None
    ) -> Aggregator:
        """See `SumProtocol`."""
        from silofl.aggregation.bucketed_secagg import BucketedSecAgg, BucketedSecAggSum
        from silofl.aggregation.secagg import SecAgg, SecAggSum

        session = session_of(group, secure, spec, signer)
        stochastic = secure.rounding == "stochastic"
        if spec.bucketing is not None:
            # All are neighbours, so that any silo has masks with whichever are in its bucket.
            rules = replace(session.rules, bounds=Bounds(complete_up_to=MOST_SILOS))
            whole = replace(session, rules=rules)
            return BucketedSecAgg(
                group.step(
                    lambda: BucketedSecAggSum(whole, spec, value_range=secure.range, stochastic=stochastic)
                )
            )
        return SecAgg(
            group.step(lambda: SecAggSum(session, spec, value_range=secure.range, stochastic=stochastic))
        )


@final
@dataclass(frozen=True)
class AdditiveProtocol:
    """Additive shares for a committee; a rank failure ends the run."""

    private: ClassVar[bool] = True
    recovers: ClassVar[bool] = False
    commits: ClassVar[bool] = False
    arranged: ClassVar[bool] = False
    gives: ClassVar[frozenset[Given]] = frozenset({"sum"})
    reads: ClassVar[frozenset[str]] = MASKED | {"committee"}

    def fewest(self, secure: SecureConfig, silos: int) -> int:
        """See `SumProtocol`."""
        return fewest_of(secure, silos)

    def openers(self, secure: SecureConfig, silos: int) -> tuple[int, str]:
        """See `SumProtocol`."""
        return secure.committee, f"secure.committee is {secure.committee}"

    def bears(self, secure: SecureConfig, silos: int) -> str:
        """See `SumProtocol`."""
        return _describe_committee(secure)

    def refusal(self, secure: SecureConfig, ranks: int) -> str | None:
        """See `SumProtocol`."""
        if secure.committee <= ranks:
            return _unfit_threshold(secure, ranks)
        return f"secure.committee = {secure.committee} is more than the {ranks} silos there are"

    def build(
        self, group: ElasticGroup, secure: SecureConfig, spec: AggregationSpec, signer: Signer | None
    ) -> Aggregator:
        """See `SumProtocol`."""
        from silofl.aggregation.additive import Additive

        session = session_of(group, secure, spec, signer)
        stochastic = secure.rounding == "stochastic"
        return group.step(
            lambda: Additive(
                session, spec, committee=secure.committee, value_range=secure.range, stochastic=stochastic
            )
        )


def session_of(
    group: ElasticGroup, secure: SecureConfig, spec: AggregationSpec, signer: Signer | None
) -> SecureSession:
    """The session that [secure] describes, for the ranks that there are now; collective."""
    from silofl.aggregation.secure_session import configured_session

    silos, helpers = spec.silos, len(spec.coordinators)
    return group.step(
        lambda: configured_session(group, secure, spec.config_digest, silos, signer, helpers=helpers)
    )


def _describe_committee(secure: SecureConfig) -> str:
    return (
        f"no deaths, {secure.committee - 1} colluding of the committee of {secure.committee} (they learn the "
        "sum less their own and nothing more); no silo votes, so none can vote twice"
    )


def _unfit_threshold(secure: SecureConfig, ranks: int) -> str | None:
    """Why so many ranks cannot have the configured threshold; None if they can."""
    if secure.threshold is None or ranks // 2 < secure.threshold <= ranks:
        return None
    return f"secure.threshold = {secure.threshold} must be more than half of {ranks} silos, at most all"


PROTOCOLS: Mapping[str, SumProtocol] = {
    "plain": Plain(),
    "secagg": SecAggProtocol(),
    "additive": AdditiveProtocol(),
}
"""What each value of `secure.protocol` but "auto" is."""


AUTO = ("secagg", "plain")
"""What `auto` may turn out to be, with how many silos there are."""


def possible_protocols(secure: SecureConfig) -> Mapping[str, SumProtocol]:
    """The protocols that [secure] may turn out to mean, by name. ConfigError for an unknown name."""
    names = AUTO if secure.protocol == "auto" else (secure.protocol,)
    if not PROTOCOLS.keys() >= set(names):
        raise unknown_name("secure.protocol", secure.protocol, ("auto", *PROTOCOLS))
    return {name: PROTOCOLS[name] for name in names}


def protocol_name(secure: SecureConfig, silos: int) -> str:
    """`auto` settled: `secagg` for three silos or more, `plain` below. ConfigError for what hides nothing."""
    if secure.protocol == "auto":
        return AUTO[0] if silos >= 3 or (silos == 2 and secure.allow_two) else AUTO[1]
    if (
        possible_protocols(secure)[secure.protocol].private
        and silos < 3
        and not (silos == 2 and secure.allow_two)
    ):
        raise ConfigError(
            f'secure.protocol = "{secure.protocol}" over {silos} hides nothing: '
            'each learns the other\'s update from the sum; use three silos, secure.protocol = "plain", '
            "or secure.allow_two = true for two"
        )
    return secure.protocol


def choose_protocol(secure: SecureConfig, silos: int) -> SumProtocol:
    """The protocol of a run of `silos`: it does not change when ranks fail."""
    return PROTOCOLS[protocol_name(secure, silos)]


def describe_keys(secure: SecureConfig, silos: int) -> str:
    """By which keys silos know each other in a run of `silos`; empty where sums are in the clear."""
    return signer.describe_keys(secure) if choose_protocol(secure, silos).private else ""


def build(
    group: ElasticGroup, secure: SecureConfig, spec: AggregationSpec, signer: Signer | None = None
) -> Aggregator:
    """The aggregator that [secure] names, for the ranks that there are now; collective: see `SumProtocol`."""

    def checked() -> SumProtocol:
        with raise_on_all_ranks(group.comm):
            protocol = choose_protocol(secure, spec.silos)
            refusal = protocol.refusal(secure, len(spec.bringing(group.members)))
            if refusal is not None:
                raise ConfigError(refusal)
            if spec.rows and not protocol.gives & {"rows", "buckets" if spec.bucketing else "rows"}:
                name = protocol_name(secure, spec.silos)
                raise ConfigError(
                    f'the strategy needs every silo\'s own update, and secure.protocol = "{name}" gives sums '
                    'alone: set secure.protocol = "plain", or choose another strategy.name'
                )
        return protocol

    return group.step(checked).build(group, secure, spec, signer)
