"""When buffered sums open, what stale updates count, and virtual time."""

from __future__ import annotations

import pytest

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.federation.early_checks import Start, refuse_early
from silofl.federation.participation import buffering_of, describe_participation
from silofl.topologies.arrangements._buffering import Buffering, Flight, StalenessWeight
from silofl.topologies.virtual_time import VirtualRound, VirtualTime, virtual_rounds
from tests.federation.test_participation import parse


def test_fedasync_as_known() -> None:
    """x = 10, alpha .6, (t + 1)^-.5, models 8, 12 and 4 of staleness 0, 1 and 3."""
    rule, x, found = Buffering(alpha=0.6), 10.0, []
    for model, staleness in ((8, 0), (12, 1), (4, 3)):
        factor = rule.factor(staleness)
        x = (1 - factor) * x + factor * model
        found.append(x)
    assert found == pytest.approx([8.8, 10.15764501987817, 8.31035151391472], abs=1e-13)


def test_shapes_of_weights() -> None:
    """As Xie et al. 2019 have them, and 1 / sqrt(1 + t) of FedBuff."""
    assert [StalenessWeight("constant", 3.0, 1)(t) for t in (0, 5)] == [1.0, 1.0]
    assert StalenessWeight()(8) == pytest.approx(1 / 3)
    hinge = StalenessWeight("hinge", 10.0, 4)
    assert [hinge(t) for t in (0, 4, 5, 6)] == pytest.approx([1.0, 1.0, 1 / 11, 1 / 21])


def flights(**ready: int) -> dict[int, Flight]:
    """Of silos s0, s1, ...: the base, below zero where training goes on."""
    return {int(k[1:]): Flight(abs(base), ready=base >= 0) for k, base in ready.items()}


def test_a_sum_opens_with_as_many_as_it_takes() -> None:
    rule = Buffering(count=2)
    assert rule.opening(5, flights(s0=4, s1=-4, s2=-4), late=False) is None
    assert rule.opening(5, flights(s0=4, s1=-4, s2=1), late=False) == (0, 2)
    assert rule.opening(5, flights(s2=4), late=False) == (2,)  # no other is left
    late = Buffering(count=3, fewest=2)
    assert late.opening(5, flights(s0=4, s1=-4, s2=-4), late=True) is None
    assert late.opening(5, flights(s0=4, s1=4, s2=-4), late=False) is None
    assert late.opening(5, flights(s0=4, s1=4, s2=-4), late=True) == (0, 1)


def test_a_sum_waits_for_an_update_that_would_be_too_stale() -> None:
    """Whatever the buffer and the deadline say; so no update of staleness 3 is in a sum."""
    rule = Buffering(count=1, max_staleness=2)
    assert rule.opening(4, flights(s0=3, s1=-2), late=True) == (0,)
    assert rule.opening(5, flights(s0=4, s1=-2), late=True) is None
    assert rule.opening(5, flights(s0=4, s1=2), late=False) == (0, 1)
    rounds = virtual_rounds(rule, [1.0, 10.0], 20)
    assert max(one for each in rounds for one in each.staleness) == 2


def test_virtual_time_by_hand() -> None:
    """Silos of 1, 1 and 2.5 s: buffers of two, and all of them, and those of a deadline."""
    seconds = [1.0, 1.0, 2.5]
    assert virtual_rounds(Buffering(count=2), seconds, 4) == [
        VirtualRound(1.0, (0, 1), (0, 0)),
        VirtualRound(2.0, (0, 1), (0, 0)),
        VirtualRound(3.0, (0, 1, 2), (0, 0, 2)),
        VirtualRound(4.0, (0, 1), (0, 0)),
    ]
    assert [one.opened_s for one in virtual_rounds(Buffering(count=3), seconds, 3)] == [2.5, 5.0, 7.5]
    late = virtual_rounds(Buffering(count=3, fewest=1, deadline_s=1.5), seconds, 2)
    assert late == [VirtualRound(1.5, (0, 1), (0, 0)), VirtualRound(2.5, (0, 1, 2), (0, 0, 1))]
    none_yet = virtual_rounds(Buffering(count=3, fewest=2, deadline_s=0.5), seconds, 1)
    assert none_yet == [VirtualRound(1.0, (0, 1), (0, 0))]


def test_virtual_time_goes_on_from_what_was_kept_of_it() -> None:
    rule, seconds = Buffering(count=2, max_staleness=3), [1.0, 1.3, 4.1, 1.7]

    def go_on(
        clock: VirtualTime, bases: dict[int, int], numbers: range
    ) -> list[tuple[float, tuple[int, ...]]]:
        found = []
        for number in numbers:
            clock.begin(bases)
            opening = clock.opening(number)
            clock.now_s = opening.at_s
            bases |= dict.fromkeys(opening.silos, number)
            found.append((opening.at_s, opening.silos))
        return found

    whole = go_on(VirtualTime(rule, seconds), dict.fromkeys(range(4), 0), range(1, 30))
    first, bases = VirtualTime(rule, seconds), dict.fromkeys(range(4), 0)
    go_on(first, bases, range(1, 12))
    again = VirtualTime(rule, seconds)
    again.restore(first.state())
    assert go_on(again, bases, range(12, 30)) == whole[11:]
    assert [(one.opened_s, one.silos) for one in virtual_rounds(rule, seconds, 29)] == whole


ASYNC = {"name": "asynchronous"}
REFUSED = [
    (
        {"topology": {"buffer": 5}},
        "topology.buffer = 5 is more than the 4 silos there are: set it to 4 or less",
    ),
    (
        {"topology": {"slope": 2.0}},
        'topology.slope = 2 is of staleness = "hinge", and topology.staleness = "poly',
    ),
    (
        {"topology": {"staleness": "hinge", "exponent": 2.0}},
        'topology.exponent = 2 is of staleness = "polynomial"',
    ),
    (
        {"topology": {"seconds": [1.0]}},
        "topology.seconds has 1 values, and there are 4 silos: give one for each",
    ),
    ({"topology": {"alpha": 1.5}}, "topology.alpha"),
    ({"topology": {"staleness": "linear"}}, "topology.staleness"),
    ({"topology": {"bufer": 2}}, "buffer"),
    (
        {"topology": {"buffer": 2}, "secure": {"protocol": "secagg"}},
        'topology.buffer = 2 opens sums over 2 of 4 silos, and secure.protocol = "secagg" adds up no fewer',
    ),
    (
        {"privacy": {"unit": "silo", "noise_multiplier": 1.0}},
        'set topology.name = "sharded", or remove [privacy]',
    ),
    (
        {"run": {"participation": 0.5}},
        "those silos in a round that have trained, and run.participation draws",
    ),
    ({"strategy": {"name": "scaffold"}}, 'strategy.name = "scaffold" has more than that: set strategy.name'),
    ({"strategy": {"name": "feddyn"}}, 'strategy.name = "feddyn" has more than that'),
    ({"strategy": {"name": "streaming_diloco"}, "train": {"steps": 4}}, "has more than that"),
    ({"strategy": {"name": "fedsgd"}, "topology": {"method": "fedasync"}}, "mixes trained models"),
    ({"personal": {"name": "ditto"}}, 'personal.name = "ditto" trains another beside it: remove [personal]'),
    ({"prune": {"name": "magnitude"}}, "[prune] leaves them other weights"),
    ({"train": {"ranks_per_silo": 2}}, "train.ranks_per_silo = 2 has several train together"),
]


@pytest.mark.parametrize(("given", "text"), REFUSED, ids=[text[:50] for _, text in REFUSED])
def test_what_cannot_be_is_one_sentence(given: dict[str, dict[str, object]], text: str) -> None:
    tables = {"topology": ASYNC | given.get("topology", {})}
    tables |= {name: keys for name, keys in given.items() if name != "topology"}
    with pytest.raises(ConfigError) as caught:
        refuse_early(Start(configuration.parse(tables), 4, own_task=True), ())
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_is_said_before_a_run() -> None:
    config = configuration.parse({"topology": ASYNC, "secure": {"protocol": "secagg"}})
    rule = buffering_of(config, 4)
    assert rule is not None
    assert (rule.count, rule.fewest) == (3, 3)
    assert describe_participation(config, 4) == "a sum opens when 3 of 4 silos have trained"
    keys = {"buffer": 4, "deadline_s": 2.0, "max_staleness": 5, "seconds": [1.0, 1.0, 1.0, 2.0]}
    config = configuration.parse({"topology": ASYNC | keys, "secure": {"protocol": "plain"}})
    assert describe_participation(config, 4) == (
        "a sum opens when 4 of 4 silos have trained, or 2 s after the round before with 1 at least; none is "
        "staler than 5 round(s); arrivals by topology.seconds, not by the clock"
    )
    assert buffering_of(parse(), 4) is None
