"""Page of memory that a rank shares with its watchdog: the rank writes it, the watchdog reads it."""

from __future__ import annotations

import mmap

Page = memoryview
"""int64 (512,), indexed by the names below."""
(
    HEARTBEATS,  # how often the main thread has made progress
    WAITS,  # how many waits for peers the main thread has begun
    WAIT_DEPTH,  # how many waits for peers the main thread is in, one within another
    ALIVE_TICKS,  # how often any thread of the rank has run
    SILENT_LIMIT_MS,  # 0: no limit
    READY_LIMIT_MS,  # 0: no limit
    MPI_READY,
    SILO,
    ROUND,
    COMMITTED,
    ENDS_JOB,  # whether the rank has asked the launcher to end the job
    ADVICE_LENGTH,
    ADVICE,
) = range(13)


def new_page() -> Page:
    """A page of zeros, shared with the processes that this one forks."""
    return memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")


def private_page() -> Page:
    """A page of zeros that no other process reads."""
    return memoryview(bytearray(mmap.PAGESIZE)).cast("q")


def write_advice(page: Page, text: str) -> None:
    """Store `text` (UTF-8) behind the numbers, cut to what fits."""
    space = page.cast("B")[ADVICE * 8 :]
    data = text.encode()[: len(space)]
    space[: len(data)] = data
    page[ADVICE_LENGTH] = len(data)


def read_advice(page: Page) -> str:
    """Return the text that `write_advice` stored."""
    return bytes(page.cast("B")[ADVICE * 8 :][: page[ADVICE_LENGTH]]).decode(errors="ignore")
