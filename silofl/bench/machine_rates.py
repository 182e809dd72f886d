"""A machine's rates for the cost model: kernels on all ranks at once, the protocol's steps, waiting."""

from __future__ import annotations

import os
import secrets
import statistics
import time
from typing import Any

import numpy as np

import silofl_kernels as sk
from silofl.aggregation.secure_sum import SecureAggregator
from silofl.bench.measure import Call
from silofl.bench.measure_ranks import interleaved_over_ranks
from silofl.bench.performance_model import STEPS, Rates, through
from silofl.comm.protocol import Communicator
from silofl.config import SecureConfig
from silofl.crypto import secagg
from silofl.crypto.identity import Identity
from silofl.crypto.kdf import digest
from silofl.crypto.roster import Roster
from silofl.crypto.secagg import Round, Rules, SumInputs
from silofl.types import RingBits

VALUES = 1 << 24
"""Of the vectors that kernels work on: more than caches hold."""
ROWS = 4
PARTIES = (3, 6, 12, 24)
NOTHING = 64
"""Values of a sum in which there is nothing but the protocol."""


def rates(comm: Communicator, repeats: int, bits: RingBits = 16) -> Rates:
    """This machine's, whose ranks are all here; collective, and the same on every rank."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shared = max(1.0, comm.size / cores)
    encode, mask, fold, decode, copy, scan = (seconds / shared for seconds in _kernels(comm, bits, repeats))
    messages = np.zeros(3)
    if comm.rank == 0:
        messages[:] = _messages()
    a, b, c = comm.allreduce(messages).tolist()
    nothing, step = _nothing(comm, bits, 4 * repeats)
    messages_here = a + b * comm.size + c * comm.size**2
    calls = max((nothing - STEPS * step) / shared - messages_here, 0.0)
    return Rates(
        cores,
        encode=encode,
        mask=mask,
        fold=fold,
        decode=decode,
        copy=copy,
        scan=scan,
        protocol=(a, b, c),
        calls=calls,
        step=step,
        ranks=comm.size,
    )


def _kernels(comm: Communicator, bits: RingBits, repeats: int) -> list[float]:
    """Seconds a value with all ranks at work: encode, mask, fold, decode, copy, scan."""
    rng, dtype = np.random.default_rng(comm.rank), sk.ring_dtype(bits)
    x = rng.standard_normal(VALUES).astype(np.float32)
    words, out = np.zeros(VALUES, dtype), np.empty_like(x)
    rows, slice_ = np.ones((ROWS, VALUES // ROWS), dtype), np.zeros(VALUES // ROWS, dtype)
    masks = {
        count: sk.MaskSet("aes-128-ctr", [secrets.token_bytes(16) for _ in range(count)], [1] * count)
        for count in (0, 4)
    }
    limit = (1 << bits - 1) - 1

    def encode(count: int) -> Call:
        return lambda: sk.quantize_and_mask(x, words, scale=100.0, limit=limit, masks=masks[count])

    calls: dict[str, Call] = {
        "encode": encode(0),
        "masked": encode(4),
        "fold": lambda: sk.reduce_rows(rows, slice_),
        "decode": lambda: sk.dequantize(words, out, step=1e-2),
        "copy": lambda: np.copyto(out, x),
        "scan": lambda: sk.max_abs(x),
    }
    times = interleaved_over_ranks(comm, calls, repeats)
    found = {name: statistics.median(each) / VALUES for name, each in times.items()}
    mask = max(found["masked"] - found["encode"], 0.0) / 4
    return [found["encode"], mask, found["fold"], found["decode"], found["copy"], found["scan"]]


def _messages() -> list[float]:
    """Seconds of one silo for all its messages of a sum, as coefficients of 1, n and n^2."""
    points = []
    for parties in PARTIES:
        _one_sum(parties)
        points.append((float(parties), statistics.median(_one_sum(parties) for _ in range(5))))
    return through(points, (0, 1, 2))


def _one_sum(parties: int) -> float:
    """All steps of the protocol for so many silos in this process; seconds of the first of them."""
    identities = [Identity.generate() for _ in range(parties)]
    silos = tuple(range(parties))
    roster = Roster.ephemeral([one.public for one in identities])
    context = Round(bytes(16), 1, roster, bytes(32), silos, Rules())
    spent, stages = 0.0, dict[int, Any]()

    def all_silos(step: Any) -> dict[int, Any]:
        nonlocal spent
        sent = {}
        for silo in silos:
            began = time.perf_counter()
            stages[silo], sent[silo] = step(silo)
            spent += time.perf_counter() - began if silo == 0 else 0.0
        return sent

    def others(sent: dict[int, Any], silo: int) -> dict[int, Any]:
        return {one: message for one, message in sent.items() if one != silo}

    def mask(silo: int) -> tuple[Any, None]:
        received = {one: packets[silo] for one, packets in others(dealt, silo).items()}
        stage = secagg.mask(stages[silo], received, silos, 1)
        secagg.bind(stage, SumInputs(terms=digest("terms")))
        return stage, None

    adverts = all_silos(lambda silo: secagg.advertise(context, silo, identities[silo]))
    dealt = all_silos(lambda silo: secagg.share(stages[silo], others(adverts, silo)))
    all_silos(mask)
    votes = all_silos(lambda silo: secagg.agree(stages[silo], silos, bytes(32)))
    reveals = all_silos(lambda silo: secagg.reveal(stages[silo], others(votes, silo)))
    began = time.perf_counter()
    secagg.unmask(stages[0], others(reveals, 0))
    return spent + time.perf_counter() - began


def _nothing(comm: Communicator, bits: RingBits, repeats: int) -> tuple[float, float]:
    """Seconds of a sum of nothing, and of a step in which all ranks wait for each other; collective."""
    x = np.zeros(NOTHING, np.float32)
    with SecureAggregator(comm, NOTHING, bits=bits, config=SecureConfig(allow_two=True)) as aggregator:
        calls: dict[str, Call] = {
            "sum": lambda: aggregator.sum(x),
            "steps": lambda: [comm.allgather_bytes(bytes(64)) for _ in range(STEPS)],
        }
        times = interleaved_over_ranks(comm, calls, repeats)
    return statistics.median(times["sum"]), statistics.median(times["steps"]) / STEPS
