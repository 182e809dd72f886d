"""Gossip as [topology]: keys, what it does not go with, and what `silofl check` says of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl import config as configuration
from silofl.aggregation.neighbour_aggregator import neighbour_aggregator
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.threads import run_in_threads
from silofl.compression.none import NoCodec
from silofl.errors import ConfigError, MismatchError
from silofl.federation.dry_run import dry_run
from silofl.strategies.fedavg import FedAvg
from silofl.topologies.arrangements.gossip import Gossip
from silofl.topologies.arrangements.registry import build, refuse_ranks
from silofl.topologies.gossip_averaging import GossipAveraging


def parsed(**sections: Any) -> configuration.Config:
    sections["topology"] = {"name": "gossip", **sections.get("topology", {})}
    return configuration.parse(sections)


def test_a_key_of_a_topology_that_is_misspelt_is_told_whose_it_is() -> None:
    with pytest.raises(
        ConfigError, match=r"topology\.graph is a key of 'gossip' and topology\.name is another"
    ):
        configuration.parse({"topology": {"name": "gosip", "graph": "ring"}})


RULES = [
    ({"strategy": {"lr": 0.5}}, "has no server, and strategy.name"),
    ({"strategy": {"momentum": 0.5}}, 'set strategy.name = "fedavg", without strategy.lr'),
    ({"strategy": {"name": "scaffold"}}, 'strategy.name = "scaffold" has one that does more'),
    ({"strategy": {"name": "fedsgd"}}, 'strategy.name = "fedsgd" has one that does more'),
    ({"strategy": {"name": "streaming_diloco"}, "train": {"steps": 4}}, "has one that does more"),
    (
        {"privacy": {"unit": "silo", "noise_multiplier": 1.0}},
        'privacy.place = "distributed" has noise for the sum of all silos alone: set privacy.place = "local"',
    ),
    (
        {
            "topology": {"algorithm": "gradient_tracking"},
            "privacy": {"unit": "silo", "noise_multiplier": 1.0, "place": "local"},
        },
        "how far each silo's steps went, of which [privacy] counts nothing: set topology.algorithm",
    ),
    (
        {
            "topology": {"algorithm": "choco"},
            "privacy": {"unit": "silo", "noise_multiplier": 1.0, "place": "local"},
        },
        'set topology.algorithm = "dpsgd" or "push_sum", and remove [compress]',
    ),
    ({"personal": {"name": "ditto"}}, "remove [personal]"),
    ({"prune": {"name": "magnitude", "density": 0.5}}, "remove [prune]"),
    ({"run": {"keep_best": "accuracy"}}, "run.keep_best is set: remove it"),
    ({"run": {"participation": 0.5}}, "run.participation = 0.5 draws silos of a sum over all"),
    ({"run": {"silos_per_round": 3}}, "run.silos_per_round = 3 draws"),
    ({"compress": {"bits": 4}}, 'set topology.algorithm = "choco", or remove [compress]'),
    ({"topology": {"algorithm": "choco"}}, "compress.name is unset: set it"),
    (
        {"topology": {"algorithm": "choco"}, "compress": {"name": "powersgd"}},
        'compress.name = "powersgd" needs sums over all silos',
    ),
    (
        {"topology": {"algorithm": "choco"}, "compress": {"name": "random_k", "bits": 8}},
        "compress.bits and compress.rotation round values",
    ),
    (
        {"topology": {"algorithm": "choco"}, "compress": {"name": "random_k", "error_feedback": True}},
        "compress.error_feedback = true does nothing",
    ),
    (
        {"topology": {"algorithm": "gradient_tracking"}, "train": {"momentum": 0.9}},
        "train.momentum = 0.9 does not: set it to 0, or topology.algorithm",
    ),
    (
        {"topology": {"algorithm": "gradient_tracking"}, "train": {"optimizer": "Adam"}},
        "train.optimizer = 'Adam' does not",
    ),
    (
        {"topology": {"algorithm": "gradient_tracking"}, "train": {"clip_norm": 1.0}},
        'train.clip_norm = 1.0 changes: remove it, or set topology.algorithm = "dpsgd"',
    ),
    (
        {"topology": {"algorithm": "choco", "consensus_rate": 1.5}, "compress": {"name": "random_k"}},
        "topology.consensus_rate = 1.5 is not allowed",
    ),
    ({"topology": {"graph": "rign"}}, "topology.graph = 'rign'"),
]


@pytest.mark.parametrize(("sections", "said"), RULES)
def test_what_gossip_does_not_go_with_is_refused_by_key_and_remedy(
    sections: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        parsed(**sections)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "moon"])
def test_strategies_whose_server_takes_the_mean_alone_go_with_it(name: str) -> None:
    assert parsed(strategy={"name": name, **({"layer": "0"} if name == "moon" else {})})


@pytest.mark.parametrize(
    ("keys", "silos", "said"),
    [
        ({"degree": 3}, 8, 'topology.degree = 3 does nothing with topology.graph = "ring"'),
        ({"graph": "torus", "probability": 0.2}, 8, "topology.probability = 0.2 does nothing"),
        ({"edges_file": "x.csv"}, 8, 'topology.edges_file = "x.csv" does nothing'),
        ({"consensus_rate": 0.1}, 8, 'does nothing with topology.algorithm = "dpsgd"'),
        ({"graph": "random_regular", "degree": 3}, 7, "topology.degree = 3 and 7 silos"),
        ({"graph": "random_regular", "degree": 9}, 8, "topology.degree = 9 and 8 silos"),
        ({"graph": "erdos_renyi", "probability": 0.001}, 30, "raise it"),
        ({"graph": "edge_list"}, 8, "set topology.edges_file to its path"),
        (
            {"graph": "one_peer_exponential", "algorithm": "choco"},
            8,
            'topology.algorithm = "choco" keeps copies of the same neighbours',
        ),
    ],
)
def test_graphs_that_so_many_ranks_cannot_have(keys: dict[str, Any], silos: int, said: str) -> None:
    section = parsed(topology=keys, **({"compress": {"name": "random_k"}} if "algorithm" in keys else {}))
    with pytest.raises(ConfigError) as error:
        refuse_ranks(section.topology, silos)
    assert said in str(error.value)


@pytest.mark.parametrize(("graph", "silos"), [("one_peer_exponential", 8), ("ring", 2)])
def test_masks_of_one_neighbour_are_refused(graph: str, silos: int) -> None:
    section = parsed(topology={"graph": graph}).topology
    refuse_ranks(section, silos, private=False)
    with pytest.raises(ConfigError, match=r'lets silo 0 read .* secure.protocol = "plain"'):
        refuse_ranks(section, silos, private=True)


def test_it_says_who_sees_what() -> None:
    ring = build(parsed().topology)
    assert isinstance(ring, Gossip)
    assert "spectral gap 0.1953" in ring.describe(range(8), 0)
    assert "shrinks to 0.8047 in a round" in ring.describe(range(8), 0)
    assert ring.sees(0, 1, 8, private=True) == "its model inside the sum of all neighbours', masked"
    assert ring.sees(0, 1, 8, private=False) == "its whole model"
    assert ring.sees(0, 4, 8, private=True) == "its signature of who is in sums: they are no neighbours"
    assert "silos 0, 1 together learn another's" in ring.bears(8, 0, private=True)
    assert "see its whole model" in ring.bears(8, 0, private=False)


def test_a_file_that_falls_into_parts_is_told(tmp_path: Path) -> None:
    path = tmp_path / "edges.csv"
    path.write_text("0,1\n1,2\n2,3\n")
    gossip = Gossip(graph="edge_list", edges_file=str(path))
    assert "in 2 parts that do not hear of each other" in gossip.describe((0, 1, 3), 0)


def test_random_graphs_are_one_on_all_ranks_and_follow_the_seed() -> None:
    first, again = (Gossip(graph="erdos_renyi").weights(tuple(range(9)), 1, 5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, Gossip(graph="erdos_renyi").weights(tuple(range(9)), 1, 6))


def test_silos_with_other_graphs_are_refused_at_the_start() -> None:
    spec = AggregationSpec((VectorSpec("update", 3),), np.dtype(np.float64), 1, 0, bytes(32), 4)
    secure = configuration.SecureConfig(protocol="plain")

    def rank(comm: Any) -> None:
        group = ElasticGroup(comm)
        arrangement = Gossip(graph="complete" if comm.rank == 2 else "ring")
        make = partial(neighbour_aggregator, group, secure, spec, NoCodec())
        GossipAveraging(group, FedAvg(), make, np.zeros(3), 3, arrangement=arrangement)

    with pytest.raises(MismatchError, match="silo 2 has another graph of"):
        run_in_threads(4, rank, timeout_s=30)


def test_check_tells_of_gossip() -> None:
    found = dry_run(parsed(task={"name": "digits"}, secure={"protocol": "plain"}), 6)
    assert found.bytes_sent_per_round == 2 * 4 * 4810
    assert any("spectral gap" in note for note in found.notes)
    assert found.steps == ""
    masked = dry_run(parsed(task={"name": "digits"}), 6)
    assert 2 * 8 * 4810 < masked.bytes_sent_per_round < 2 * 8 * 4810 + 2000
