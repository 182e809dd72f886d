"""Which GPU a rank takes: by its place on its own host, or the one that its institution names."""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.loop import train
from tests.conftest import ROOT
from tests.federation.test_gpu import SGD, settings
from tests.federation.threads import Normalized
from tests.on_hosts import silofl_there
from tests.training.fake_gpu import FakeGpu, gpus

FAKE = """
import os
import sys

if "train" in sys.orig_argv or "silofl.federation.rank_of_silo" in sys.orig_argv:
    import pytest
    import torch

    from tests.training.fake_gpu import FakeGpu, gpus

    there, inside = gpus(pytest.MonkeyPatch(), 4), FakeGpu()
    there.__enter__()
    inside.__enter__()
    torch.cuda.set_device = lambda device: os.environ.update(SEEN=str(device))
"""
TASK = """
import os
import socket
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from silofl.tasks.base import SiloData


class Telling:
    def model(self):
        return nn.Linear(3, 1)

    def data(self, silo, silos):
        with Path("seen.txt").open("a") as file:
            file.write(f"{silo} {socket.gethostname()} {os.environ['SEEN']}\\n")
        x = torch.randn(40, 3, generator=torch.Generator().manual_seed(silo))
        return SiloData(TensorDataset(x, x.sum(1, keepdim=True)))

    def loss(self, model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    def metrics(self, model, batch):
        return {"loss": self.loss(model, batch)}
"""
RUN = """
[run]
rounds = 5
display = "plain"
[task]
factory = "own:Telling"
[train]
epochs = 1
batch_size = 20
lr = 0.01
[failure]
rejoin_s = 40
"""


@pytest.mark.covering(0)
@pytest.mark.parametrize("own", [None, "cuda:0"])
def test_ranks_share_out_the_gpus_of_their_own_host(
    own: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four on two hosts, in turn; `own` is what the last one's configuration names."""
    seen = defaultdict[int, set[str]](set)

    def rank(comm: Communicator) -> set[str]:
        torch.set_num_threads(1)
        named = own if comm.rank == 3 and own is not None else "auto"
        config = settings(tmp_path, named, 1, {"train": SGD})
        with FakeGpu():
            train(config, Normalized(), comm=comm)
        return seen[threading.get_ident()]

    with gpus(monkeypatch, 3):
        monkeypatch.setattr(
            torch.cuda, "set_device", lambda device: seen[threading.get_ident()].add(str(device))
        )
        found = run_in_threads(4, rank, timeout_s=60, host_of=lambda rank: rank % 2)
    assert found == [{"cuda:0"}, {"cuda:0"}, {"cuda:1"}, {own or "cuda:1"}]


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("killed", [1, 3])
def test_ranks_of_silos_on_two_hosts_take_the_gpus_of_their_own(
    hosts: Any, tmp_path: Path, killed: int
) -> None:
    """Two silos a host, of two ranks each but for one on a GPU of its own; one comes back to what it had."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/sitecustomize.py").write_text(FAKE)
    (tmp_path / "own.py").write_text(TASK)
    first, second = hosts.ADDRESSES[:2]
    ranks = "train.ranks_per_silo = 2"
    entries = [
        f'name = "a"\nhost = "{first}"\n{ranks}',
        f'name = "b"\nhost = "{first}"\n{ranks}',
        f'name = "c"\nhost = "{second}"\ndevice = "cuda:3"',
        f'name = "d"\nhost = "{second}"\n{ranks}',
    ]
    text = "".join(f"[[institution]]\n{one}\n" for one in entries) + RUN
    (tmp_path / "own.toml").write_text(text)
    fault = f'failure.inject=["kill silo {killed} round 2 at step"]'
    path = os.pathsep.join(map(str, (tmp_path / "fake", ROOT, ROOT / "kernels", tmp_path)))
    with hosts.two_hosts(1000.0) as both:
        words = ["launch", "own.toml", "--run", "run", "--set", fault]
        done = silofl_there(hosts, both, *words, folder=tmp_path, timeout_s=300, PYTHONPATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "run/summary.json").read_text())
    assert told["failed"] == [[2, killed]]
    assert told["survivors"] == [0, 1, 2, 3]
    seen = defaultdict[str, list[str]](list)
    for line in (tmp_path / "seen.txt").read_text().splitlines():
        silo, *place = line.split()
        seen[silo].append(" ".join(place))
    here, there = both.names
    expected = {
        "0": [f"{here} cuda:0", f"{here} cuda:1"],
        "1": [f"{here} cuda:2", f"{here} cuda:3"],
        "2": [f"{there} cuda:3"],
        "3": [f"{there} cuda:2", f"{there} cuda:3"],
    }
    expected[str(killed)] *= 2
    assert {silo: sorted(places) for silo, places in seen.items()} == {
        silo: sorted(places) for silo, places in expected.items()
    }
