"""Runs with a coordinator: the model of a serverless run of the silos, and no secret opened by its help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from silofl import config as configuration
from silofl.config import settings as files
from silofl.errors import EXIT_RESUMABLE, ConfigError, StoppedError
from silofl.faults import STEPS
from silofl.federation.dry_run import dry_run
from silofl.federation.early_checks import Start, refuse_early
from silofl.federation.failure.policy import describe_policy, min_silos
from silofl.federation.simulation import simulate
from silofl.tasks.base import SiloData
from tests.campaigns import mostly_long
from tests.conftest import ROOT, Finished
from tests.conftest import Start as Job
from tests.federation import regression
from tests.federation.threads import Normalized, federate, prepare, records, settings

LAST = {"name": "star", "coordinator": 4}
"""Behind four silos, whose numbers are those that they have without it."""


def model(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_file(path / "model.safetensors")
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def trained(path: Path, ranks: int, **sections: Any) -> dict[str, Any]:
    ends = federate(settings(path, **sections), ranks)
    assert all(isinstance(one, dict) for one in ends), ends
    return model(path)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"secure": {"protocol": "plain"}},
        {"compress": {"bits": 8}},
        {"train": {"batch_norm": "recomputed"}},
        {"personal": {"name": "finetune"}},
        {"clients": {"per_silo": 5, "per_round": 2, "batched": False}, "train": {"keep_optimizer": False}},
    ],
    ids=["secagg", "plain", "compressed", "recomputed", "personal", "clients"],
)
def test_the_model_is_that_of_the_silos_without_a_server(tmp_path: Path, sections: dict[str, Any]) -> None:
    star = trained(tmp_path / "star", 5, topology=LAST, **sections)
    assert same(star, trained(tmp_path / "flat", 4, **sections))
    line = records(tmp_path / "star")[-1]
    assert line["survivors"] == [0, 1, 2, 3]
    assert line["per_silo"][4] == {}
    assert not (tmp_path / "star/silo-0004/personal.safetensors").exists()
    assert line["accuracy" if "accuracy" in line else "loss"] == records(tmp_path / "flat")[-1]["loss"]


def test_the_coordinator_has_the_servers_state_and_the_silos_have_none(tmp_path: Path) -> None:
    trained(tmp_path, 5, topology=LAST, checkpoint={"keep": 10})
    rounds = sorted((tmp_path / "checkpoints").glob("round-*"))
    lengths = []
    for silo in range(5):
        arrays = load_file(rounds[-1] / f"silo-{silo:04d}.safetensors")
        of_server = [one.size for name, one in arrays.items() if "server" in name and "velocity" in name]
        lengths.append(sum(of_server))
    assert lengths == [0, 0, 0, 0, 730]


def test_fedavg_of_doubles_is_the_weighted_mean_of_the_silos(tmp_path: Path) -> None:
    """One full-batch step of softmax regression from zeros, in NumPy."""
    more = {"secure": {"protocol": "plain"}, "topology": {"name": "star"}}
    config = settings(tmp_path, **regression.SECTIONS, **more)
    result = simulate(config.model_dump(exclude_unset=True), regression.Regression(), silos=4)
    assert regression.away(model(result.path), regression.fedavg(range(3), 3)) < 1e-10


@pytest.mark.covering(1)
@pytest.mark.parametrize("step", mostly_long([*STEPS], 8))
def test_without_its_coordinator_a_run_stops_and_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    prepare(monkeypatch)
    fault = {"inject": [f"kill silo 4 round 2 at {step}"]}
    config = settings(tmp_path / "stopped", topology=LAST, failure=fault)
    ends = federate(config, 5)
    assert ends[4] is None
    assert all(isinstance(error, StoppedError) for error in ends[:4])
    assert "rank 4, the coordinator, is the server: --resume goes on" in str(ends[0])
    assert all(isinstance(one, dict) for one in federate(config, 5, resume=True))
    assert same(model(tmp_path / "stopped"), trained(tmp_path / "whole", 5, topology=LAST))


@pytest.mark.covering(1)
@pytest.mark.parametrize("step", mostly_long([*STEPS], 6))
def test_a_silo_is_left_out_as_without_a_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    prepare(monkeypatch)
    fault = {"inject": [f"kill silo 2 round 2 at {step}"]}
    ends = federate(settings(tmp_path / "star", topology=LAST, failure=fault), 5)
    assert [one is None for one in ends] == [False, False, True, False, False]
    assert records(tmp_path / "star")[-1]["survivors"] == [0, 1, 3]
    flat = federate(settings(tmp_path / "flat", failure=fault), 4)
    if [line["survivors"] for line in records(tmp_path / "flat")] == [
        line["survivors"] for line in records(tmp_path / "star")
    ]:
        assert flat[2] is None
        assert same(model(tmp_path / "star"), model(tmp_path / "flat"))


def test_in_the_clear_a_silo_is_left_out_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a slice without values has no other silo that keeps its state."""
    prepare(monkeypatch)
    more = {"failure": {"inject": ["kill silo 3 round 2 at train"]}, "secure": {"protocol": "plain"}}
    ends = federate(settings(tmp_path / "star", topology=LAST, **more), 5)
    assert [one is None for one in ends] == [False, False, False, True, False]
    assert federate(settings(tmp_path / "flat", **more), 4)[3] is None
    assert same(model(tmp_path / "star"), model(tmp_path / "flat"))


def test_two_silos_are_not_enough_with_a_coordinators_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three are left to open the sum, and one of them brings nothing to hide another's update."""
    prepare(monkeypatch)
    fault = {"inject": ["kill silo 1 round 2 at mask"]}
    topology = {"name": "star", "coordinator": 3}
    ends = federate(settings(tmp_path, topology=topology, failure=fault), 4)
    assert "2 of 3 silos are left and a round needs 3" in str(ends[0])
    assert min_silos(settings(tmp_path, topology=topology), 4) == 3


def test_silos_are_drawn_and_the_coordinator_never(tmp_path: Path) -> None:
    run = {"silos_per_round": 3, "rounds": 6}
    star = trained(tmp_path / "star", 5, topology=LAST, run=run | {"dir": str(tmp_path / "star")})
    assert {tuple(line["drawn"]) for line in records(tmp_path / "star")} <= {
        (0, 1, 2),
        (0, 1, 3),
        (0, 2, 3),
        (1, 2, 3),
    }
    assert same(star, trained(tmp_path / "flat", 4, run=run | {"dir": str(tmp_path / "flat")}))


def test_data_are_shared_out_among_silos_that_have_them(tmp_path: Path) -> None:
    asked = list[tuple[int, int]]()

    class Asked(Normalized):
        def data(self, silo: int, silos: int) -> SiloData:
            asked.append((silo, silos))
            return super().data(silo, silos)

    tables = {"run": {"rounds": 1, "dir": str(tmp_path), "display": "none"}, "topology": {"name": "star"}}
    simulate(tables | {"train": {"steps": 1}}, Asked, silos=4)
    assert sorted(asked) == [(0, 3), (1, 3), (2, 3)]


def institutions(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for silo in range(3):
        x = rng.standard_normal((40, 2)).astype(np.float32)
        np.savez(folder / f"{silo}.npz", x=x, y=(x.sum(1) > 0).astype(np.int64))
    entries: list[dict[str, Any]] = [{"name": "trustee"}]
    entries += [{"name": f"site {k}", "data": {"path": str(folder / f"{k}.npz")}} for k in range(3)]
    return {
        "run": {"rounds": 2, "dir": str(folder / "run"), "display": "none"},
        "task": {"name": "files", "classes": 2},
        "topology": {"name": "star"},
        "institution": entries,
    }


def test_the_coordinator_is_an_institution_without_files(tmp_path: Path) -> None:
    tables = institutions(tmp_path)
    result = simulate(tables)
    assert result.summary["survivors"] == [1, 2, 3]
    found = files.of_tables(tables)
    foreseen = dry_run(found.of(0), 4, own=found.own, institutions=found.institutions)
    assert [row.silo for row in foreseen.silos] == [1, 2, 3]
    assert "rank 0 is the coordinator: it has no data" in foreseen.notes


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"task": {"name": "files", "classes": 2}, "data": {"path": "x", "standardize": True}},
            "are agreed on by all ranks: set constants in [data]",
        ),
        ({"secure": {"protocol": "additive"}}, 'set secure.protocol = "plain" or "secagg"'),
        (
            {"topology": {"name": "star", "coordinator": 7}},
            "topology.coordinator = 7, and there are ranks 0 to 4",
        ),
    ],
    ids=["statistics", "additive", "rank"],
)
def test_what_a_coordinator_does_not_go_with_is_refused(sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        refuse_early(Start(configuration.parse({"topology": {"name": "star"}} | sections), 5), [])
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_rank_alone_is_no_star() -> None:
    with pytest.raises(ConfigError, match="start one rank for each silo and one more"):
        refuse_early(Start(configuration.parse({"topology": {"name": "star"}}), 1), [])
    with pytest.raises(ConfigError, match="start one rank for each silo and one more"):
        dry_run(configuration.parse({"topology": {"name": "star"}}), 1)


def test_what_happens_when_a_rank_fails_is_said() -> None:
    config = configuration.parse({"topology": {"name": "star"}, "failure": {"policy": "shrink"}})
    assert describe_policy(config, 5).startswith(
        "shrink: the coordinator's failure ends the job with exit code 75"
    )
    assert "rounds go on with 3 of 4 silos or more" in describe_policy(config, 5)
    assert "so does that of any silo, for a round needs 3 of 3" in describe_policy(config, 4)


OF_COORDINATOR = ["train", "collect first", "agree", "step", "allgather"]
OF_SILO = ["train", "share", "collect first", "agree", "allgather"]


def processes(start: Job, run: Path, *more: str, resume: bool = False) -> Finished:
    """A coordinator and four silos on digits, of six rounds."""
    sets = ['topology.name="star"', "run.rounds=6", *more]
    words = ["train", str(ROOT / "launch/digits.toml"), "--run", str(run), *["--resume"] * resume]
    return start(5, *words, *[word for one in sets for word in ("--set", one)], ulfm=True).wait()


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", OF_COORDINATOR)
def test_without_its_coordinator_a_job_stops_and_resumes_bit_for_bit(
    start: Job, tmp_path: Path, step: str
) -> None:
    assert processes(start, tmp_path / "whole").code == 0
    end = processes(start, tmp_path / "cut", f'failure.inject=["kill silo 0 round 3 at {step}"]')
    assert end.code == EXIT_RESUMABLE, end
    assert "rank 0, the coordinator, is the server" in end.out + end.err
    end = processes(start, tmp_path / "cut", resume=True)
    assert end.code == 0, end
    assert [line["round"] for line in records(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6], end
    assert same(model(tmp_path / "cut"), model(tmp_path / "whole"))


@pytest.mark.long
@pytest.mark.parametrize("step", OF_SILO)
def test_a_job_goes_on_without_a_silo_which_comes_back(start: Job, tmp_path: Path, step: str) -> None:
    end = processes(start, tmp_path / "run", f'failure.inject=["kill silo 2 round 3 at {step}"]')
    lines = records(tmp_path / "run")
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6], end
    assert [one for line in lines for one in line["failed"]] == [2]
    assert lines[-1]["survivors"] == [1, 2, 3, 4]
