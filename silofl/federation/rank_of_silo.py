"""One of the other ranks of a silo: gradients of its part of every batch, at the values that it is given.

    python -m silofl.federation.rank_of_silo PARENT CONNECTION MEMORY

PARENT is the process of the silo's first rank, with which this one ends; the others are descriptors that
`training/team.py` opened there.
"""

from __future__ import annotations

import sys

from silofl.launcher.process_tree import end_with

if __name__ == "__main__":
    end_with(int(sys.argv[1]))

import os
import pickle
import signal
import tomllib
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from operator import mul
from pathlib import Path
from typing import Any

import torch

from silofl import config as configuration
from silofl import console
from silofl.comm.collective_errors import describe
from silofl.errors import SiloflError, TrainingError
from silofl.federation.silo import Silo, place
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Part
from silofl.training.seeding import derive, seed_everything
from silofl.training.team_memory import TeamMemory


class RankOfSilo:
    """What one rank does for its silo, whose first one is at the other end of `line`."""

    def __init__(self, line: Connection, file: int, told: dict[str, Any]) -> None:
        with configuration.relative_to(Path.cwd()):
            config = configuration.parse(tomllib.loads(told["config"]))
        self._line, self._rank, self._number = line, told["rank"], told["silo"]
        self._ranks, self._seed = config.train.ranks_per_silo, config.run.seed
        device = place(config.train.device, told["local_rank"] + self._rank)
        task = pickle.loads(told["task"])
        self._silo = Silo(config, task, self._number, told["silos"], device, code=UserCode(self._number))
        self._memory = TeamMemory(self._silo.model, self._ranks, file)

    def serve(self) -> None:
        """Read as the first rank says, until it ends."""
        self._line.send((self._silo.model.fingerprint(), self._silo.samples))
        while True:
            _, name, round_number = self._line.recv()
            self._read(getattr(self._silo.trainer.reads, name), round_number)

    def _read(self, read: Callable[..., Any], round_number: int) -> None:
        """One part of each batch, in the first rank's order of samples; what else is random is its own."""
        trainer, train = self._silo.trainer, self._silo.train
        seed = derive(self._seed, self._number, round_number)
        generator = seed_everything(seed)
        seed_everything(derive(seed, self._rank, 0))
        trainer.to_train()
        train.part = Part(self._rank, self._ranks)
        batches = read(generator)
        while True:
            batch, weight = next(batches, (None, 0.0))  # while the first rank steps
            share = train.share
            told = self._line.recv()
            if told[0] == "over":
                return
            self._memory.load()
            for parameter in self._silo.model.trained.values():
                parameter.grad = None
            loss = 0.0
            if batch is not None:
                loss = float(trainer.differentiate(batch, weight * share, partial(mul, told[1])))
            self._memory.put_gradients(self._rank)
            self._line.send(loss)


def main() -> None:
    """Serve the silo's first rank; tell it what goes wrong."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the first rank decides when the silo ends
    console.open_streams()
    line, file = Connection(int(sys.argv[2])), int(sys.argv[3])
    told = line.recv()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        RankOfSilo(line, file, told).serve()
    except (EOFError, ConnectionError):
        return
    except SiloflError as error:
        line.send(error)
    except Exception as error:
        silo, rank = told["silo"], told["rank"]
        line.send(TrainingError(f"silo {silo}: rank {rank} of it failed: {describe(error)}", rank=silo))


if __name__ == "__main__":
    main()
