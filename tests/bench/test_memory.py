"""`silofl bench memory`: what it refuses, what it notices, what it tells."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from silofl.aggregation.secure_sum import SecureAggregator
from silofl.bench import memory
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError, SiloflError


def run(comm: Communicator) -> list[memory.Figures]:
    return memory.run(comm, parameters=1 << 18)


def test_every_rank_has_a_row() -> None:
    figures = run_in_threads(3, run)[0]
    assert [one.rank for one in figures] == [0, 1, 2]
    assert all(one.vector == 4 << 18 and one.ratio == one.added / one.vector for one in figures)
    assert [one["rank"] for one in json.loads(memory.to_json(figures))["ranks"]] == [0, 1, 2]
    console = Console(record=True, width=120)
    console.print(memory.table(figures))
    assert "added / vector" in console.export_text()


def test_a_peak_grows_with_what_was_touched_and_can_be_reset() -> None:
    if not memory._reset_peak():
        pytest.skip("this system keeps the peak of a process for good")
    before = memory._bytes(memory.STATUS, "VmHWM")
    block = bytearray(64 << 20)
    block[::4096] = bytes(len(block) // 4096)
    assert memory._bytes(memory.STATUS, "VmHWM") > before + (32 << 20)
    del block
    memory._reset_peak()
    assert memory._bytes(memory.STATUS, "VmHWM") < before + (32 << 20)


def test_vectors_that_do_not_fit_are_refused_before_any_is_made() -> None:
    with pytest.raises(ConfigError, match=r"3 ranks .* need .* GiB are free: give fewer --parameters"):
        run_in_threads(3, lambda comm: memory.run(comm, parameters=1 << 50))


def test_one_wrong_value_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SecureAggregator.sum

    def wrong(self: Any, x: Any) -> Any:
        result = original(self, x)
        result[-1] += 1e-4
        return result

    monkeypatch.setattr(SecureAggregator, "sum", wrong)
    with pytest.raises(SiloflError, match="1 of 65536 sampled values of the sum are wrong"):
        run_in_threads(3, run)
