"""When a run goes on without silos, when a failed silo is started again, and which rank leads then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from silofl import config as configuration
from silofl.aggregation.shards import Shards
from silofl.comm.elastic_group import ElasticGroup, RankFailure
from silofl.comm.protocol import SimulatedCrash
from silofl.comm.rendezvous import Group
from silofl.comm.respawn import Place, Respawned
from silofl.comm.threads import ThreadCommunicator, run_in_threads
from silofl.config import Config
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Roster
from silofl.crypto.signer import Signer
from silofl.errors import StoppedError
from silofl.federation.failure import respawn_policy
from silofl.federation.failure.admission import Admission
from silofl.federation.failure.policy import min_silos, replicas, stop_reason
from silofl.federation.failure.respawn_policy import RespawnPolicy
from silofl.federation.failure.respawner import RejoinState
from silofl.federation.recomputation import replica_count
from silofl.federation.run_logger import RunLogger
from silofl.federation.rundir import RunDirectory
from silofl.report.display import Display, choose_display
from silofl.report.round_metrics import RoundMetrics, silos_text


def config(**failure: Any) -> Config:
    keys = ("protocol", "threshold", "allow_two", "recompute")
    secure = {key: failure.pop(key) for key in keys if key in failure}
    return configuration.parse({"run": {"display": "none"}, "failure": failure, "secure": secure})


@pytest.mark.parametrize(
    ("keys", "fewest"),
    [
        # of 1, 2, 3, 4, 5, 8 silos
        ({"protocol": "plain"}, [1, 2, 2, 2, 2, 2]),
        ({"protocol": "plain", "min_silos": 1}, [1, 1, 1, 1, 1, 1]),
        ({"protocol": "plain", "min_silos": 4}, [4, 4, 4, 4, 4, 4]),
        ({}, [1, 2, 3, 3, 4, 5]),
        ({"allow_two": True}, [1, 2, 2, 3, 4, 5]),
        ({"min_silos": 2}, [2, 2, 3, 3, 4, 5]),
        ({"threshold": 3}, [1, 2, 3, 3, 3, 3]),
        ({"min_silos": 4}, [4, 4, 4, 4, 4, 5]),
        ({"threshold": 4}, [1, 2, 4, 4, 4, 4]),
    ],
    ids=str,
)
def test_the_fewest_silos_of_a_round(keys: dict[str, Any], fewest: list[int]) -> None:
    assert [min_silos(config(**keys), silos) for silos in (1, 2, 3, 4, 5, 8)] == fewest


def test_as_many_replicas_as_silos_may_fail_at_once() -> None:
    assert [replicas(config(), silos, 2) for silos in (1, 2, 3, 4, 5, 6, 8)] == [0, 0, 0, 1, 1, 2, 2]
    assert replicas(config(threshold=3), 5, 2) == 2
    assert [replicas(config(protocol="plain"), silos, 2) for silos in (1, 2, 3, 4)] == [0, 0, 1, 2]
    assert replicas(config(policy="abort"), 8, 2) == 0


def test_where_one_silo_checks_a_slice_another_has_it_when_that_one_takes_it_over() -> None:
    assert [replica_count(config(), silos) for silos in (1, 2, 3, 4, 5, 6, 8)] == [0, 0, 0, 2, 2, 2, 2]
    for silos in (4, 5, 6, 8):
        shards = Shards(6400, tuple(range(silos)), replica_count(config(), silos), checkers=1)
        for failed in range(silos):
            left = [silo for silo in range(silos) if silo != failed]
            assert len(shards.checked_by(failed, left)) == 1
    assert [replica_count(config(recompute=many), 4) for many in (0, 2)] == [1, 1]
    assert replica_count(config(protocol="plain"), 3) == 1


@pytest.mark.parametrize(
    ("keys", "lost", "left", "sentence"),
    [
        ({}, (4,), (0, 1, 2, 3), None),
        ({"policy": "shrink", "threshold": 3}, (4,), (0, 1, 2), None),
        ({}, (0, 1), (2, 3, 4), "silos 0 and 1 failed, and 3 of 5 silos are left and a round needs 4"),
        (
            {"threshold": 3},
            (0, 1, 4),
            (2, 3),
            "silos 0, 1 and 4 failed, and 2 of 5 silos are left and a round needs 3",
        ),
        ({"policy": "abort"}, (1, 4), (0, 2, 3), 'silos 1 and 4 failed, and failure.policy = "abort"'),
        (
            {"protocol": "additive"},
            (3,),
            (0, 1, 2, 4),
            'silo 3 failed, and secure.protocol = "additive" has no recovery',
        ),
        ({"protocol": "plain"}, (1, 2, 3), (0, 4), None),
        (
            {"min_silos": 5},
            (3,),
            (0, 1, 2, 4),
            "silo 3 failed, and 4 of 5 silos are left and a round needs 5",
        ),
    ],
)
def test_why_a_run_does_not_go_on(
    keys: dict[str, Any], lost: tuple[int, ...], left: tuple[int, ...], sentence: str | None
) -> None:
    error = stop_reason(config(**keys), 5)(RankFailure(lost, 0.1), left)
    if sentence is None:
        assert error is None
    else:
        assert isinstance(error, StoppedError)
        assert str(error) == sentence + ": --resume goes on from the last committed round"


def test_names() -> None:
    assert [silos_text((2,)), silos_text((0, 1)), silos_text((1, 2, 7))] == [
        "silo 2",
        "silos 0 and 1",
        "silos 1, 2 and 7",
    ]


PLACES = [Place("here", silo, "/home", ("python", f"silo-{silo}.py")) for silo in range(4)]


def due(made: RespawnPolicy, left: tuple[int, ...], rounds: range) -> dict[int, tuple[int, ...]]:
    """In which rounds silos are called, and whom, if nobody comes or goes meanwhile."""
    return {number: made.due(left, number) for number in rounds if made.due(left, number)}


def test_a_silo_without_another_on_its_host_is_not_started_there() -> None:
    hosts = ["north", "north", "south", "west"]
    made = RespawnPolicy(1.0, None, [Place(host, 0) for host in hosts])
    assert made.only_by_restart((0,), (1, 2, 3)) == ""
    assert made.only_by_restart((2,), (0, 1, 3)).startswith("silo 2 failed, and on a host without another")
    assert made.only_by_restart((0, 1), (2, 3)).startswith("silos 0 and 1 failed, and on a host without")
    assert RespawnPolicy(1.0, None, PLACES).only_by_restart((0, 3), (1,)) == ""


@pytest.mark.parametrize("hosts", [1, 2])
def test_on_several_hosts_no_second_silo_is_started_in_a_job(hosts: int) -> None:
    made = RespawnPolicy(1.0, None, [Place(f"host {silo % hosts}", silo) for silo in range(4)])
    made.note((1,), 2)
    assert made.only_by_restart((1,), (0, 2, 3)) == ""
    returns(made, 1, 2)
    told = RespawnPolicy(1.0)  # in the process that came back
    told.take_over(json.loads(json.dumps(made.rejoin_state())), None)
    for policy in (made, told):
        policy.note((2,), 5)
        refused = policy.only_by_restart((2,), (0, 1, 3))
        assert refused.startswith("silo 2 failed, and on several hosts") == (hosts > 1)


def test_a_silo_is_started_again_in_the_round_in_which_it_failed() -> None:
    made = RespawnPolicy(1.0, None, PLACES)
    assert due(made, (0, 1, 2), range(9)) == {}
    made.note((3,), 4)
    made.note((1,), 6)
    assert due(made, (0, 2), range(4, 8)) == {4: (3,), 5: (3,), 6: (1, 3), 7: (1, 3)}
    assert due(made, (0, 1, 2, 3), range(9)) == {}


def returns(made: RespawnPolicy, silo: int, number: int) -> None:
    made._backoffs[silo].returned = number


def test_a_silo_that_fails_again_soon_waits_longer_each_time_and_at_last_for_ever() -> None:
    made, left = RespawnPolicy(1.0, None, PLACES), (0, 1, 2)
    for at, called_in in ((10, 10), (12, 13), (16, 19), (22, None)):
        made.note((3,), at)
        assert next(iter(due(made, left, range(at, 60))), None) == called_in
        if called_in is not None:
            returns(made, 3, called_in)


def test_a_silo_that_held_out_for_more_than_three_rounds_begins_anew() -> None:
    made = RespawnPolicy(1.0, None, PLACES)
    made.note((3,), 10)
    returns(made, 3, 10)
    made.note((3,), 13)
    assert next(iter(due(made, (0, 1, 2), range(13, 60)))) == 14
    returns(made, 3, 14)
    made.note((3,), 18)
    assert next(iter(due(made, (0, 1, 2), range(18, 60)))) == 18


def test_a_silo_that_rejoins_knows_what_survivors_know() -> None:
    made = RespawnPolicy(1.0, None, PLACES)
    made.note((3,), 2)
    returns(made, 3, 2)
    made.note((1, 3), 4)
    told = RespawnPolicy(1.0)
    told.take_over(json.loads(json.dumps(made.rejoin_state())), None)
    assert (
        due(told, (0, 2), range(9))
        == due(made, (0, 2), range(9))
        == {4: (1,), **dict.fromkeys(range(5, 9), (1, 3))}
    )
    assert told._places == PLACES


@pytest.mark.parametrize("dies", [False, True], ids=["comes", "dies on its way"])
def test_a_silo_that_dies_as_it_rejoins_has_failed_once_more(
    monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """Three silos call the fourth, a thread that stands for a new process."""
    successors: dict[int, ThreadCommunicator] = {}
    monkeypatch.setattr(respawn_policy, "MpiCommunicator", ThreadCommunicator)

    def respawn(comm: ThreadCommunicator, *_: Any, **__: Any) -> Respawned:
        returned: Any = successors[comm.rank]
        return Respawned(returned)

    monkeypatch.setattr(respawn_policy, "respawn", respawn)

    made = [Identity.generate() for _ in range(4)]
    keys = [Signer(one, Roster.ephemeral([other.public for other in made])) for one in made]

    def rank(comm: ThreadCommunicator) -> Any:
        successors[comm.rank] = comm
        world = comm._rendezvous.group.world  # type: ignore[union-attr]
        three = comm._enter("three", payload=Group(world, (0, 1, 2))).wait()[0]
        if comm.rank == 3:
            if dies:
                raise SimulatedCrash
            told = RejoinState.decode(comm.broadcast_bytes(b""))
            group = ElasticGroup(comm)
            group.adopt(comm, told.completed)
            group.step(group.comm.barrier)
            return group.members, told.round
        group = ElasticGroup(ThreadCommunicator(three.first, comm.rank))
        made = RespawnPolicy(1.0, Admission(Config(), comm.rank, "model", "columns", keys[comm.rank]), PLACES)
        made.note((3,), 5)
        completed = group.completed + 1
        told = RejoinState((3,), 5, completed, "", [], 2, "0" * 32, {})
        came = made.respawn(group, (3,), 5, told.encode)
        group.step(group.comm.barrier)
        return group.members, came, [failure.silos for failure in group.failures]

    results = run_in_threads(4, rank, timeout_s=20)
    if dies:
        assert results == [((0, 1, 2), "", [(3,)])] * 3 + [None]
    else:
        assert results == [((0, 1, 2, 3), "", [])] * 3 + [((0, 1, 2, 3), 5)]


def line(number: int, text: str = "loss") -> RoundMetrics:
    return RoundMetrics(number, means={text: 1.0})


def test_a_new_leader_writes_what_the_old_one_wrote(tmp_path: Path) -> None:
    """In a folder that both have: the old leader's last line is dropped where no other rank knows of it."""
    old, new = RunDirectory(tmp_path), RunDirectory(tmp_path)
    old.begin(config(), last_round=0)
    for number in (1, 2, 3, 4):
        old.append(line(number, "old"))
    new.take_over(config(), [line(number, "new") for number in (2, 3)], next_round=4)
    new.append(line(4, "new"))
    texts = [(one.round, *one.means) for one in new.rounds()]
    assert texts == [(1, "old"), (2, "new"), (3, "new"), (4, "new")]


def test_a_new_leader_of_a_resumed_run_keeps_the_rounds_before(tmp_path: Path) -> None:
    old, new = RunDirectory(tmp_path), RunDirectory(tmp_path)
    old.begin(config(), last_round=0)
    for number in (1, 2, 3):
        old.append(line(number))
    new.take_over(config(), [], next_round=3)
    assert new.rounds() == [line(1), line(2)]


def test_the_lead_goes_over_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 is lost after round 2 and back after round 3; every rank has a folder of its own."""
    shown = []

    def choose(kind: str, path: Path, *, leader: bool) -> Display:
        shown.append((path.name, leader))
        return choose_display("none", path, leader=leader)

    monkeypatch.setattr("silofl.federation.run_logger.choose_display", choose)
    first, second = (RunLogger(config(), tmp_path / str(k), leads=k == 0) for k in (0, 1))
    for k, one in enumerate((first, second)):
        (tmp_path / str(k)).mkdir(exist_ok=True)
        one.begin({"first_round": 1}, resume=False)
    for number in (1, 2):
        for one in (first, second):
            one.round(line(number))
    second.become_leader({"first_round": 1})
    second.round(line(3))
    back = RunLogger(config(), tmp_path / "0", leads=False)
    back.rounds = list(second.rounds)
    back.become_leader({"first_round": 4})
    second.step_down()
    second.step_down()
    for one in (back, second):
        one.round(line(4))
    second.become_leader({"first_round": 1})
    second.become_leader({"first_round": 1})
    second.round(line(5))
    assert [one.round for one in back.written_rounds()] == [1, 2, 3, 4]
    assert [one.round for one in second.written_rounds()] == [1, 2, 3, 4, 5]
    begun, over, came_back = [("0", True), ("1", False)], [("1", True)], [("0", False), ("0", True)]
    assert shown == [*begun, *over, *came_back, ("1", False), ("1", True)]
