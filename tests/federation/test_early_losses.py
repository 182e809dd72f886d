"""A silo fails while a run is set up or resumed: nothing has begun, so all end and start again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from silofl.comm.protocol import SimulatedCrash
from silofl.comm.threads import ThreadCommunicator
from silofl.errors import EXIT_RESUMABLE, StoppedError
from silofl.federation import start
from silofl.tasks.base import SiloData
from tests.campaigns import mostly_long
from tests.federation.threads import Normalized, federate, prepare, records, settings

COLLECTIVES = ("allgather", "allreduce", "alltoall", "barrier", "broadcast_bytes")
SENTENCE = "silo 1 failed before the run began: start the same command again"


def all_end(results: list[Any]) -> None:
    assert results[1] is None
    left = [result for silo, result in enumerate(results) if silo != 1]
    assert [type(result) for result in left] == [StoppedError] * len(left)
    assert {str(result) for result in left} == {SENTENCE}
    assert {result.exit_code for result in left} == {EXIT_RESUMABLE}


def dies(monkeypatch: pytest.MonkeyPatch, function: str, place: int) -> list[str]:
    """Silo 1 dies at one of the collectives of a part of its set-up; returns at which kind it did."""
    local, died = threading.local(), []

    def counted(name: str) -> Any:
        collective = getattr(ThreadCommunicator, name)

        def call(comm: ThreadCommunicator, *arguments: Any, **keywords: Any) -> Any:
            if getattr(local, "left", None) is not None:
                if not local.left:
                    died.append(name)
                    raise SimulatedCrash
                local.left -= 1
            return collective(comm, *arguments, **keywords)

        return call

    for name in COLLECTIVES:
        monkeypatch.setattr(ThreadCommunicator, name, counted(name))
    part = getattr(start, function)

    def entered(run: Any, *arguments: Any, **keywords: Any) -> Any:
        local.left = place if run.group.silo_id == 1 else None
        try:
            return part(run, *arguments, **keywords)
        finally:
            local.left = None

    monkeypatch.setattr(start, function, entered)
    return died


def test_a_silo_dies_as_it_reads_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    data = Normalized.data

    def read(self: Normalized, silo: int, silos: int) -> SiloData:
        if silo == 1:
            raise SimulatedCrash
        return data(self, silo, silos)

    with monkeypatch.context() as once:
        once.setattr(Normalized, "data", read)
        all_end(federate(settings(tmp_path, failure={"policy": "respawn"}), 5))
    again = federate(settings(tmp_path, failure={"policy": "respawn"}), 5)
    assert len({summary["model_sha256"] for summary in again}) == 1


@pytest.mark.long
@pytest.mark.parametrize("place", mostly_long([0, 2, 4, 6], 3))
def test_a_silo_dies_as_the_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    prepare(monkeypatch)
    federate(settings(tmp_path, run={"rounds": 2}), 4)
    before = records(tmp_path)
    config = settings(tmp_path, run={"rounds": 4})
    with monkeypatch.context() as once:
        died = dies(once, "_restore", place)
        all_end(federate(config, 4, resume=True))
    assert len(died) == 1
    assert records(tmp_path) == before
    whole = federate(settings(tmp_path / "whole"), 4)
    assert federate(config, 4, resume=True)[0]["model_sha256"] == whole[0]["model_sha256"]


@pytest.mark.long
def test_a_silo_dies_in_the_last_moment_before_the_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some have begun and some have not: all go on, or all end."""
    prepare(monkeypatch)
    for place in range(80):
        with monkeypatch.context() as once:
            dies(once, "begin", place)
            results = federate(settings(tmp_path / str(place)), 4)
        kinds = {type(result) for silo, result in enumerate(results) if silo != 1}
        assert len(kinds) == 1, results
        if results[1] is not None:
            break
    else:
        pytest.fail("there are more collectives than this test goes through")
