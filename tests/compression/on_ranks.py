"""Compressed federations on the ranks of one job: how far each is from its reference."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from silofl.comm import run_on_ranks
from silofl.comm.protocol import Communicator
from silofl.comm.shutdown import Shutdown
from silofl.federation.loop import train
from tests.compression.naive import ALL, ROUNDS, Pull, compressed_fedavg
from tests.compression.test_federated import CASES, model_of, settings


def main(comm: Communicator, shutdown: Shutdown) -> None:
    for number, (compress, secure, bound) in enumerate(CASES):
        path = Path(sys.argv[1]) / str(number)
        train(settings(path, compress, secure, checkpoint={"every": 0}), Pull(), comm=comm)
        comm.barrier()
        error = np.abs(model_of(path) - compressed_fedavg([ALL] * ROUNDS, compress)).max()
        told = {"rank": comm.rank, "case": number, "error": error, "bound": bound}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
