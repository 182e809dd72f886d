"""A silo dies at every step of a round: what is left goes on with exactly the model that it must have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from silofl.errors import EXIT_RESUMABLE, StoppedError
from silofl.faults import STEPS
from tests.campaigns import mostly_long
from tests.exchange_ways import UNEQUAL, WAYS, use_hosts
from tests.federation.reference import Attendance, Reference, attendance
from tests.federation.threads import Normalized, federate, prepare, records, settings

ROUND = 2
BEFORE_RANGE = ("train", "advertise", "share", "mask")
OUT = (*BEFORE_RANGE, "collect first", "collect middle", "collect last")
"""Whoever dies at one of these has not brought all its words: it is not in the round's sum."""
EITHER = ("agree",)
"""It has brought them, and only somebody who knew that all have decides for it."""
LATER = ("between rounds", "checkpoint write", "checkpoint rename")
"""Steps after the line of their round, or beside the next one."""
BACKGROUND = ("checkpoint write", "checkpoint rename")
"""Steps of the thread that writes files: a thread that dies there is missed when its work is asked for."""


def check(path: Path, config: Any, silos: int, deaths: dict[int, str], results: list[Any]) -> None:
    """The survivors have one model, that of the reference, and the lines say who took part."""
    left = [silo for silo in range(silos) if silo not in deaths]
    assert [silo for silo, result in enumerate(results) if result is not None] == left
    digests = {results[silo]["model_sha256"] for silo in left}
    assert len(digests) == 1

    lines = records(path)
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert sorted(silo for line in lines for silo in line["failed"]) == sorted(deaths)
    assert all((line["recovery_seconds"] > 0) == bool(line["failed"]) for line in lines)
    assert lines[-1]["survivors"] == left
    rounds = attendance(lines)
    for silo, step in deaths.items():
        failed = next(line["round"] for line in lines if silo in line["failed"])
        assert failed == ROUND if step not in LATER else failed in (ROUND, ROUND + 1)
        last = max(line["round"] for line in lines if silo in line["survivors"])
        assert last in expected_last(step, failed)
        assert all(silo in line["survivors"] for line in lines[:last])
        if step in (*BEFORE_RANGE, "between rounds"):
            others = tuple(other for other in rounds[failed - 1].present if other != silo)
            rounds[failed - 1] = replace(rounds[failed - 1], ranged=others)

    reference = Reference(config, silos, Normalized())
    reference.rounds(rounds)
    assert digests == {reference.model_sha256()}


def expected_last(step: str, failed: int) -> tuple[int, ...]:
    """The last round whose sum a silo may be in that died at a step and was missed in round `failed`."""
    if step in BACKGROUND:
        return (failed,)
    if step in OUT or step == "between rounds":
        return (failed - 1,)
    return (failed - 1, failed) if step in EITHER else (failed,)


@pytest.mark.covering(1)
@pytest.mark.parametrize("step", mostly_long([*STEPS], *range(0, len(STEPS), 2)))
@pytest.mark.parametrize(
    ("silo", "way", "secure"),
    [
        (2, "memory", {"range": 0.125}),
        (0, "messages", {"bits": 32}),
        (1, "hosts", {}),
    ],
    ids=["fixed-memory", "agreed-messages-leader", "hosts"],
)
def test_a_silo_dies(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    silo: int,
    way: str,
    secure: dict[str, Any],
) -> None:
    prepare(monkeypatch, way=way)
    fault = f"kill silo {silo} round {ROUND} at {step}"
    config = settings(tmp_path, secure=secure, failure={"inject": [fault]})
    check(tmp_path, config, 4, {silo: step}, federate(config, 4))


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("places", "silo", "step"),
    mostly_long(
        [
            (places, silo, step)
            for places in UNEQUAL
            for silo, step in ((0, "collect middle"), (1, "unmask"), (3, "collect last"))
        ],
        *(0, 5, 10, 16),
    ),
    ids=str,
)
def test_a_silo_dies_on_unequal_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[int, ...], silo: int, step: str
) -> None:
    """The rounds before it dies are those of one host, too."""
    prepare(monkeypatch)
    use_hosts(places, monkeypatch)
    fault = f"kill silo {silo} round {ROUND} at {step}"
    config = settings(tmp_path, failure={"inject": [fault]})
    check(tmp_path, config, len(places), {silo: step}, federate(config, len(places)))


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    "step", mostly_long(["train", "collect middle", "step", "allgather", "checkpoint agree"], 1, 3)
)
def test_a_silo_dies_in_a_plain_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    prepare(monkeypatch, way="messages" if step.startswith("collect") else "memory")
    fault = f"kill silo 1 round {ROUND} at {step}"
    config = settings(tmp_path, secure={"protocol": "plain"}, failure={"inject": [fault]})
    check(tmp_path, config, 3, {1: step}, federate(config, 3))


PAIRS = [
    {0: "collect last", 1: "collect last"},
    {0: "mask", 3: "reveal"},
    {2: "reveal", 1: "unmask"},
    {0: "step", 1: "allgather"},
    {3: "train", 4: "evaluate"},
    {0: "allgather", 4: "checkpoint agree"},
]


@pytest.mark.parametrize("deaths", mostly_long(PAIRS, 1), ids=lambda deaths: ", ".join(deaths.values()))
def test_two_silos_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: dict[int, str]) -> None:
    prepare(monkeypatch, way=WAYS[PAIRS.index(deaths) % len(WAYS)])
    faults = [f"kill silo {silo} round {ROUND} at {step}" for silo, step in deaths.items()]
    config = settings(tmp_path, secure={"range": 0.125, "threshold": 3}, failure={"inject": faults})
    check(tmp_path, config, 5, deaths, federate(config, 5))


@pytest.mark.covering(0)
@pytest.mark.parametrize("stops", [False, True], ids=["to the end", "until it stops"])
def test_a_new_leader_goes_on_in_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    prepare(monkeypatch)
    failure = {"inject": ["kill silo 0 round 3 at step", *["kill silo 3 round 4 at step"] * stops]}
    configs = [settings(tmp_path / str(silo), failure=failure) for silo in range(4)]
    results = federate(configs, 4)
    lines = [(1, []), (2, []), (3, [0]), (4, [])]
    assert [line["round"] for line in records(tmp_path / "0")] == [1, 2]
    assert [(line["round"], line["failed"]) for line in records(tmp_path / "1")] == lines[: 3 if stops else 4]
    assert (tmp_path / "1" / "config.toml").exists()
    assert [(tmp_path / str(silo) / "summary.json").exists() for silo in (1, 2)] == [not stops, False]
    if stops:
        assert [type(result) for result in results[1:3]] == [StoppedError] * 2
    else:
        assert [result["survivors"] for result in results[1:]] == [[1, 2, 3]] * 3


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("silos", "policy", "step", "why"),
    mostly_long(
        [
            (4, "abort", "collect middle", 'failure.policy = "abort"'),
            (4, "abort", "allgather", 'failure.policy = "abort"'),
            (4, "abort", "checkpoint agree", 'failure.policy = "abort"'),
            (3, "shrink", "unmask", "2 of 3 silos are left and a round needs 3"),
        ],
        *(2, 3),
    ),
)
def test_a_run_that_must_stop_resumes_to_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silos: int, policy: str, step: str, why: str
) -> None:
    prepare(monkeypatch)
    failure = {"policy": policy, "inject": [f"kill silo 1 round 3 at {step}"]}
    config = settings(tmp_path, failure=failure)
    dead, *errors = sorted(federate(config, silos), key=lambda result: result is not None)
    assert dead is None
    assert {type(error) for error in errors} == {StoppedError}
    assert {error.exit_code for error in errors} == {EXIT_RESUMABLE}
    assert {str(error) for error in errors} == {
        f"silo 1 failed, and {why}: --resume goes on from the last committed round"
    }
    resumed = federate(config, silos, resume=True)
    assert [line["round"] for line in records(tmp_path)] == [1, 2, 3, 4]
    whole = Reference(config, silos, Normalized())
    whole.rounds([Attendance(tuple(range(silos)), tuple(range(silos)))] * 4)
    assert {result["model_sha256"] for result in resumed} == {whole.model_sha256()}


@pytest.mark.long
def test_a_resumed_run_says_who_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    faults = ["kill silo 2 round 2 at collect last", "kill silo 0 round 4 at step"]
    config = settings(tmp_path, failure={"inject": faults})
    assert [type(result) for result in federate(config, 4)[1::2]] == [StoppedError] * 2
    summary = federate(config, 4, resume=True)[0]
    first = next(line for line in records(tmp_path) if line["round"] > 2 and line["began"] == [0, 1, 2, 3])
    assert first["rejoined"] == [2]
    assert summary["failed"] == [[2, 2]]
    assert summary["rejoined"] == [[first["round"], 2]]


def test_an_additive_run_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    failure = {"inject": ["kill silo 3 round 2 at evaluate"]}
    config = settings(tmp_path, secure={"protocol": "additive"}, failure=failure)
    *errors, dead = federate(config, 4)
    assert dead is None
    assert {(type(error), str(error)) for error in errors} == {
        (
            StoppedError,
            'silo 3 failed, and secure.protocol = "additive" has no recovery: '
            "--resume goes on from the last committed round",
        )
    }
