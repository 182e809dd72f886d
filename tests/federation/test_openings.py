"""A round that a restarted job takes again is opened for the silos of before, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl.aggregation.secagg import SecAgg
from silofl.aggregation.secagg_round import SecAggRound
from silofl.checkpoint.opening_log import Opening, OpeningLog
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import (
    CheckpointError,
    MismatchError,
    ProtocolError,
    SiloflError,
    StoppedError,
    StorageError,
)
from silofl.faults import parse
from silofl.federation import loop
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.openings import Openings
from tests.federation.reference import Attendance, Reference
from tests.federation.threads import Normalized, federate, prepare, records, settings

SILOS, RUN = 4, "0" * 32
ALL, LEFT = (0, 1, 2, 3), (0, 1, 2)


class Seen:
    """Every sum that a silo opened, in the order of jobs: its own slice, and the silos in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sums: dict[tuple[int, int], list[tuple[Any, tuple[int, ...]]]] = {}
        reduce = SecAgg.reduce

        def spied(aggregator: SecAgg, contribution: Any, number: int, *more: Any) -> None:
            reduce(aggregator, contribution, number, *more)
            silo = aggregator._sum.session.group.silo_id
            own = aggregator.total(aggregator.layout.shards.members.index(silo)).mean["update"]
            total = own.astype(np.float64) * aggregator.summed_samples
            self.sums.setdefault((number, silo), []).append((total, aggregator.participants))

        monkeypatch.setattr(SecAgg, "reduce", spied)


def job(
    path: Path, monkeypatch: pytest.MonkeyPatch, *faults: str, resume: bool = False, **sections: Any
) -> list[Any]:
    """What every silo of a job has in the end; `faults` happen in a resumed one, too."""

    def inject(comm: Communicator, given: Any, silo: int) -> FaultInjector:
        return FaultInjector(comm, [parse(fault) for fault in faults], silo)

    monkeypatch.setattr(loop, "FaultInjector", inject)
    sections = {"run": {"rounds": 3}, "secure": {"bits": 32}} | sections
    return federate(settings(path, **sections), SILOS, resume=resume)


def logged(path: Path, silo: int) -> list[Opening]:
    return OpeningLog(path / f"silo-{silo:04d}" / "openings.jsonl", run_id(path), SILOS).openings()


def run_id(path: Path) -> str:
    heads = [one.read_text().splitlines()[0] for one in sorted(path.glob("silo-*/openings.jsonl"))]
    (run,) = {json.loads(head)["run"] for head in heads}
    return str(run)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    prepare(monkeypatch)
    return Seen(monkeypatch)


@pytest.mark.covering(0)
@pytest.mark.parametrize("number", [1, 2])
def test_the_two_sums_of_a_round_are_over_the_same_silos(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: Seen,
    number: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two losses end the job after round `number` was opened without silo 3; then all start again."""
    losses = [f"kill silo 3 round {number} at collect middle", f"kill silo 1 round {number} at step"]
    first = job(tmp_path, monkeypatch, *losses)
    assert [type(one) for one in first] == [StoppedError, type(None), StoppedError, type(None)]
    run = run_id(tmp_path)
    assert [one.round for one in logged(tmp_path, 0)] == list(range(1, number + 1))
    assert logged(tmp_path, 0)[-1] == Opening(number, LEFT, LEFT)

    resumed = job(tmp_path, monkeypatch, resume=True, run={"rounds": 3, "display": "plain"})
    assert run_id(tmp_path) == run
    for silo in (0, 2):
        (before, silos), (again, silos_again) = seen.sums[number, silo]
        assert silos == silos_again == LEFT
        np.testing.assert_array_equal(before, again)
    lines = records(tmp_path)
    assert [line["survivors"] for line in lines] == [list(LEFT if n == number else ALL) for n in (1, 2, 3)]
    assert f"silo 3 will sit out round {number}" in capsys.readouterr().out

    # It is an ordinary round of three silos, in which the fourth has not trained.
    config = settings(tmp_path, run={"rounds": 3}, secure={"bits": 32})
    reference = Reference(config, SILOS, Normalized())
    reference.rounds(
        [Attendance(ALL, LEFT, LEFT) if n == number else Attendance(ALL, ALL) for n in (1, 2, 3)]
    )
    assert {one["model_sha256"] for one in resumed} == {reference.model_sha256()}

    # Metrics of the model after it were sums over three silos, and are not shown over four.
    assert ["loss" in line for line in lines] == [n != number for n in (1, 2, 3)]
    assert "train_loss" not in lines[number - 1]["per_silo"][3]


def test_a_round_stays_closed_without_a_silo_that_it_was_opened_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    """The same difference the other way round: opened for four silos, and not for three afterwards."""
    job(tmp_path, monkeypatch, "kill silo 1 round 2 at step", "kill silo 2 round 2 at step")
    second = job(tmp_path, monkeypatch, "kill silo 3 round 2 at collect middle", resume=True)
    assert isinstance(second[0], StoppedError)
    assert "round 2 may have been opened for silos 0, 1, 2 and 3 before" in str(second[0])
    assert "without silo 3 it stays closed: --resume takes it again" in str(second[0])
    assert len(seen.sums[2, 0]) == 1

    third = job(tmp_path, monkeypatch, resume=True)
    assert len({one["model_sha256"] for one in third}) == 1
    (before, silos), (again, silos_again) = seen.sums[2, 0]
    assert silos == silos_again == ALL
    np.testing.assert_array_equal(before, again)
    assert [line["survivors"] for line in records(tmp_path)] == [list(ALL)] * 3


def test_it_is_on_disk_before_a_sum_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    votes: dict[int, list[int]] = {silo: [] for silo in ALL}
    vote = SecAggRound.open

    def spied(keys: SecAggRound, comm: Communicator, survivors: Any) -> Any:
        path = tmp_path / f"silo-{comm.members[comm.rank]:04d}" / "openings.jsonl"
        votes[comm.members[comm.rank]].append(len(path.read_text().splitlines()) if path.exists() else 0)
        return vote(keys, comm, survivors)

    monkeypatch.setattr(SecAggRound, "open", spied)
    job(tmp_path, monkeypatch)
    assert votes == {silo: [0, 2, 3, 4] for silo in ALL}  # the sample counts, then a head and a line a round


def test_a_full_disk_leaves_the_sum_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    append = OpeningLog.append

    def refused(log: OpeningLog, opening: Opening) -> None:
        if "silo-0002" in str(log.path):
            raise StorageError("cannot write: No space left on device")
        append(log, opening)

    monkeypatch.setattr(OpeningLog, "append", refused)
    ended = job(tmp_path, monkeypatch)
    assert {one.exit_code for one in ended} == {74}
    assert not seen.sums


def test_a_record_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    job(tmp_path, monkeypatch, run={"rounds": 1})
    path = tmp_path / "silo-0002" / "openings.jsonl"
    path.unlink()
    path.symlink_to("/dev/full")
    said = refusal(job(tmp_path, monkeypatch, resume=True), CheckpointError)
    assert said == f"{path} cannot be read: it is a symbolic link, and none is followed here"


def test_sums_in_the_clear_leave_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    job(tmp_path, monkeypatch, secure={"protocol": "plain"})
    assert not list(tmp_path.glob("silo-*/openings.jsonl"))


def test_the_lines_after_an_ordinary_resume_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    """All silos were in every sum: nobody sits out, and metrics are the same sums again."""
    ended = job(
        tmp_path, monkeypatch, "kill silo 1 round 2 at evaluate", failure={"policy": "abort", "inject": []}
    )
    assert isinstance(ended[0], StoppedError)
    assert logged(tmp_path, 2)[-1] == Opening(2, ALL, ALL)
    job(tmp_path, monkeypatch, resume=True, failure={"policy": "abort"})
    assert all("loss" in line and line["survivors"] == list(ALL) for line in records(tmp_path))


def test_metrics_are_sums_over_the_silos_that_opened_the_round_or_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    """Else they would be over three silos now and over four after a restart."""
    job(tmp_path, monkeypatch, "kill silo 3 round 2 at step")
    assert ["loss" in line for line in records(tmp_path)] == [True, False, True]


Write = Callable[[OpeningLog], None]


def openings(path: Path, writes: dict[int, Write], committed: int = 4) -> list[Any]:
    """Every silo's `Openings` after a resume behind round `committed`, or what it raised."""

    def rank(comm: Communicator) -> Any:
        write = writes.get(comm.rank)
        if write is not None:
            write(OpeningLog(path / f"silo-{comm.rank:04d}" / "openings.jsonl", RUN, SILOS))
        comm.barrier()
        one = Openings(ElasticGroup(comm), path, RUN, SILOS, 3)
        try:
            return one, one.begin(committed)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=20)


def of(*told: Opening) -> Write:
    def write(log: OpeningLog) -> None:
        for one in told:
            log.append(one)

    return write


def refusal(results: list[Any], kind: type[SiloflError]) -> str:
    assert {type(result) for result in results} == {kind}, results
    assert {result.exit_code for result in results} <= {1, 2}
    return str(results[0])


def test_one_silo_s_record_is_enough_and_all_keep_it(tmp_path: Path) -> None:
    """The others' disks were lost."""
    again = [Opening(5, LEFT, LEFT), Opening(6, (0, 1, 3), (0, 1, 3)), Opening(7, LEFT, LEFT)]
    for one, notices in openings(tmp_path, {1: of(Opening(4, ALL, ALL), *again)}):
        assert [one.absent(number, ALL) for number in (4, 5, 6, 7, 8)] == [(), (3,), (2,), (3,), ()]
        assert [notice.partition(":")[0] for notice in notices] == [
            "silo 2 will sit out round 6",
            "silo 3 will sit out rounds 5, 7",
        ]
        with pytest.raises(StoppedError, match="without silo 2 it stays closed"):
            one.authorize(5, (0, 1, 3))
        with pytest.raises(StoppedError, match="without silos 0, 1, 2 and 3 it stays closed"):
            one.authorize(5, ALL)
        one.authorize(5, LEFT)
        told = Openings(one._group, tmp_path / "rejoined", RUN, SILOS, 3)
        of(Opening(9, (2, 1, 0), ALL))(told._log)  # its own record is damaged
        told.take_over(json.loads(json.dumps(one.rejoin_state())), None)
        assert told.absent(6, ALL) == (2,)
        assert told._log.openings() == [again[0], again[1], again[2]]
    for silo in ALL:
        path = tmp_path / f"silo-{silo:04d}" / "openings.jsonl"
        kept = OpeningLog(path, RUN, SILOS).openings()
        assert [*kept[-4:-1]] == again
        assert kept[-1] == Opening(5, LEFT, ALL)  # what is new of it: silo 3 is there to open it


def test_a_torn_line_let_nothing_be_opened(tmp_path: Path) -> None:
    def torn(log: OpeningLog) -> None:
        of(Opening(4, ALL, ALL), Opening(5, LEFT, LEFT))(log)
        log.path.write_bytes(log.path.read_bytes()[:-9])

    for one, notices in openings(tmp_path, {0: torn}):
        assert (one.absent(5, ALL), notices) == ((), [])
        one.authorize(5, ALL)
    assert OpeningLog(tmp_path / "silo-0000/openings.jsonl", RUN, SILOS).openings() == [
        Opening(4, ALL, ALL),
        Opening(5, ALL, ALL),
    ]


@pytest.mark.parametrize(
    ("writes", "kind", "said"),
    [
        ({}, CheckpointError, "no silo has its record of the silos that sums were opened for, such as"),
        (
            {0: of(Opening(5, ALL, ALL)), 2: of(Opening(5, LEFT, LEFT))},
            CheckpointError,
            "round 5 was opened for silos 0, 1, 2 and 3 by silo 0's record, and for silos 0, 1 and 2 by silo "
            "2's: a copy of the run was gone on with",
        ),
        ({1: of(Opening(5, (0, 1), ALL))}, ProtocolError, "it tells of a sum over fewer than 3 silos"),
        ({1: of(Opening(5, (2, 1, 0), ALL))}, CheckpointError, "not in ascending order, each once"),
        ({1: of(Opening(5, (0, 1, 4), ALL))}, CheckpointError, "a silo of an opening is not an integer"),
        (
            {1: lambda log: OpeningLog(log.path, "1" * 32, SILOS).append(Opening(5, ALL, ALL))},
            MismatchError,
            "is of another run",
        ),
    ],
    ids=["none left", "contradiction", "too few", "no order", "no silo", "another run"],
)
def test_records_that_cannot_be_are_one_sentence(
    tmp_path: Path, writes: dict[int, Write], kind: type[SiloflError], said: str
) -> None:
    assert said in refusal(openings(tmp_path, writes), kind)
