"""Rounds of many clients beside Flower's simulation of the same: 1000 clients, 100 a round, of the digits.

Each client has its part of the digits and takes the same local steps: `epochs` passes in batches of four by
SGD. silofl's clients are in four silos, ranks of one machine, that add up by `secagg`; those of Flower are
nodes of its simulation, which Ray runs on all cores, and are added up in the clear. Seconds are of all
rounds, and of the whole with start and end; the two sides run one after the other.

    python benchmarks/compare_flower_clients.py            what it needs: benchmarks/README.md
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from side_by_side import not_here
from torch import nn

from silofl import config as configuration
from silofl.tasks import registry

SILOS, BATCH, RATE = 4, 4, 0.1


@dataclass(frozen=True)
class Given:
    """What both sides do."""

    clients: int
    per_round: int
    rounds: int
    epochs: int

    def tables(self) -> dict[str, dict[str, Any]]:
        """The configuration of silofl's side."""
        own = {"per_silo": self.clients // SILOS, "per_round": self.per_round // SILOS}
        run = {"rounds": self.rounds, "display": "none", "evaluate_every": self.rounds}
        train = {"epochs": self.epochs, "batch_size": BATCH, "lr": RATE, "device": "cpu"}
        return {"run": run, "clients": own, "train": train}


@dataclass(frozen=True)
class Side:
    """What one side took, and has in the end."""

    rounds_s: float
    """Seconds of all rounds."""
    seconds: float
    """Of the whole, start and end included."""
    accuracy: float


def ours(given: Given) -> Side:
    """`silofl launch` of four ranks."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            f"--set={name}.{key}={json.dumps(value)}"
            for name, table in given.tables().items()
            for key, value in table.items()
        ]
        (Path(folder) / "clients.toml").write_text("")
        command = [sys.executable, "-m", "silofl", "launch", "-n", str(SILOS), "clients.toml", "--run", "run"]
        began = time.perf_counter()
        done = subprocess.run([*command, *words], cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"silofl ended with {done.returncode}: {done.stderr[-500:]}")
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
        return Side(summary["seconds"], seconds, summary["accuracy"])


def samples() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """All silos' training samples, and all that are held out: features and labels of each."""
    task = registry.build(configuration.parse({}))
    parts: tuple[list[Any], list[Any]] = ([], [])
    for silo in range(SILOS):
        for found, dataset in zip(parts, task.data(silo, SILOS), strict=True):
            assert isinstance(dataset, torch.utils.data.TensorDataset)
            found.append(dataset.tensors)
    train, test = ([torch.cat(one) for one in zip(*part, strict=True)] for part in parts)
    return train, test


def model() -> nn.Module:
    """The built-in one, as silofl's side has it."""
    torch.manual_seed(0)
    return registry.build(configuration.parse({})).model()


def theirs(given: Given) -> Side:
    """Flower's simulation, with FedAvg by numbers of samples."""
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    (x, y), (held_x, held_y) = samples()
    whose = np.random.default_rng(0).permutation(len(x)) % given.clients
    client_app, server_app = ClientApp(), ServerApp()
    found: list[float] = []
    times: list[float] = []
    epochs = given.epochs

    @client_app.train()
    def fit(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        mine = torch.from_numpy(np.flatnonzero(whose == int(context.node_config["partition-id"])))
        network = model()
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
        for _ in range(epochs):
            for batch in mine[torch.randperm(len(mine))].split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
                optimizer.step()
        metrics = MetricRecord({"num-examples": len(mine)})
        content = RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_train=given.per_round / given.clients,
            fraction_evaluate=0.0,
            min_available_nodes=given.clients,
        )
        initial = ArrayRecord(model().state_dict())
        result = strategy.start(
            grid,
            initial,
            num_rounds=given.rounds,
            train_config=ConfigRecord({}),
            evaluate_fn=lambda number, arrays: times.append(time.perf_counter()),  # also before the first
        )
        network = model()
        network.load_state_dict(result.arrays.to_torch_state_dict())
        with torch.no_grad():
            found.append(float((network(held_x).argmax(1) == held_y).float().mean()))

    began = time.perf_counter()
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, given.clients, backend_config=resources)
    return Side(times[-1] - times[0], time.perf_counter() - began, found[0])


def main() -> None:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"clients": 1000, "per-round": 100, "rounds": 20, "epochs": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = parser.parse_args()
    path = asked.json
    given = Given(asked.clients, asked.per_round, asked.rounds, asked.epochs)
    sides = {"silofl, 4 silos, secagg": ours(given)}
    try:
        import flwr
        import ray
    except ImportError as missing:
        _print(given, sides)
        remedy = "pip install 'flwr[simulation]==1.42.0', in an environment of its own"
        not_here(f"Flower's simulation ({missing.name})", remedy)
    sides[f"Flower {flwr.__version__}, Ray {ray.__version__}, in the clear"] = theirs(given)
    _print(given, sides)
    if path is not None:
        path.write_text(json.dumps({name: vars(side) for name, side in sides.items()}, indent=2) + "\n")


def _print(given: Given, sides: dict[str, Side]) -> None:
    first = next(iter(sides.values())).rounds_s
    title = f"{given.rounds} rounds of {given.per_round} of {given.clients} clients"
    table = Table("", "seconds of rounds", "times silofl's", "seconds in all", "accuracy", title=title)
    for name, side in sides.items():
        times = f"{side.rounds_s / first:.1f}"
        table.add_row(name, f"{side.rounds_s:.1f}", times, f"{side.seconds:.1f}", f"{side.accuracy:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
