"""What the comparisons share: a round of silofl's `secagg` and a peer's rounds, in turn, in one process.

Time is processor seconds of the process (`time.process_time`: all of its threads). silofl's silos are threads
that sleep while they wait for each other, so that waiting costs nothing and what is left is work: keys,
shares, quantization, masks, sums, and the whole sum as floats on every silo. Neither side pays for a network.
Peers' rounds run while silofl's threads sleep, one after the other in every turn, so that both meet the same
neighbours.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from silofl.aggregation.secure_sum import SecureAggregator
from silofl.bench.measure import Row, machine, row, table
from silofl.comm.protocol import Communicator, SharedBuffer
from silofl.comm.threads import run_in_threads

Floats = NDArray[np.floating[Any]]
SILOFL = {16: "silofl, 16 bits", 32: "silofl, 32 bits"}
"""Rings that are measured; ratios are against the first."""
REFERENCE = SILOFL[16]
LONGEST_S = 3600.0


@dataclass(frozen=True)
class Traffic:
    """Bytes a parameter that a silo sends towards the sum, and that it receives of the sum."""

    up: float
    down: float


class Peer(Protocol):
    """One way of adding vectors up privately."""

    def round(self, updates: Sequence[Floats]) -> Floats:
        """The mean of all silos' vectors, of their length."""

    traffic: Traffic
    """What the last round sent."""


@dataclass(frozen=True)
class Comparison:
    """Processor seconds of a round of all silos, for each side, round by round, and bytes a parameter."""

    seconds: dict[str, list[float]]
    traffic: dict[str, Traffic]
    errors: dict[str, float]
    """Largest difference of any value from the mean in float64."""


def updates_of(silos: int, parameters: int) -> list[NDArray[np.float32]]:
    """Peaked around zero like the updates of a model."""
    return [
        (np.random.default_rng(k).standard_normal(parameters) * 0.05).astype(np.float32) for k in range(silos)
    ]


def compare(updates: Sequence[Floats], peers: Mapping[str, Peer], rounds: int) -> Comparison:
    """Run silofl and every peer in turn, `rounds` times after one round that is not timed."""
    silos, parameters = len(updates), updates[0].size
    mean = np.mean(updates, axis=0, dtype=np.float64)
    seconds: dict[str, list[float]] = {name: [] for name in (*SILOFL.values(), *peers)}
    errors: dict[str, float] = {}

    def note(name: str, turn: int, spent: float, result: Floats) -> None:
        if turn:
            seconds[name].append(spent)
        errors[name] = float(np.abs(result - mean).max())

    def rank(comm: Communicator) -> dict[str, Traffic]:
        x = updates[comm.rank]
        aggregators = {name: SecureAggregator(comm, parameters, bits=bits) for bits, name in SILOFL.items()}
        for turn in range(rounds + 1):
            for name, aggregator in aggregators.items():
                comm.barrier()
                began = time.process_time()
                total = aggregator.sum(x)
                comm.barrier()  # all silos are through before the clock is read
                spent = time.process_time() - began
                if comm.rank == 0:
                    note(name, turn, spent, total / silos)
            if comm.rank == 0:  # the others sleep in their next barrier
                for name, peer in peers.items():
                    began = time.process_time()
                    result = peer.round(updates)
                    note(name, turn, time.process_time() - began, result)
        for aggregator in aggregators.values():
            aggregator.close()
        return {name: _traffic(comm, x, bits) for bits, name in SILOFL.items()}

    sent = run_in_threads(silos, rank, timeout_s=LONGEST_S)
    traffic = {
        name: Traffic(max(one[name].up for one in sent), max(one[name].down for one in sent))
        for name in SILOFL.values()
    }
    return Comparison(seconds, traffic | {name: peer.traffic for name, peer in peers.items()}, errors)


def rows(found: Comparison, goals: Mapping[str, str]) -> list[Row]:
    """Each side against silofl; a ratio of 25 means 25 times silofl's processor time."""
    reference = found.seconds[REFERENCE]
    return [
        row(name, times, REFERENCE, reference, 0.0, goals.get(name, ""))
        for name, times in found.seconds.items()
    ]


def show(title: str, found: Comparison, goals: Mapping[str, str], path: Path | None) -> None:
    """Print the table, what lay on the wire and how exact the means were; as JSON where asked for."""
    console = Console(width=120)
    figures = rows(found, goals)
    console.print(table(f"processor time of all silos: {title}", figures))
    for name, sent in found.traffic.items():
        console.print(
            f"  {name}: {sent.up:.2f} bytes a parameter from each silo, {sent.down:.2f} back; "
            f"largest error of the mean {found.errors[name]:.1e}",
            highlight=False,
        )
    if path is not None:
        told: dict[str, Any] = {
            "benchmark": title,
            "machine": machine(),
            "clock": "processor seconds of all silos and server",
        }
        told |= {"rows": [asdict(one) for one in figures], "errors": found.errors}
        told |= {"bytes_a_parameter": {name: asdict(sent) for name, sent in found.traffic.items()}}
        path.write_text(json.dumps(told, indent=2) + "\n")


def arguments(purpose: str, *, parameters: int) -> argparse.Namespace:
    """The options of every comparison."""
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("-n", type=int, default=4, choices=range(3, 65), metavar="3..64", help="silos")
    parser.add_argument("--parameters", type=int, default=parameters, help=f"values ({parameters})")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of each side (7)")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    given = parser.parse_args()
    for name in ("parameters", "repeats"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(given, name)}")
    return given


def pyplot() -> Any:
    """matplotlib's, for files alone; equal figures make equal files."""
    try:
        from matplotlib import pyplot as found
    except ImportError:
        not_here("matplotlib", "pip install matplotlib, or leave --plot out")
    found.switch_backend("svg")
    found.rcParams["svg.hashsalt"] = "silofl"
    return found


def not_here(what: str, install: str) -> NoReturn:
    """End with one sentence."""
    print(f"{what} is not installed here: {install}", file=sys.stderr)
    sys.exit(2)


def _traffic(comm: Communicator, x: Floats, bits: int) -> Traffic:
    """Bytes of one sum that this silo hands to others, keys and all, were the silos on different machines."""
    counting = _Counting(comm)
    with SecureAggregator(counting, x.size, bits=bits) as aggregator:
        counting.up = counting.down = 0  # without what opens the session
        aggregator.sum(x)
    return Traffic(counting.up / x.size, counting.down / x.size)


class _Counting:
    """A communicator that shares no memory and counts bytes: `up` is sent, `down` the sum as it comes."""

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self.up = self.down = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def duplicate(self) -> _Counting:
        """Itself: its callers take turns."""
        return self

    def free(self) -> None:
        """The communicator under it stays."""

    def shared_buffer(self, nbytes: int) -> SharedBuffer | None:
        """None: everything goes by messages."""
        return None

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """Masked words to the owners of slices."""
        self.up += send.nbytes - send[0].nbytes
        self._comm.alltoall(send, receive)

    def alltoall_bytes(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Sealed shares."""
        self.up += sum(map(len, payloads)) - len(payloads[self._comm.rank])
        return self._comm.alltoall_bytes(payloads)

    def allgather_bytes(self, payload: bytes) -> list[bytes]:
        """Public keys, votes and shares that are revealed."""
        self.up += len(payload) * (self._comm.size - 1)
        return self._comm.allgather_bytes(payload)

    def allgather(self, send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int]) -> None:
        """Slices of the sum."""
        self.down += receive.nbytes - send.nbytes
        self._comm.allgather(send, receive, counts)
