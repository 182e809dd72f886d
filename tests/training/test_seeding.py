"""torch's global generators, where several ranks are threads of one process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from silofl.training.seeding import generators_kept, seed_everything

THREADS = """
import gc, threading, time
import torch
from silofl.training.seeding import seed_everything, seed_torch, generators_kept

def work():
    for turn in range(300):
        with generators_kept(torch.device("cpu")):
            seed_torch(0)
        seed_everything(turn)

gc.callbacks.append(lambda *phase: time.sleep(1e-4))  # the interpreter goes to another thread
gc.set_threshold(3)
threads = [threading.Thread(target=work) for _ in range(4)]
for one in threads:
    one.start()
for one in threads:
    one.join()
"""


@pytest.mark.long
def test_threads_that_seed_at_the_same_time_do_not_wait_for_each_other_forever() -> None:
    """A collection of garbage while torch reads its generator's state hands on the interpreter."""
    subprocess.run([sys.executable, "-c", THREADS], check=True, timeout=60)


def test_generators_are_put_back() -> None:
    seed_everything(5)
    expected = torch.rand(3)
    seed_everything(5)
    with generators_kept(torch.device("cpu")):
        torch.rand(7)
    assert torch.equal(torch.rand(3), expected)
