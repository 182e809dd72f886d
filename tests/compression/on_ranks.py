"""Compressed federations on the ranks of one job: how far each is from its reference."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # which a warm Python is not told
from silofl.comm import run_on_ranks
from silofl.comm.protocol import Communicator
from silofl.comm.shutdown import Shutdown
from silofl.federation.loop import train
from tests.compression.naive import (
    ALL,
    PACKETS,
    ROUNDS,
    Pull,
    compressed_fedavg,
    packets_fedavg,
    powersgd_fedavg,
)
from tests.compression.test_count_sketch import SECURE, SKETCH, reference
from tests.compression.test_federated import CASES, model_of, settings

PLAIN, EVERY = {"protocol": "plain"}, [ALL] * ROUNDS
RUNS: list[Any] = [
    *(
        (compress, secure, bound, partial(compressed_fedavg, EVERY, compress))
        for compress, secure, bound in CASES
    ),
    (SKETCH, SECURE, 1e-4, partial(reference, EVERY, SKETCH)),
    ({"name": "powersgd"}, {"protocol": "secagg", "bits": 32}, 1e-5, partial(powersgd_fedavg, EVERY, 2)),
    (
        {"name": "qsgd", **PACKETS["qsgd"][0]},
        PLAIN,
        1e-6,
        partial(packets_fedavg, EVERY, "qsgd", feedback=False),
    ),
]
FEW = [RUNS[4], RUNS[-2]]


def main(comm: Communicator, shutdown: Shutdown) -> None:
    for number, (compress, secure, bound, expected) in enumerate(RUNS if sys.argv[2] == "all" else FEW):
        path = Path(sys.argv[1]) / str(number)
        train(settings(path, compress, secure, checkpoint={"every": 0}), Pull(), comm=comm)
        comm.barrier()
        error = np.abs(model_of(path) - expected()).max()
        told = {"rank": comm.rank, "case": number, "error": error, "bound": bound}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
