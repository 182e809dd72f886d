"""Detection in runs of threads: who is left out, after a resume and a death, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import silofl.federation.round
from silofl import config as configuration
from silofl.checkpoint.audit_trail import read, trail_path
from silofl.checkpoint.trail_verification import verified
from silofl.comm.threads import run_in_threads
from silofl.detection.silo_standing import Standing
from silofl.errors import CheckpointError, ConfigError, ProtocolError
from silofl.federation.early_checks import Start, detection
from silofl.federation.exclusion_limits import rules_of
from silofl.federation.exclusions import Exclusions
from silofl.federation.loop import train
from silofl.report.lines import round_line
from silofl.report.round_metrics import RoundMetrics
from silofl.topologies.base import BUFFERS
from silofl.topologies.detecting_steps import DetectingSteps
from tests.federation.threads import Normalized, prepare, records

SILOS, BAD, ROUNDS = 7, 5, 8
FLIP = {"name": "sign_flip", "scale": 20.0, "silos": [BAD]}


def configured(path: Path, *inject: str, rounds: int = ROUNDS, **sections: Any) -> Any:
    tables: dict[str, Any] = {
        "run": {"name": "d", "dir": str(path), "display": "none", "rounds": rounds, "evaluate_every": 99},
        "train": {"full_batch": True, "steps": 2},
        "secure": {"protocol": "plain"},
        "failure": {"policy": "shrink", "inject": list(inject)},
        "detection": {"mode": "exclude", "strikes": 2},
        "attack": FLIP,
    }
    return configuration.parse(tables | sections)


def run(config: Any, silos: int = SILOS, *, resume: bool = False) -> Any:
    def rank(comm: Any) -> Any:
        torch.set_num_threads(1)
        return train(config, Normalized(), comm=comm, resume=resume)

    run_in_threads(silos, rank, timeout_s=60)
    return load_file(Path(config.run.dir) / "model.safetensors")


def of(path: Path, key: str) -> list[Any]:
    return [line[key] for line in records(path)]


@pytest.mark.parametrize("robust", [{}, {"name": "median", "f": 1}], ids=["mean", "median"])
def test_an_attacker_is_left_out_and_the_lines_say_so(tmp_path: Path, robust: Any) -> None:
    run(configured(tmp_path, rounds=4, robust=robust))
    assert of(tmp_path, "suspicious") == [[BAD]] * 4
    before = [] if robust else [BAD]  # a rule sees to the round itself
    assert of(tmp_path, "left_out") == [before, before, [BAD], [BAD]]
    excluded = of(tmp_path, "excluded")
    assert [list(one) for one in excluded] == [[], [str(BAD)], [], []]
    assert excluded[1][str(BAD)].startswith("2 of its last 2 updates suspicious, this one for its")
    scores = of(tmp_path, "scores")[0]
    assert sorted(scores) == [str(silo) for silo in range(SILOS)]
    assert scores[str(BAD)]["rank"] == SILOS
    assert scores[str(BAD)]["norm"] > 5 * scores["0"]["norm"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["excluded"] == [[2, BAD]]


def test_the_mean_is_that_of_the_silos_that_are_left(tmp_path: Path) -> None:
    """One step of full batches from zero, weighted by samples, without the attacker's."""
    config = configured(tmp_path, rounds=1, train={"full_batch": True, "steps": 1, "lr": 0.1})
    found = run(config)
    task, total, weighed = Normalized(), np.zeros(10), 0
    for silo in range(SILOS):
        labels = task.data(silo, SILOS).train.tensors[1].numpy()  # type: ignore[union-attr]
        step = 0.1 * (np.bincount(labels, minlength=10) / len(labels) - 0.1)
        total, weighed = (
            (total, weighed) if silo == BAD else (total + len(labels) * step, weighed + len(labels))
        )
    np.testing.assert_allclose(found["1.bias"], total / weighed, atol=1e-6)


def test_scores_alone_change_nothing(tmp_path: Path) -> None:
    shown = run(configured(tmp_path / "a", rounds=3, detection={"mode": "show"}))
    plain = run(configured(tmp_path / "b", rounds=3, detection={}))
    for name, values in plain.items():  # but for the order of roundings, as rows come unweighted
        np.testing.assert_allclose(shown[name], values, rtol=1e-4, atol=1e-5)
    assert of(tmp_path / "a", "suspicious") == [[BAD]] * 3
    assert of(tmp_path / "a", "left_out") == [[]] * 3
    assert of(tmp_path / "b", "scores") == [{}] * 3


def test_updates_that_are_not_finite_do_not_enter_the_mean(tmp_path: Path) -> None:
    found = run(configured(tmp_path, rounds=3, attack={"name": "not_a_number", "silos": [BAD]}))
    assert all(np.isfinite(one).all() for one in found.values())
    assert of(tmp_path, "rejected") == [[BAD], [BAD], []]
    assert of(tmp_path, "left_out") == [[], [], [BAD]]


def test_standings_are_there_after_a_resume(tmp_path: Path) -> None:
    """One strike before it, and one behind it."""
    whole = run(configured(tmp_path / "whole"))
    run(configured(tmp_path / "cut", rounds=1))
    resumed = run(configured(tmp_path / "cut"), resume=True)
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)
    assert of(tmp_path / "cut", "scores") == of(tmp_path / "whole", "scores")
    assert of(tmp_path / "cut", "excluded") == of(tmp_path / "whole", "excluded")


def test_no_silo_loses_its_exclusion_by_a_resume_that_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As all signed it, where the attacker has lost its newest checkpoint and behaves from then on."""
    run(configured(tmp_path, rounds=2, audit={"trail": True}))
    for path in (tmp_path / "checkpoints").rglob("*0002*/*silo-0005*"):
        path.unlink()
    monkeypatch.setattr(
        silofl.federation.round, "with_forged_updates", lambda _, __, fitted, seen: (fitted, seen)
    )
    run(configured(tmp_path, rounds=4, audit={"trail": True}), resume=True)
    signed = [one.entry for one in read(trail_path(tmp_path, BAD))[2]]
    assert [one.round for one in signed] == [1, 2, 2, 3, 4]
    assert [[*one.decisions.get("excluded", {})] for one in signed] == [[], ["5"], ["5"], [], []]
    assert "as all silos have signed" in of(tmp_path, "excluded")[1]["5"]
    assert of(tmp_path, "left_out")[2:] == [[BAD]] * 2
    text = verified([tmp_path]).text()
    assert "  signers   rounds 2 to 4 again, after a resume: silos" in text


@pytest.mark.parametrize("how", ["length", "distances"])
def test_a_server_that_tells_another_part_of_an_honest_update_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """By the silo whose update it is, or by all; else that silo would be excluded."""
    honest = DetectingSteps._part

    def lie(self: Any, name: str, rows: Any, kept: Any) -> Any:
        part = honest(self, name, rows, kept)
        if self._watch.silo == BAD and name != BUFFERS:
            table = part.reshape(SILOS + 2, SILOS + 2)
            last = SILOS + 2 if how == "length" else SILOS + 1
            table[0, 1:last] += 1e4
            table[1:last, 0] += 1e4
        return part

    def known(group: Any, *given: Any) -> Any:
        found = of_run(group, *given)
        found.watch.silo = group.silo_id
        return found

    of_run = Exclusions.of
    monkeypatch.setattr(DetectingSteps, "_part", lie)
    monkeypatch.setattr(Exclusions, "of", known)
    said = (
        "silo 5, which serves slice 5, tells another length of silo 0's"
        if how == "length"
        else "silo 5 tells"
    )
    with pytest.raises(ProtocolError, match=said):
        run(configured(tmp_path, rounds=1, attack={}))


def test_silos_that_have_kept_something_else_are_named(tmp_path: Path, monkeypatch: Any) -> None:
    keep = Exclusions.state

    def lie(self: Any) -> Any:
        lies = self._group.silo_id == 3
        return {"standings": "{}"} if lies else keep(self)

    monkeypatch.setattr(Exclusions, "state", lie)
    run(configured(tmp_path, rounds=1))
    with pytest.raises(CheckpointError, match=r"^silo 3 has kept something else than silo 0 of which silos"):
        run(configured(tmp_path, rounds=2), resume=True)


@pytest.mark.parametrize("robust", [{}, {"name": "median", "f": 1}], ids=["mean", "median"])
def test_all_decide_the_same_when_a_silo_dies_in_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, robust: Any
) -> None:
    prepare(monkeypatch)
    run(configured(tmp_path, "kill silo 2 round 2 at step", rounds=4, robust=robust))
    assert of(tmp_path, "failed") == [[], [2], [], []]
    assert of(tmp_path, "suspicious") == [[BAD]] * 4
    assert of(tmp_path, "left_out")[2:] == [[BAD]] * 2


def test_a_silo_that_comes_back_is_told_of_all_standings(tmp_path: Path) -> None:
    rules = rules_of(configured(tmp_path), SILOS)
    here, back = Exclusions(None, rules), Exclusions(None, rules)  # type: ignore[arg-type]
    known = Standing((True, False), 12, 0, 7.5), Standing((True,), 0, 9, np.inf)
    here.watch.standings = dict(enumerate(known))
    back.take_over(json.loads(json.dumps(here.rejoin_state())), None)
    assert back.watch.standings == here.watch.standings


@pytest.mark.parametrize(
    ("sections", "silos", "said"),
    [
        ({"secure": {"protocol": "secagg"}}, 7, r"hides them in one sum: set secure\.protocol = \"plain\""),
        ({"run": {"participation": 0.5}}, 7, r"run\.participation = 0\.5 leaves it to coins"),
        ({}, 3, r"compares 3 silos' updates, and needs 4"),
        ({"run": {"silos_per_round": 3}, "attack": {}}, 7, r"compares 3 silos' updates"),
        (
            {"detection": {"mode": "exclude", "most": 4}},
            7,
            r"leaves out 4 of 7 silos, .*: set it to 3",
        ),
        (
            {"robust": {"name": "krum", "f": 2}},
            7,
            r"leaves out 1 of 7 silos, of which 7 have to stay, .*: set detection\.mode",
        ),
    ],
    ids=str,
)
def test_what_it_cannot_be_had_of_is_refused_early(
    tmp_path: Path, sections: Any, silos: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        detection(Start(configured(tmp_path, **sections), silos))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"detection": {"strikes": 2}}, r"^detection\.strikes does nothing with detection\.mode = \"off\""),
        ({"detection": {"mode": "show", "most": 1}}, r"^detection\.most does nothing"),
        (
            {"detection": {"mode": "exclude", "strikes": 6}},
            r"strikes = 6 .* raise detection\.window",
        ),
        ({"strategy": {"name": "fedexp"}}, "enter the mean also of a silo"),
        ({"strategy": {"name": "streaming_diloco"}, "attack": {}}, "sums something else"),
        ({"compress": {"bits": 8}}, r"\[compress\] .* gives sums alone"),
        ({"prune": {"name": "magnitude", "end": 5}}, r"\[prune\] gives sums alone"),
        ({"topology": {"name": "gossip"}, "attack": {}}, r'set topology\.name = "sharded"'),
        (
            {"privacy": {"unit": "silo", "noise_multiplier": 1.0}, "attack": {}},
            r"which no epsilon of \[privacy\] counts",
        ),
    ],
    ids=str,
)
def test_what_it_does_not_go_with_is_one_sentence(tmp_path: Path, sections: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(tmp_path, **sections)


def test_a_configuration_is_read_back_as_it_was(tmp_path: Path) -> None:
    for keys in ({}, {"mode": "show", "threshold": 5.0}, {"mode": "exclude", "most": 1}):
        config = configured(tmp_path, detection=keys)
        (tmp_path / "c.toml").write_text(configuration.dump(config))
        assert configuration.load(tmp_path / "c.toml").detection == config.detection
    shutil.rmtree(tmp_path)


def test_what_was_decided_is_told_to_people() -> None:
    excluded, reinstated = {"3": "3 of its last 5 updates suspicious"}, {"1": "none was"}
    line = RoundMetrics(7, left_out=(1, 4), excluded=excluded, reinstated=reinstated, suspicious=(4,))
    assert RoundMetrics.from_json(json.loads(json.dumps(line.to_json()))) == line
    assert "left out 1 4" in round_line(line, 9, 1.0)
    assert line.notices(None) == [
        "silo 3 is excluded after round 7: 3 of its last 5 updates suspicious",
        "silo 1 is reinstated after round 7, on probation: none was",
    ]


def test_so_many_are_left_out_as_a_rule_and_a_round_allow(tmp_path: Path) -> None:
    krum = rules_of(configured(tmp_path, robust={"name": "krum", "f": 2}), 8)
    assert (krum.most, krum.room(8)) == (2, 1)
    drawn = {"name": "d", "silos_per_round": 6}
    assert rules_of(configured(tmp_path, run=drawn, attack={}), 30).most == 2
    detection(Start(configured(tmp_path, robust={"name": "krum", "f": 2}), 8))
