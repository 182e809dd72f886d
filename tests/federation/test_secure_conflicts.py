"""Keys of [secure] that do nothing are refused where they were set; every protocol says which it reads."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from silofl import config as configuration
from silofl.aggregation import protocols
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import SecureConfig, settings
from silofl.errors import ConfigError
from silofl.federation import secure_conflicts
from silofl.federation.recomputation import recomputations
from silofl.federation.secure_conflicts import OF_EVERY_RUN, idle_keys, refuse_conflicts

SILO = {"unit": "silo", "noise_multiplier": 1.0}
LAUNCH = sorted((Path(__file__).parents[2] / "launch").glob("*.toml"))


def refused(**sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        refuse_conflicts(configuration.parse(sections))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("secure", "sentence"),
    [
        (
            {"protocol": "secagg", "committee": 2},
            'secure.committee = 2 does nothing under secure.protocol = "secagg": leave it out, or set '
            'secure.protocol = "additive"',
        ),
        (
            {"protocol": "plain", "recompute": 1},
            'secure.recompute = 1 does nothing under secure.protocol = "plain": leave it out, or set '
            'secure.protocol = "secagg"',
        ),
        (
            {"protocol": "plain", "prg": "auto"},
            'secure.prg = "auto" does nothing under secure.protocol = "plain": leave it out, or set '
            'secure.protocol = "secagg" or "additive"',
        ),
        ({"protocol": "plain", "allow_two": False}, "secure.allow_two = false does nothing under"),
        (
            {"protocol": "additive", "recompute": 2},
            'secure.recompute = 2 does nothing under secure.protocol = "additive"',
        ),
        (
            {"committee": 3},
            'secure.committee = 3 does nothing under secure.protocol = "auto", which is "secagg" or "plain": '
            'leave it out, or set secure.protocol = "additive"',
        ),
        (
            {"passphrase_file": "p.txt"},
            'secure.passphrase_file = "p.txt" does nothing without secure.identity, the key that it opens: '
            "set that, or leave it out",
        ),
    ],
)
def test_a_key_that_the_protocol_does_not_read_is_refused(secure: dict[str, Any], sentence: str) -> None:
    assert refused(secure=secure).startswith(sentence)


@pytest.mark.parametrize(
    ("place", "secure"),
    [
        ("distributed", {"range": 4.0}),
        ("central", {"rounding": "nearest"}),
        ("central", {"recompute": 1}),
    ],
)
def test_what_noise_leaves_no_use_for_is_refused(place: str, secure: dict[str, Any]) -> None:
    sentence = refused(privacy=SILO | {"place": place}, secure=secure)
    assert f'does nothing under privacy.place = "{place}"' in sentence
    refuse_conflicts(configuration.parse({"privacy": SILO | {"place": "local"}, "secure": secure}))


@pytest.mark.parametrize("protocol", ["auto", "secagg", "plain"])
@pytest.mark.parametrize(
    "secure", [{"bits": 8}, {"range": 4.0}, {"rounding": "stochastic"}, {"recompute": 2}], ids=str
)
def test_what_sums_over_neighbours_leave_no_use_for_is_refused(protocol: str, secure: dict[str, Any]) -> None:
    gossip = {"topology": {"name": "gossip"}}
    sentence = refused(**gossip, secure={"protocol": protocol} | secure)
    assert sentence.endswith(
        'does nothing under topology.name = "gossip", which opens no sum of updates over all silos: leave it '
        "out"
    )
    assert sentence.startswith(f"secure.{next(iter(secure))} = ")
    refuse_conflicts(configuration.parse(gossip | {"secure": {"protocol": protocol}}))


def test_packets_to_neighbours_have_no_remedy_that_is_refused_then() -> None:
    qsgd = {"compress": {"name": "qsgd"}}
    assert refused(topology={"name": "gossip", "algorithm": "choco"}, **qsgd).endswith(
        'set compress.name = "random_k", or secure.protocol = "plain", which shows every packet to neighbours'
    )
    assert refused(**qsgd).endswith(
        'set compress.name = "random_k", or compress.bits without a name, or secure.protocol = "plain", '
        "which shows every packet to all"
    )


def test_noise_in_parts_is_refused_where_the_sum_shows_them() -> None:
    assert refused(privacy=SILO, secure={"protocol": "plain"}) == (
        'privacy.place = "distributed" hides noisy parts in a secure sum, secure.protocol = "plain" shows '
        'each: set secure.protocol = "secagg" or "additive", or privacy.place = "local"'
    )
    for secure in ({}, {"protocol": "additive"}):
        refuse_conflicts(configuration.parse({"privacy": SILO, "secure": secure}))


def test_a_protocol_of_which_the_rules_have_never_heard_is_asked_for_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mine:
        private, commits, reads = False, False, frozenset({"committee"})

    table = {**protocols.PROTOCOLS, "mine": Mine()}
    monkeypatch.setattr(protocols, "PROTOCOLS", table)
    monkeypatch.setattr(secure_conflicts, "PROTOCOLS", table)
    refuse_conflicts(configuration.parse({"secure": {"protocol": "mine", "committee": 3}}))
    assert "does nothing" in refused(secure={"protocol": "mine", "bits": 16})
    assert "hides noisy parts" in refused(privacy=SILO, secure={"protocol": "mine"})


def test_identities_count_under_every_protocol() -> None:
    keys = {"identity": "k.pem", "roster": "r.toml", "passphrase_file": "p"}
    for name in ("auto", *protocols.PROTOCOLS):
        refuse_conflicts(configuration.parse({"secure": keys | {"protocol": name}}))
        empty = {"identity": "", "roster": "", "passphrase_file": ""}
        refuse_conflicts(configuration.parse({"secure": empty | {"protocol": name}}))


class Spy(SecureConfig):
    """Notes which keys are read."""

    def __getattribute__(self, name: str) -> Any:
        if name in SecureConfig.model_fields:
            SEEN.add(name)
        return super().__getattribute__(name)


SEEN: set[str] = set()


@pytest.mark.parametrize("name", list(protocols.PROTOCOLS))
def test_a_protocol_reads_what_it_says(name: str) -> None:
    """All that is asked of it in a run, with every key that it reads set to something else."""
    SEEN.clear()
    spy = Spy(protocol=name)
    config = configuration.Config().model_copy(update={"secure": spy})
    spec = AggregationSpec((VectorSpec("update", 64),), "float32", 8, 0, bytes(32), 4)  # type: ignore[arg-type]

    def rank(comm: Communicator) -> None:
        protocol = protocols.choose_protocol(spy, 4)
        protocol.fewest(spy, 4), protocol.openers(spy, 4), protocol.bears(spy, 4)
        protocols.build(ElasticGroup(comm), spy, spec).close()

    run_in_threads(4, rank, timeout_s=30)
    recomputations(config, 4)
    protocols.protocol_name(spy, 2 if spy.allow_two else 4)
    assert SEEN - OF_EVERY_RUN - {"allow_two"} == protocols.PROTOCOLS[name].reads - {"allow_two"}


@pytest.mark.parametrize("name", ["auto", *protocols.PROTOCOLS])
def test_what_is_written_down_of_a_run_is_a_configuration_again(name: str) -> None:
    config = configuration.parse({"secure": {"protocol": name}})
    again = configuration.parse(tomllib.loads(configuration.dump(config, {"secure": idle_keys(config)})))
    refuse_conflicts(again)
    assert again == config
    with pytest.raises(ConfigError):
        refuse_conflicts(configuration.parse(tomllib.loads(configuration.dump(config))))


@pytest.mark.parametrize("path", LAUNCH, ids=lambda path: path.stem)
def test_every_example_passes(path: Path) -> None:
    refuse_conflicts(settings.load(path).of(0))
