"""Runs whose sums pass through groups of ranks: serverless runs, bit for bit, also when ranks fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from silofl import config as configuration
from silofl.comm.elastic_group import RankFailure
from silofl.config import settings as files
from silofl.errors import ConfigError, StoppedError
from silofl.faults import STEPS
from silofl.federation.dry_run import dry_run
from silofl.federation.early_checks import Start, refuse_early
from silofl.federation.failure.policy import stop_reason
from silofl.federation.simulation import simulate
from silofl.topologies.arrangements.hierarchical import Hierarchical
from tests.campaigns import mostly_long
from tests.conftest import ROOT, Finished
from tests.conftest import Start as Job
from tests.exchange_ways import use_hosts
from tests.federation import regression
from tests.federation.test_failure_in_threads import check
from tests.federation.threads import federate, prepare, records, settings
from tests.rank_groups import TWO_OF_FOUR

HALVES = {"name": "hierarchical", "groups": [[0, 3], [1, 2]]}
LEVELS = {"name": "hierarchical", "groups": [[[0, 1], [2]], [[3], [4, 5]]]}


def model(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_file(path / "model.safetensors")
    return found


def trained(path: Path, silos: int, **sections: Any) -> dict[str, Any]:
    assert all(isinstance(one, dict) for one in federate(settings(path, **sections), silos))
    return model(path)


@pytest.mark.parametrize(("silos", "topology"), [(4, HALVES), (6, LEVELS)], ids=["two", "levels"])
def test_the_model_is_that_of_a_serverless_run(tmp_path: Path, silos: int, topology: dict[str, Any]) -> None:
    grouped = trained(tmp_path / "grouped", silos, topology=topology)
    flat = trained(tmp_path / "flat", silos)
    assert all(np.array_equal(values, flat[name]) for name, values in grouped.items())
    between = [line["bytes_between_groups"] for line in records(tmp_path / "grouped")]
    assert min(between) > 0
    summary = json.loads((tmp_path / "grouped/summary.json").read_text())
    assert summary["bytes_between_groups"] == between[-1]
    messages = {line["messages_sent"] for line in records(tmp_path / "grouped")[1:]}
    assert messages == {summary["messages_sent_per_round"]} != {0}, "the same in every round"
    assert "bytes_between_groups" not in records(tmp_path / "flat")[0]


def test_ranks_of_a_host_are_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hosts((0, 1, 1, 0, 0), monkeypatch)
    fault = {"inject": ["kill silo 1 round 2 at unmask"]}
    prepare(monkeypatch)
    config = settings(tmp_path, topology={"name": "hierarchical"}, failure=fault)
    check(tmp_path, config, 5, {1: "unmask"}, federate(config, 5))
    assert all(line["bytes_between_groups"] > 0 for line in records(tmp_path))


def test_a_model_of_doubles_in_the_clear_is_that_to_rounding(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"secure": {"protocol": "plain"}, "train": {"dtype": "float64"}}
    grouped = trained(tmp_path / "grouped", 4, topology=HALVES, **sections)
    flat = trained(tmp_path / "flat", 4, **sections)
    assert max(np.abs(values - flat[name]).max() for name, values in grouped.items()) < 1e-10


@pytest.mark.parametrize(("silos", "topology"), [(4, HALVES), (6, LEVELS)], ids=["two", "levels"])
def test_fedavg_of_doubles_is_the_weighted_mean_of_groups_weighted_means(
    tmp_path: Path, silos: int, topology: dict[str, Any]
) -> None:
    """In NumPy: means inside groups by samples, and between groups by all samples of each."""
    config = settings(tmp_path, topology=topology, secure={"protocol": "plain"}, **regression.SECTIONS)
    result = simulate(config.model_dump(exclude_unset=True), regression.Regression(), silos=silos)
    assert regression.away(model(result.path), regression.fedavg(topology["groups"], silos)) < 1e-10


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    ("step", "silo"),
    mostly_long([(step, silo) for step in STEPS for silo in (0, 1, 5)], 10, 29),
    ids=str,
)
def test_a_rank_dies_that_others_pass_sums_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, silo: int
) -> None:
    prepare(monkeypatch)
    fault = f"kill silo {silo} round 2 at {step}"
    config = settings(tmp_path, topology=LEVELS, failure={"inject": [fault]})
    check(tmp_path, config, 6, {silo: step}, federate(config, 6))


def test_a_run_stops_where_a_group_has_too_few_and_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    topology = {**HALVES, "min_silos": 2}
    fault = {"inject": ["kill silo 2 round 3 at collect middle"]}
    config = settings(tmp_path / "stopped", topology=topology, failure=fault)
    errors = [one for one in federate(config, 4) if one is not None]
    assert len(errors) == 3
    assert all(isinstance(error, StoppedError) for error in errors)
    assert "the group [1, 2] has 1 silo left of 2, and topology.min_silos = 2" in str(errors[0])
    assert all(isinstance(one, dict) for one in federate(config, 4, resume=True))
    whole = trained(tmp_path / "whole", 4, topology=topology)
    stopped = model(tmp_path / "stopped")
    assert all(np.array_equal(values, stopped[name]) for name, values in whole.items())


@pytest.mark.parametrize(
    ("groups", "ranks", "sentence"),
    [
        ([[0, 1], [2]], 4, "topology.groups = [[0, 1], [2]] leaves out rank 3 of 4: name each rank once"),
        ([[0, 1], [1, 2]], 3, "has rank 1 twice: name each rank once"),
        ([[0, 1], [2, 9]], 3, "has rank 9, and there are ranks 0 to 2: leave it out"),
        ([[0, 1, 2]], 3, "is one group: list two at least"),
        ([0, 1, 2], 3, "is one group: list two at least"),
        ([[0, 1], 2], 3, "has ranks beside groups: make each of those ranks a group"),
        ([[0, 1], []], 2, "has a group of no rank: leave it out"),
        ([["a"], [0]], 2, "has 'a', which is no rank: list numbers of ranks"),
        ("label", 2, 'topology.groups = "label" needs [[institution]], each with a label'),
    ],
    ids=str,
)
def test_groups_that_are_none_are_refused(groups: Any, ranks: int, sentence: str) -> None:
    config = configuration.parse({"topology": {"name": "hierarchical", "groups": groups}})
    with pytest.raises(ConfigError) as refused:
        refuse_early(Start(config, ranks), [])
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_group_of_too_few_is_refused_by_name() -> None:
    config = configuration.parse({"topology": {**HALVES, "min_silos": 3}})
    with pytest.raises(ConfigError, match=r"the group \[0, 3\] has 2 silos, and topology.min_silos = 3"):
        refuse_early(Start(config, 4), [])


def test_additive_shares_are_not_passed_on() -> None:
    config = configuration.parse({"topology": HALVES, "secure": {"protocol": "additive"}})
    with pytest.raises(ConfigError, match="hides it from its committee alone"):
        refuse_early(Start(config, 4), [])


def test_hosts_are_groups_by_the_silos_that_are_there() -> None:
    assert Hierarchical().grouped(((0, 2), (5,))) == ((0, 2), (5,))
    config = configuration.parse({"topology": {"name": "hierarchical", "min_silos": 1}})
    reason = stop_reason(config, 6, groups=lambda: ((0, 1, 2), (3, 4, 5)))
    assert reason(RankFailure((5,), 0.0), (0, 1, 2, 3, 4)) is None
    config = config.model_copy(update={"topology": config.topology.model_copy(update={"min_silos": 3})})
    reason = stop_reason(config, 6, groups=lambda: ((0, 1, 2), (3, 4, 5)))
    assert "the group [3, 4, 5] has 2 silos left of 3" in str(reason(RankFailure((5,), 0.0), (0, 1, 2, 3, 4)))


def labelled(*labels: str) -> dict[str, Any]:
    entries = [{"name": f"site {k}", **({"label": one} if one else {})} for k, one in enumerate(labels)]
    return {"topology": {"name": "hierarchical", "groups": "label"}, "institution": entries}


def test_institutions_of_a_label_are_a_group() -> None:
    found = files.of_tables(labelled("eu/de", "us", "eu/fr", "eu/de", "us"))
    assert found.of(0).topology.model_dump()["groups"] == [[[0, 3], [2]], [1, 4]]
    assert found.of(4).topology == found.of(0).topology
    assert files.of_tables(labelled("eu/de", "us", "eu")).of(0).topology.model_dump()["groups"] == [
        [[2], [0]],
        [1],
    ]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (("de", ""), 'topology.groups = "label" and institution number 2 has no label: give each one'),
        (("de", "de"), "all labels are one: give two at least"),
        (("de", "eu//de"), "institution 'site 1': label = 'eu//de' is none: give it a text"),
    ],
)
def test_labels_that_make_no_groups_are_refused(labels: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        files.of_tables(labelled(*labels))
    assert sentence in str(refused.value)


def test_check_says_that_a_quarter_passes_between_two_groups_of_four() -> None:
    """Keys, votes, sums, copies and the new model: all of a round, of 284,010 values."""
    topology = {"name": "hierarchical", "groups": [list(one) for one in TWO_OF_FOUR]}
    tables = {"topology": topology, "task": {"name": "synthetic", "hidden": [4000]}}
    said = dry_run(configuration.parse(tables), 8).between_groups
    few, many = (float(word) for word in said.split() if word.replace(".", "").isdigit())
    assert 0.2 * many < few <= many / 4
    assert dry_run(configuration.parse(tables | {"topology": {"name": "sharded"}}), 4).between_groups == ""


KILLS = ["train", "collect first", "agree", "step", "allgather"]


def processes(start: Job, run: Path, *more: str, resume: bool = False, ulfm: bool = True) -> Finished:
    """Two groups of two silos on digits, of six rounds."""
    sets = ['topology.name="hierarchical"', "topology.groups=[[0,1],[2,3]]", "run.rounds=6", *more]
    words = ["train", str(ROOT / "launch/digits.toml"), "--run", str(run), *["--resume"] * resume]
    return start(4, *words, *[word for one in sets for word in ("--set", one)], ulfm=ulfm).wait()


@pytest.mark.long
@pytest.mark.parametrize(("silo", "step"), list(zip([0, 2, 1, 3, 0], KILLS, strict=True)), ids=str)
def test_processes_go_on_when_one_dies(start: Job, tmp_path: Path, silo: int, step: str) -> None:
    """Every rank adds up for its group. It comes back, too: told the groups before its first message."""
    end = processes(start, tmp_path / "run", f'failure.inject=["kill silo {silo} round 3 at {step}"]')
    lines = records(tmp_path / "run")
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6], end
    assert lines[-1]["survivors"] == [0, 1, 2, 3]
    assert sum(line["rejoined"] == [silo] for line in lines) == 1


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", KILLS)
def test_a_job_without_recovery_resumes_bit_for_bit(start: Job, tmp_path: Path, step: str) -> None:
    assert processes(start, tmp_path / "whole", ulfm=False).code == 0
    fault = f'failure.inject=["kill silo 1 round 4 at {step}"]'
    assert processes(start, tmp_path / "cut", fault, ulfm=False).code != 0
    end = processes(start, tmp_path / "cut", resume=True, ulfm=False)
    assert end.code == 0, end
    whole, cut = model(tmp_path / "whole"), model(tmp_path / "cut")
    assert all(np.array_equal(values, cut[name]) for name, values in whole.items())
