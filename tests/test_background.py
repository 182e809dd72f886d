"""Work beside the main thread: results and errors come back, and nothing is left running."""

from __future__ import annotations

import gc
import threading

import pytest

from silofl.background import Background


def test_results_and_errors_come_back_in_order() -> None:
    background = Background[int]()
    background.start(lambda: 7)
    assert background.busy
    with pytest.raises(RuntimeError, match="not finished"):
        background.start(lambda: 8)
    assert background.result() == 7
    background.start(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        background.result()
    assert not background.busy
    with pytest.raises(RuntimeError, match="no work"):
        background.result()


@pytest.mark.long
def test_the_thread_ends_with_what_it_works_for() -> None:
    background, before = Background[threading.Thread](), set(threading.enumerate())
    background.start(threading.current_thread)
    thread = background.result()
    assert set(threading.enumerate()) - before == {thread}
    del background
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
