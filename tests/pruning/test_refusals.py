"""What [prune] does not go with, what does nothing, and what would leave a tensor nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from silofl import config as configuration
from silofl.config.listing import listing
from silofl.errors import ConfigError
from silofl.federation.dry_run import dry_run
from silofl.federation.secure_conflicts import refuse_conflicts
from tests.campaigns import mostly_long
from tests.federation.test_traffic import bytes_of_rounds
from tests.pruning.test_federated import MAGNITUDE, SECAGG, federate, settings

PRUNE = {"name": "magnitude"}
NOISE = {"unit": "silo", "noise_multiplier": 1.0}
LONG = {"rounds": 20}


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"prune": PRUNE | {"density": 0}},
            r"prune\.density = 0 is not allowed: it should be greater than 0",
        ),
        ({"prune": PRUNE | {"density": 1.5}}, r"prune\.density = 1\.5 is not allowed: .* less than 1"),
        ({"prune": {"name": "magnitud"}}, r"prune\.name = 'magnitud'.*did you mean 'magnitude'"),
        (
            {"prune": {"density": 0.1}},
            r"prune\.density is a key of 'magnitude' or 'structured' and",
        ),
        ({"prune": {"name": "structured", "scope": "tensor"}}, r"prune\.scope is a key of 'magnitude'"),
        ({"prune": {"densty": 0.1}}, r"unknown key prune\.densty: did you mean prune\.density\?"),
        ({"compress": {"rato": 0.1}}, r"unknown key compress\.rato: did you mean compress\.ratio\?"),
        ({"prune": PRUNE | {"scope": "layer"}}, r"prune\.scope = 'layer' is not allowed"),
        ({"prune": PRUNE | {"every": 0}}, r"prune\.every = 0 is not allowed"),
        (
            {"prune": PRUNE | {"begin": 10}, "run": LONG},
            r"prune\.begin = 10 is not before prune\.end = 10: .* set the first to 9 or less",
        ),
        (
            {"prune": PRUNE, "run": {"rounds": 5}},
            r"prune\.end = 10 is beyond run\.rounds = 5, so that 21\.3 % .* not 10 %: set prune\.end to 5",
        ),
        (
            {"prune": PRUNE | {"begin": 7, "every": 4}, "run": LONG},
            r"prune\.every = 4 is more than the 3 rounds from prune\.begin to prune\.end",
        ),
        ({"prune": PRUNE, "run": LONG, "privacy": NOISE}, r'prune\.name = "magnitude" and \[privacy\]'),
        (
            {"prune": PRUNE, "run": LONG, "strategy": {"name": "fedpm"}},
            r'strategy\.name = "fedpm" trains masks of weights that never change: remove \[prune\]',
        ),
        (
            {"prune": PRUNE, "run": LONG, "strategy": {"name": "ifca"}},
            r'makes one mask from one global model, and strategy\.name = "ifca" has several',
        ),
        (
            {
                "prune": PRUNE,
                "run": LONG,
                "strategy": {"name": "streaming_diloco", "delay": 0},
                "train": {"steps": 4},
            },
            r'"streaming_diloco": a local model .* set strategy\.name = "diloco"',
        ),
        (
            {"prune": PRUNE, "run": LONG, "personal": {"name": "ditto"}},
            r'personal\.name = "ditto" keeps a whole model of each silo\'s own, which would not be pruned',
        ),
        (
            {"prune": PRUNE, "run": LONG, "secure": {"range": 1.0}},
            r'"magnitude" agrees on ranges in every round, and secure\.range = 1\.0 would be another',
        ),
        (
            {"prune": PRUNE, "run": LONG, "compress": {"name": "powersgd"}},
            r'"powersgd" is of whole matrices: set prune\.name = "structured"',
        ),
    ],
    ids=str,
)
def test_it_is_refused_as_it_is_read(sections: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        configuration.parse(sections)


def test_a_key_that_does_nothing_is_refused() -> None:
    config = configuration.parse({"prune": PRUNE, "run": LONG, "secure": {"rounding": "stochastic"}})
    with pytest.raises(ConfigError, match=r'rounding = "stochastic" does nothing under \[prune\]'):
        refuse_conflicts(config)


def test_a_density_that_leaves_a_tensor_nothing_ends_the_run_before_its_first_round(tmp_path: Path) -> None:
    few = MAGNITUDE | {"density": 0.004}
    with pytest.raises(ConfigError, match=r"prune\.density = 0\.004 of 576 weights leaves 2 in 3 tensors"):
        federate(settings(tmp_path, few, {}, SECAGG))


def test_a_codec_that_is_not_for_what_is_left_ends_the_run_before_its_first_round(tmp_path: Path) -> None:
    """And not once it is, when nothing can be set otherwise any more."""
    last = {"name": "magnitude", "end": 7, "density": 0.006}
    rows = last | {"name": "structured", "density": 0.1}
    for prune, compress, told in (
        (last, {"name": "count_sketch", "ratio": 0.012, "kept": 1e-3}, r"compress\.ratio = 0\.012 of "),
        (rows, {"name": "powersgd", "rank": 7}, r"compress\.rank = 7 makes no matrix shorter"),
    ):
        path = tmp_path / str(compress["name"])
        with pytest.raises(ConfigError, match=rf"with what \[prune\] leaves at the end, {told}"):
            federate(settings(path, prune, compress, {"protocol": "secagg"}))
        assert not (path / "metrics.jsonl").exists()


def test_check_says_so_before_any_rank_starts() -> None:
    config = configuration.parse(
        {"run": LONG, "task": {"name": "synthetic"}, "prune": {"name": "structured", "density": 0.001}}
    )
    with pytest.raises(ConfigError, match=r"prune\.density = 0\.001 of the \d+ rows of .* is none: set it"):
        dry_run(config, 4)


@pytest.mark.long
@pytest.mark.parametrize("compress", mostly_long([{}, {"bits": 8}], 1), ids=str)
def test_check_says_what_is_pruned_and_the_bytes_before_and_after(
    tmp_path: Path, compress: dict[str, Any]
) -> None:
    sections = {"task": {"name": "digits", "model": "mlp", "hidden": [32]}, "compress": compress}
    run = {"rounds": 4, "dir": str(tmp_path), "display": "none"}
    prune = {"name": "magnitude", "density": 0.1, "end": 2, "every": 2}
    config = configuration.parse({"run": run, "prune": prune, "train": {"epochs": 1}} | sections)
    found = dry_run(config, 4)
    assert "pruned: magnitude, 10 % of weights left by round 2" in found.protocol
    assert found.steps.startswith("each slice's sum is opened, too, by 1 other silo")
    sent = bytes_of_rounds(config, 4, tmp_path)
    assert found.bytes_sent_per_round in sent
    assert found.bytes_sent_pruned in sent
    assert found.bytes_sent_pruned < found.bytes_sent_per_round


def test_rules_are_listed() -> None:
    lines = "\n".join(listing("magnitude"))
    assert "[prune]" in lines
    assert "density = 0.1" in lines
    assert "a mask that all silos make" in lines
