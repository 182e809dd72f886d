"""Partial participation by a public draw: who is drawn, who trains, and what is never opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl import config as configuration
from silofl.aggregation.secagg import SecAgg
from silofl.aggregation.secagg_round import SecAggRound
from silofl.checkpoint.tree import pack
from silofl.errors import ConfigError, StoppedError
from silofl.federation.dry_run import dry_run
from silofl.federation.early_checks import Start, refuse_early
from silofl.federation.participation import (
    Participation,
    describe_participation,
    fewest_drawn,
    refuse_unfit,
)
from silofl.federation.silo import Silo
from tests.campaigns import mostly_long
from tests.federation import rejoining
from tests.federation.reference import Attendance, Reference
from tests.federation.test_rejoining import tree_of
from tests.federation.threads import Normalized, federate, prepare, records, settings
from tests.strategies.test_federated import Softmax

SECURE = {"protocol": "secagg", "bits": 32}
PLAIN = {"protocol": "plain"}
ALL = (0, 1, 2, 3)


def rate(value: float, fewest: int = 1, seed: int = 0) -> Participation:
    return Participation(seed, value, None, fewest)


def test_each_silo_has_a_coin_of_its_own() -> None:
    """With the configured probability, independently of the others and of the round before."""
    draws, members = rate(0.3, 0), tuple(range(6))
    drawn = np.array([[k in draws.drawn(n, members) for k in members] for n in range(1, 4001)])
    assert abs(drawn.mean() - 0.3) < 0.012
    assert np.abs(np.corrcoef(drawn.T) - np.eye(6)).max() < 0.06
    assert abs((drawn[1:] & drawn[:-1]).mean() - 0.09) < 0.012
    assert all(draws.drawn(n, members) or len(rate(0.3).drawn(n, members)) == 1 for n in range(100))
    assert len({rate(0.3, seed=seed).drawn(1, members) for seed in range(40)}) > 10


def test_a_draw_is_a_function_of_seed_and_round_and_of_no_silo_that_is_away() -> None:
    draws = rate(0.5)
    for number in range(1, 60):
        drawn = draws.drawn(number, ALL)
        assert drawn == draws.drawn(number, ALL) == tuple(sorted(drawn))
        for away in ALL:
            left = tuple(k for k in ALL if k != away)
            others = tuple(k for k in drawn if k != away)
            assert others in ((), draws.drawn(number, left))
    assert rate(1.0, 3).drawn(1, ALL) == ALL
    pinned = [Participation(1, 1.0, 2, 1).drawn(number, tuple(range(5))) for number in range(1, 6)]
    assert pinned == PINNED  # a resume by another version draws the same silos


PINNED = [(1, 3), (1, 4), (2, 4), (1, 2), (3, 4)]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_so_many_are_drawn_as_often_each(count: int) -> None:
    draws, members = Participation(1, 1.0, count, 1), tuple(range(5))
    drawn = [draws.drawn(number, members) for number in range(3000)]
    assert {len(one) for one in drawn} == {count}
    times = Counter(silo for one in drawn for silo in one)
    assert all(abs(times[silo] / 3000 - count / 5) < 0.04 for silo in members)
    assert draws.drawn(1, (2, 4)) == ((2, 4) if count > 1 else draws.drawn(1, (2, 4))[:1])


@pytest.mark.parametrize("silos", range(3, 9))
def test_no_secure_sum_is_of_fewer_drawn_silos_than_of_survivors(silos: int) -> None:
    """All know who was drawn: of three each knows one part, and the sum of the others' is left."""
    for protocol in ("secagg", "additive"):
        config = parse(participation=1 - 1e-9, protocol=protocol)
        draws = Participation.of(config, silos)
        assert draws is not None
        assert draws.fewest == fewest_drawn(config, silos) >= max(3, silos // 2 + 1)
        low = Participation(0, 1e-9, None, draws.fewest)
        for number in range(200):
            assert len(low.drawn(number, tuple(range(silos)))) == draws.fewest


def parse(protocol: str = "plain", privacy: Mapping[str, Any] | None = None, **run: Any) -> Any:
    return configuration.parse({"run": run, "secure": {"protocol": protocol}, "privacy": privacy or {}})


EXAMPLES = {"unit": "example", "noise_multiplier": 1.0}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"participation": 0.0}, "run.participation"),
    ({"participation": 1.5}, "run.participation"),
    ({"silos_per_round": 0}, "run.silos_per_round"),
    (
        {"participation": 0.5, "silos_per_round": 2},
        "run.participation = 0.5 and run.silos_per_round = 2 both say how many silos take part in a round: "
        "keep one",
    ),
    (
        {"participation": 0.5, "protocol": "secagg", "privacy": EXAMPLES},
        'run.participation = 0.5 would leave out silos, and privacy.unit = "example" counts each round in',
    ),
    (
        {"silos_per_round": 5},
        "run.silos_per_round = 5 is more than the 4 silos there are: set it to 4 or less",
    ),
    (
        {"silos_per_round": 1, "protocol": "secagg"},
        'run.silos_per_round = 1 draws 1 of 4 silos a round, and secure.protocol = "secagg" adds up no fewer '
        'than 3, for all know who was drawn: set it to 3 or more, or secure.protocol to "plain"',
    ),
    (
        {"participation": 0.5, "protocol": "additive"},
        'run.participation = 0.5 draws 2 of 4 silos a round on average, and secure.protocol = "additive" '
        "adds up no fewer than 3, for all know who was drawn: set it to 0.75 or more",
    ),
]


@pytest.mark.parametrize(("given", "text"), REFUSED, ids=[text[:60] for _, text in REFUSED])
def test_what_cannot_be_is_one_sentence(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_early(Start(parse(**given), 4, own_task=True), ())
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_is_said_before_a_run() -> None:
    assert describe_participation(parse(participation=0.5), 4) == (
        "each silo trains in a round with probability 0.5, 1 of 4 at least, drawn by run.seed: all know which"
    )
    assert describe_participation(parse(silos_per_round=3, protocol="secagg"), 4) == (
        "3 of 4 silos train in a round, drawn by run.seed: all know which"
    )
    assert describe_participation(parse(), 4) == ""
    found = dry_run(parse(participation=0.8), 4)
    assert found.participation.startswith("each silo trains in a round with probability 0.8, 1 of 4 at least")
    with pytest.raises(ConfigError, match=r"run\.silos_per_round = 5 is more than the 4 silos"):
        dry_run(parse(silos_per_round=5), 4)
    refuse_unfit(parse(silos_per_round=1), 1)
    with pytest.raises(ConfigError, match=r"all know who was drawn: remove it, or set secure\.protocol to"):
        refuse_unfit(parse(participation=0.5, protocol="secagg"), 3)  # the sum needs all three


class Trained:
    """Which silos trained in which round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.silos: dict[int, set[int]] = {}
        fit = Silo.fit

        def spied(silo: Silo, start: Any) -> Any:
            self.silos.setdefault(start.round_number, set()).add(silo._number)
            return fit(silo, start)

        monkeypatch.setattr(Silo, "fit", spied)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    prepare(monkeypatch)
    return Trained(monkeypatch)


@pytest.mark.parametrize(
    ("secure", "run"),
    mostly_long([(PLAIN, {"participation": 0.5}), (SECURE, {"silos_per_round": 3})], 1),
    ids=str,
)
def test_only_those_that_are_drawn_train_and_a_resume_draws_the_same(
    tmp_path: Path, trained: Trained, secure: Any, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in round 4 and gone on with, the run is bit for bit the one that was not."""
    run = run | {"rounds": 7, "seed": 5}
    config = settings(tmp_path / "whole", run=run | {"dir": str(tmp_path / "whole")}, secure=secure)
    whole = federate(config, 4)
    lines = records(tmp_path / "whole")
    assert [set(line["survivors"]) for line in lines] == [trained.silos[n] for n in range(1, 8)]
    assert all(line["drawn"] == line["survivors"] and line["began"] == list(ALL) for line in lines)
    assert len({tuple(line["drawn"]) for line in lines}) > 2
    assert all(("train_loss" in line["per_silo"][k]) == (k in line["drawn"]) for line in lines for k in ALL)

    reference = Reference(config, 4, Normalized())
    reference.rounds([Attendance(ALL, here, here) for here in (tuple(line["drawn"]) for line in lines)])
    assert {one["model_sha256"] for one in whole} == {reference.model_sha256()}

    killed = [f"kill silo {silo} round 4 at step" for silo in ALL]
    path, once = tmp_path / "killed", {"policy": "shrink", "inject": killed}
    assert federate(settings(path, run=run, secure=secure, failure=once), 4) == [None] * 4
    again = federate(settings(path, run=run | {"display": "plain"}, secure=secure), 4, resume=True)
    assert {one["model_sha256"] for one in again} == {one["model_sha256"] for one in whole}
    assert [line["drawn"] for line in records(path)] == [line["drawn"] for line in lines]
    said = capsys.readouterr().out
    assert "  silos: " in said
    assert "sit out" not in said


class OpenedRounds:
    """The silos of every sum that was opened, by round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sums: dict[int, set[tuple[int, ...]]] = {}
        reduce, opened = SecAgg.reduce, self.sums

        def spied(aggregator: SecAgg, contribution: Any, number: int, *more: Any) -> None:
            reduce(aggregator, contribution, number, *more)
            opened.setdefault(number, set()).add(aggregator.participants)

        monkeypatch.setattr(SecAgg, "reduce", spied)


@pytest.mark.covering(0)
@pytest.mark.parametrize("step", ["train", "collect middle"])
def test_a_sum_of_too_few_drawn_silos_stays_closed_and_others_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained, step: str
) -> None:
    """Of five silos four are drawn, and one of them dies: three are too few, and the fifth is drawn."""
    config = configuration.parse(
        {"run": {"silos_per_round": 4, "rounds": 4}, "secure": {"protocol": "secagg"}}
    )
    draws = Participation.of(config, 5)
    assert draws is not None
    first = draws.drawn(2, (0, 1, 2, 3, 4))
    victim, left = first[1], tuple(k for k in range(5) if k != first[1])
    opened, votes = OpenedRounds(monkeypatch), list[tuple[int, ...]]()
    reveal = SecAggRound.open

    def spied(keys: SecAggRound, comm: Any, survivors: Any) -> Any:
        votes.append(survivors)
        return reveal(keys, comm, survivors)

    monkeypatch.setattr(SecAggRound, "open", spied)
    faults = {"policy": "shrink", "inject": [f"kill silo {victim} round 2 at {step}"]}
    run = {"silos_per_round": 4, "rounds": 4}
    results = federate(settings(tmp_path, run=run, secure=SECURE, failure=faults), 5)
    assert [k for k, one in enumerate(results) if one is None] == [victim]
    assert len({one["model_sha256"] for one in results if one is not None}) == 1
    assert opened.sums[2] == {left}
    assert trained.silos[2] >= set(left)
    lines = records(tmp_path)
    assert [line["survivors"] for line in lines[1:]] == [list(left)] * 3
    assert lines[1]["failed"] == [victim]
    assert all(len(silos) >= 4 for sums in opened.sums.values() for silos in sums)


def test_a_sum_in_the_clear_of_nobody_is_not_used(tmp_path: Path, trained: Trained) -> None:
    """The only silo that was drawn dies, and another one is."""
    run = {"silos_per_round": 1, "rounds": 3}
    config = settings(tmp_path, run=run, secure=PLAIN)
    draws = Participation.of(config, 3)
    assert draws is not None
    (victim,) = draws.drawn(2, (0, 1, 2))
    faults = {"policy": "shrink", "inject": [f"kill silo {victim} round 2 at train"]}
    federate(settings(tmp_path, run=run, secure=PLAIN, failure=faults), 3)
    left = tuple(k for k in range(3) if k != victim)
    assert [tuple(line["survivors"]) for line in records(tmp_path)[1:]] == [
        draws.drawn(number, left) for number in (2, 3)
    ]


def test_too_few_are_left_altogether(tmp_path: Path, trained: Trained) -> None:
    faults = {"policy": "shrink", "inject": [f"kill silo {k} round 2 at train" for k in (0, 2)]}
    run = {"silos_per_round": 3, "rounds": 3}
    results = federate(settings(tmp_path, run=run, secure=SECURE, failure=faults), 4)
    assert {type(one) for one in results} == {StoppedError, type(None)}


@pytest.mark.long
@pytest.mark.parametrize("secure", mostly_long([PLAIN, SECURE], 1), ids=["plain", "secagg"])
def test_all_take_part_where_what_all_share_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained, secure: Any
) -> None:
    """A silo that comes back has an older c_i: c is the mean of all c_i again, drawn or not."""
    config = configuration.parse(
        {
            "run": {"dir": str(tmp_path), "display": "none", "rounds": 12, "silos_per_round": 3, "name": "f"},
            "train": {"full_batch": True, "steps": 5, "lr": 0.3, "dtype": "float64"},
            "strategy": {"name": "scaffold"},
            "secure": secure,
            "failure": {"policy": "respawn", "inject": ["kill silo 2 round 4 at train"]},
        }
    )
    results = rejoining.federate(monkeypatch, config, Softmax, 4, 2, after=6)
    assert len({one["model_sha256"] for one in results}) == 1
    lines = records(tmp_path)
    counts = [len(line["survivors"]) for line in lines]
    assert counts[:3] + counts[4:] == [3] * 5 + [4] + [3] * 5
    assert lines[6]["rejoined"] == [2]
    trees = [tree_of(tmp_path, 12, silo) for silo in ALL]
    shared = np.concatenate([tree["server"]["slices"]["control"] for tree in trees])
    own = np.mean([tree["silo"]["strategy"]["control"] for tree in trees], axis=0)
    assert np.abs(own).max() > 1e-2
    np.testing.assert_allclose(shared, own, rtol=0, atol=1e-5)


@pytest.mark.covering(0)
@pytest.mark.parametrize("method", [{"name": "ditto"}, {"name": "apfl"}, {"name": "fedper"}], ids=str)
def test_a_personal_model_is_trained_in_the_rounds_of_its_silo(
    tmp_path: Path, trained: Trained, method: Any
) -> None:
    """As in the papers' algorithms, whose loops are over the silos that were drawn."""
    layers = {"layers": ["1.*"]} if method["name"] == "fedper" else {}
    run = {"silos_per_round": 2, "rounds": 2}
    for rounds in (1, 2):
        config = settings(
            tmp_path / str(rounds),
            run=run | {"rounds": rounds},
            secure=PLAIN,
            personal=method | layers,
            train={"momentum": 0.0, "keep_optimizer": False},
        )
        federate(config, 4)
    drawn = records(tmp_path / "2")[1]["drawn"]
    for silo in ALL:
        before, after = (tree_of(tmp_path / str(n), n, silo)["silo"] for n in (1, 2))
        kept = "model" if method["name"] == "fedper" else "personal"
        (skeleton, arrays), (other, others) = (pack(tree[kept]) for tree in (before, after))
        moved = [a.tobytes() != b.tobytes() for a, b in zip(arrays.values(), others.values(), strict=False)]
        assert (skeleton != other or any(moved)) == (silo in drawn), silo
