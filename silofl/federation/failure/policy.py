"""Who takes part: when a run goes on without silos that were lost, and what it says about them."""

from __future__ import annotations

from collections.abc import Callable

from silofl.aggregation.protocols import SumProtocol, choose_protocol
from silofl.aggregation.shards import MAX_REPLICAS
from silofl.comm.elastic_group import RankFailure, StopReason
from silofl.config import Config, PrivacyConfig
from silofl.errors import ConfigError, SiloflError, StoppedError
from silofl.privacy.places import PLACES
from silofl.report.round_metrics import silos_text
from silofl.topologies.arrangements import registry as arrangements
from silofl.topologies.arrangements.base import Groups


def min_silos(config: Config, silos: int) -> int:
    """The fewest silos with data that a round of a run of `silos` may be over."""
    silos = arrangements.with_data(config.topology, silos)
    protocol = choose_protocol(config.secure, silos)
    fewest = protocol.fewest(config.secure, silos)
    if not protocol.private:
        rule = config.robust.rule
        return max(config.failure.min_silos or fewest, 0 if rule is None else rule.fewest_silos)
    return max(fewest, config.failure.min_silos or 0, _noisy(config.privacy))


def fewest_left(config: Config, silos: int) -> int:
    """The fewest silos with data that a run of `silos` goes on with: a majority signs an audit trail."""
    majority = arrangements.with_data(config.topology, silos) // 2 + 1 if config.audit.trail else 0
    return max(min_silos(config, silos), majority)


def _need(config: Config, silos: int) -> str:
    """What needs how many of them, for people."""
    fewest = fewest_left(config, silos)
    return f"{'a round' if fewest == min_silos(config, silos) else 'audit.trail'} needs {fewest}"


def _noisy(privacy: PrivacyConfig) -> int:
    """The fewest silos of whose noise some is left."""
    shared = privacy.unit != "none" and PLACES[privacy.place].needs_private_sum
    return privacy.colluding + privacy.dropouts + 1 if shared else 0


def refuse_idle_faults(config: Config, silos: int) -> None:
    """Raise ConfigError, the same on every rank, where a fault to inject would not happen."""
    for text, fault in zip(config.failure.inject, config.failure.faults, strict=True):
        if fault.silo >= silos:
            raise ConfigError(
                f"failure.inject has {text!r} and the silos are 0 to {silos - 1}: name one of them", rank=0
            )
        if fault.round > config.run.rounds:
            raise ConfigError(
                f"failure.inject has {text!r} and run.rounds = {config.run.rounds}: name one of them", rank=0
            )


def replicas(config: Config, silos: int, most: int) -> int:
    """With how many others each slice's sums lie: enough for as many silos as may be lost at once.

    None where one rank serves everything, without which a run stops.
    """
    if config.failure.policy == "abort" or arrangements.coordinators(config.topology, silos):
        return 0
    return min(most, max(0, silos - fewest_left(config, silos)))


def stop_reason(
    config: Config, silos: int, *, several_hosts: bool = False, groups: Callable[[], Groups] = tuple
) -> StopReason:
    """Says of a loss why the run of `silos` cannot go on; None where it can.

    On several hosts a part that goes on has to know that no other does: a link that is cut makes two, and to
    each the other looks dead. At most one has more than half of the silos, or half with the first of them.
    `groups`: the silos', as they are by then.
    """
    arrangement = arrangements.build(config.topology)
    fewest, protocol = fewest_left(config, silos), _protocol(config, silos)
    without_data = arrangements.coordinators(config.topology, silos)

    def stop_reason_of(failure: RankFailure, left: tuple[int, ...]) -> SiloflError | None:
        failed = silos_text(failure.silos)
        if failure.early:
            return StoppedError(f"{failed} failed before the run began: start the same command again")
        if config.failure.policy == "abort":
            why = 'failure.policy = "abort"'
        elif not protocol.recovers:
            why = f'secure.protocol = "{config.secure.protocol}" has no recovery'
        elif len(here := [silo for silo in left if silo not in without_data]) < fewest:
            of = silos - len(without_data)
            why = f"{len(here)} of {of} silos are left and {_need(config, silos)}"
        elif arrangement.lacking(groups(), left):
            why = arrangement.lacking(groups(), left)
        elif several_hosts and 2 * len(left) - (0 not in left) < silos:
            why = f"the {len(left)} of {silos} silos that are left may be the smaller part of a cut network"
        else:
            return None
        return StoppedError(f"{failed} failed, and {why}: --resume goes on from the last committed round")

    return stop_reason_of


def why_not_without(config: Config, silos: int, left: tuple[int, ...]) -> str:
    """Why a job of a run of `silos` cannot begin with those that are `left`; empty where it can.

    The others' hosts may go on by themselves, whatever this job sees of them: see `stop_reason`.
    """
    fewest, protocol = fewest_left(config, silos), _protocol(config, silos)
    if not protocol.recovers:
        return f'secure.protocol = "{config.secure.protocol}" goes on with all silos alone'
    without_data = arrangements.coordinators(config.topology, silos)
    here = [silo for silo in left if silo not in without_data]
    if len(here) < fewest:
        return f"{len(here)} of {silos - len(without_data)} silos are left and {_need(config, silos)}"
    if any(silo not in left for silo in without_data):
        return "the coordinator is not among those that are left"
    if 2 * len(left) - (0 not in left) < silos:
        return f"the {len(left)} of {silos} silos that are left may be the smaller part of a cut network"
    return ""


def describe_policy(config: Config, silos: int) -> str:
    """What a run of `silos` does when one of them dies, in one line."""
    policy, fewest = config.failure.policy, fewest_left(config, silos)
    end = "a silo's failure ends the job with exit code 75, --resume goes on"
    if policy == "respawn":
        end += " (silofl launch by itself)"
    if policy == "abort":
        return f"abort: {end}"
    if not _protocol(config, silos).recovers:
        return f'{end}: secure.protocol = "{config.secure.protocol}" has no recovery'
    if arrangements.coordinators(config.topology, silos):
        return _with_a_coordinator(config, silos, end)
    if fewest >= silos:
        return f"{end}: {_need(config, silos)} of {silos} silos"
    again = "is respawned" if policy == "respawn" else "stays away"
    at_once = replicas(config, silos, MAX_REPLICAS)
    return (
        f"{policy}: rounds go on with {fewest} of {silos} silos or more, up to {at_once} failed at a time, "
        f"and a failed silo {again}; needs ULFM"
    )


def _protocol(config: Config, silos: int) -> SumProtocol:
    """That of a run of so many ranks."""
    return choose_protocol(config.secure, arrangements.with_data(config.topology, silos))


def _with_a_coordinator(config: Config, silos: int, end: str) -> str:
    """What a run does when a rank dies where one rank has no data and serves everything."""
    policy, fewest = config.failure.policy, fewest_left(config, silos)
    of = arrangements.with_data(config.topology, silos)
    again = "is respawned" if policy == "respawn" else "stays away"
    others = f"rounds go on with {fewest} of {of} silos or more, and a failed silo {again}; needs ULFM"
    if fewest >= of:
        others = f"so does that of any silo, for {_need(config, silos)} of {of}"
    return f"{policy}: {end.replace('a silo', 'the coordinator', 1)}; {others}"
