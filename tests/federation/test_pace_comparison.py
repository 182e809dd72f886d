"""`silofl simulate`: which way of waiting is first, and how well that foretells real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

import silofl
from silofl import config as configuration
from silofl.cli import app
from silofl.errors import ConfigError, DataError
from silofl.federation import pace_comparison
from silofl.federation.pace_comparison import Goal, compare, measured_seconds, policies
from tests.federation.paced import asynchronous, run_paced
from tests.federation.threads import records, settings

SPEEDS = [1.0, 1.0, 1.0, 5.0]
SECURE = {"secure": {"protocol": "secagg"}, "run": {"rounds": 20}}


def test_as_many_updates_by_hand() -> None:
    """Of 1, 1, 1 and 5 s: all take 5 s, three of them 1 s, and the slow one is in every fifth such sum."""
    found = {one.policy: one for one in compare(configuration.parse(SECURE), 4, SPEEDS)}
    assert (found["synchronous"].seconds, found["synchronous"].rounds) == (100.0, 20)
    assert (found["buffered"].seconds, found["buffered"].rounds, found["buffered"].staleness) == (25.0, 25, 4)
    # Rounds of 1.5 s until the slow one has trained, at 5 s, when all have: 1.5, 3, 4.5, 5.5, and 6.5.
    assert found["deadline"].seconds == pytest.approx(34.5)
    assert found["deadline"].waits == (
        "when 4 of 4 silos have trained, or 1.5 s after the round before with 3 at least"
    )


def test_a_configured_topology_says_what_buffers_are() -> None:
    topology = {"name": "asynchronous", "buffer": 4, "max_staleness": 2, "deadline_s": 3.0, "alpha": 0.5}
    ways = policies(configuration.parse(SECURE | {"topology": topology}), 4, SPEEDS, None)
    assert (ways["buffered"].count, ways["buffered"].max_staleness, ways["buffered"].alpha) == (4, 2, 0.5)
    assert ways["deadline"].deadline_s == 3.0
    assert policies(configuration.parse(SECURE), 4, SPEEDS, 0.25)["deadline"].deadline_s == 0.25
    with pytest.raises(ConfigError, match=r"topology\.buffer = 4 is more than the 3 silos there are"):
        policies(configuration.parse(SECURE | {"topology": topology}), 3, SPEEDS[:3], None)


def test_seconds_are_of_training_and_of_what_is_beside_it(tmp_path: Path) -> None:
    """Of two rounds of 2.5 and 4.5 s, in which silos train and wait for 2 and 4 s."""
    lines = [
        {"seconds": 2.5, "seconds_by_phase": {"train": 1.5, "wait": 0.5}, "train_seconds": [1.0, 2.0]},
        {"seconds": 4.5, "seconds_by_phase": {"train": 3.5, "wait": 0.5}, "train_seconds": [None, 4.0]},
    ]
    text = "".join(f"{json.dumps({'round': k, 'metrics': {}} | line)}\n" for k, line in enumerate(lines, 1))
    (tmp_path / "metrics.jsonl").write_text(text)
    assert measured_seconds(tmp_path) == pytest.approx([1.5, 3.5])


@pytest.mark.long
def test_seconds_of_a_run_foretell_an_asynchronous_one(tmp_path: Path) -> None:
    """Within 15 %: one of three silos takes five times as long, and most of its time it sleeps."""
    pace, run = {0: 0.03, 1: 0.03, 2: 0.15}, {"rounds": 8}
    plain = {"secure": {"protocol": "plain"}, "checkpoint": {"every": 0}}
    run_paced(settings(tmp_path / "all", run=run, **plain), pace, 3)
    buffers = asynchronous(tmp_path / "buffers", {"buffer": 2}, run={"rounds": 12}, **plain)
    run_paced(buffers, pace, 3)
    wall = {name: sum(one["seconds"] for one in records(tmp_path / name)) for name in ("all", "buffers")}
    seconds = measured_seconds(tmp_path / "all")
    given = {"run": {"rounds": 8}, "topology": {"name": "asynchronous", "buffer": 2}} | plain
    found = {one.policy: one for one in compare(configuration.parse(given), 3, seconds)}
    assert found["synchronous"].seconds == pytest.approx(wall["all"], rel=0.15)
    per_round = found["buffered"].seconds / (found["buffered"].rounds or 1)
    assert per_round == pytest.approx(wall["buffers"] / 12, rel=0.15)
    assert wall["buffers"] / 12 < 0.6 * wall["all"] / 8


def test_a_run_without_seconds_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no metrics\.jsonl of a run \(FileNotFoundError\)"):
        measured_seconds(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"round": 1, "metrics": {}}) + "\n")
    with pytest.raises(DataError, match=r"does not have seconds of every silo's training"):
        measured_seconds(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("[]\n")
    with pytest.raises(DataError, match=r"has no metrics\.jsonl of a run"):
        measured_seconds(tmp_path)


def test_a_target_is_a_metric_and_a_value() -> None:
    history: list[dict[str, Any]] = [
        {"round": 1, "loss": 2.0},
        {"round": 2, "loss": None},
        {"round": 3, "loss": 0.5},
    ]
    assert Goal.named("loss<=1").reached(history) == 3
    assert Goal.named(" loss >= 1.5").reached(history) == 1
    assert Goal.named("loss<=0.1").reached(history) is None
    with pytest.raises(ConfigError, match="--target names auc, and the task has no such metric"):
        Goal.named("auc>=0.5").reached(history)
    for text in ("accuracy", "accuracy=0.9", "accuracy>=high", ">=3", "accuracy>=1e999"):
        with pytest.raises(ConfigError, match="write it like"):
            Goal.named(text)


def command(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["simulate", *arguments])


def test_the_command(tmp_path: Path) -> None:
    config, told = tmp_path / "c.toml", tmp_path / "told.json"
    config.write_text("[run]\nrounds = 4\n")
    shown = command(str(config), "--speeds", "1,1,1,5", "--json", str(told))
    assert shown.exit_code == 0, shown.output
    assert "first: buffered, after 5 s" in shown.output
    assert [one["policy"] for one in json.loads(told.read_text())["policies"]] == [
        *("synchronous", "deadline", "buffered")
    ]
    for arguments, text in (
        ((), "seconds from one place: give --speeds 1,1,1,5 or --from RUN"),
        (("--speeds", "1,0"), "are no seconds above 0"),
        (("--speeds", "1,1", "-n", "3"), "there are seconds of 2 silos, and 3 silos: give one for each"),
    ):
        refused = command(str(config), *arguments)
        assert isinstance(refused.exception, ConfigError)
        assert text in str(refused.exception)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            '[topology]\nname = "star"',
            'silofl simulate compares serverless runs, and topology.name = "star" is none: remove '
            '[topology], or set topology.name = "sharded" or "asynchronous"',
        ),
        ('[topology]\nname = "hierarchical"\ngroups = [[0, 1], [2, 3]]', '"hierarchical" is none: remove'),
        ('[topology]\nname = "gossip"', 'topology.name = "gossip" is none: remove [topology], or set'),
        (
            '[privacy]\nunit = "silo"\nnoise_multiplier = 1.0',
            'silofl simulate compares with topology.name = "asynchronous", which does not go with [privacy]: '
            "remove [privacy] for the comparison",
        ),
        (
            '[strategy]\nname = "scaffold"',
            'silofl simulate compares with topology.name = "asynchronous", which adds up changes of one '
            'model that no silo keeps anything of, and strategy.name = "scaffold" has more than that: set',
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_else(
    tmp_path: Path, lines: str, sentence: str
) -> None:
    """Before seconds are looked for, which a coordinator has none of."""
    config = tmp_path / "c.toml"
    config.write_text(f"{lines}\n")
    for given in (("--from", str(tmp_path)), ("--speeds", "1,1,1,5", "--target", "accuracy>=0.9")):
        refused = command(str(config), *given)
        assert isinstance(refused.exception, ConfigError), refused.output
        assert sentence in str(refused.exception)


def test_rounds_to_a_target_do_not_end_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run.stop_when` and `run.keep_best` are left out, and nothing is told of rounds that were not run."""
    given: list[Any] = []

    class Ran:
        history: ClassVar[list[dict[str, Any]]] = [{"round": 1, "accuracy": 0.1}]

    def simulated(config: Any, silos: int) -> Ran:
        given.append(config)
        return Ran()

    monkeypatch.setattr(pace_comparison, "simulate", simulated)
    run = {"rounds": 20, "stop_when": {"metric": "accuracy", "patience": 1}, "keep_best": "accuracy"}
    config = configuration.parse(SECURE | {"run": run})
    found = {one.policy: one for one in compare(config, 4, SPEEDS, goal=Goal.named("accuracy>=0.99"))}
    assert [(one.run.stop_when, one.run.keep_best) for one in given] == [(None, None)] * 3
    assert (found["synchronous"].rounds, found["synchronous"].seconds) == (None, 5.0)
    assert found["buffered"].updates == 3


DIGITS = {"train": {"lr": 0.3, "batch_size": 32}, "secure": {"protocol": "plain"}}


@pytest.mark.long
@pytest.mark.parametrize("method", ["fedbuff", "fedasync"])
def test_digits_are_within_two_points_of_the_synchronous_at_as_many_updates(
    tmp_path: Path, method: str
) -> None:
    """One silo five times slower, and three seeds: 30 rounds of four, and buffers of as many updates."""
    found = dict[str, list[float]]()
    for seed in range(3):
        for name, topology, rounds in (
            ("sharded", {}, 30),
            (method, {"name": "asynchronous", "method": method, "buffer": 3, "seconds": SPEEDS}, 37),
        ):
            run = {"rounds": rounds, "seed": seed, "dir": str(tmp_path / f"{name}-{seed}"), "display": "none"}
            result = silofl.simulate(DIGITS | {"run": run, "topology": topology}, silos=4)
            found.setdefault(name, []).append(result.summary["accuracy"])
    assert sum(found[method]) / 3 >= sum(found["sharded"]) / 3 - 0.02, found


@pytest.mark.long
def test_a_target_is_trained_for(tmp_path: Path) -> None:
    config = configuration.parse(DIGITS | {"run": {"rounds": 12}})
    found = {one.policy: one for one in compare(config, 4, SPEEDS, goal=Goal.named("accuracy>=0.8"))}
    assert all(one.rounds is not None for one in found.values()), found
    assert found["buffered"].seconds < 0.6 * found["synchronous"].seconds
