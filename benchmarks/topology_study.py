"""Every topology on digits: accuracy, consensus, seconds, messages and bytes, with a silo that dies or none.

Eight silos with data, the training settings of launch/digits.toml and as many rounds in every row, so that
all train alike long; an asynchronous round has five of the silos, so that there are more of them. Silos are
threads of one process: seconds are of two processors, not of a network. Messages and bytes are those of one
round, of all ranks together, as `silofl check` counts them. Accuracy is over all held-out records, of every
silo's own model where there are such. A row is held to serverless FedAvg of the same seed and protocol where
no silo dies.

A FILE of an earlier run that did not come to its end is gone on with. Seconds are those of one more run of
each row, alone on the machine, which `--timed` makes.

    python benchmarks/topology_study.py [--json FILE] [--plot FILE] [--timed] [--markdown] [--seeds 5]
        [--jobs 2] [--rounds 20]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import pyplot

from silofl import config as configuration
from silofl.bench.measure import machine
from silofl.comm.protocol import Communicator, SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.federation.dry_run import dry_run
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.loop import train

SILOS, BUFFER, ALPHA, LONGEST_S = 8, 5, 0.5, 600.0
Tables = dict[str, Any]

SERVERLESS = "serverless"
PLAIN_SGD: Tables = {"train": {"lr": 0.3, "momentum": 0.0}}
"""As gradient tracking asks for; a rate as high as momentum makes the other rows' in effect."""


def gossip(graph: str, algorithm: str = "dpsgd", **sections: Tables) -> Tables:
    """Sections of a gossip."""
    return {"topology": {"name": "gossip", "graph": graph, "algorithm": algorithm}} | sections


TOPOLOGIES: dict[str, Tables] = {
    SERVERLESS: {},
    "star": {"topology": {"name": "star", "coordinator": SILOS}},
    "hierarchical, 2 groups of 4": {
        "topology": {"name": "hierarchical", "groups": [[0, 1, 2, 3], [4, 5, 6, 7]]}
    },
    "gossip, ring": gossip("ring"),
    "gossip, torus": gossip("torus"),
    "gossip, exponential": gossip("exponential"),
    "gossip, one peer a round": gossip("one_peer_exponential"),
    "gossip, complete": gossip("complete"),
    "gossip, ring, tracking": gossip("ring", "gradient_tracking", **PLAIN_SGD),
    "gossip, exponential, push-sum": gossip("exponential", "push_sum"),
    "gossip, ring, CHOCO, a quarter": gossip("ring", "choco", compress={"name": "random_k", "ratio": 0.25}),
    "asynchronous, 5 of 8": {"topology": {"name": "asynchronous", "buffer": BUFFER}},
}
"""What each sets beside the training settings."""
PROTOCOLS = ("plain", "secagg")
DEATHS = ("none", "one")
SHOWS_ALL = "gossip, one peer a round"
"""Which hides nothing: of one neighbour's model there is no sum."""


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    topology: str
    protocol: str
    deaths: str

    @property
    def key(self) -> str:
        """In the results."""
        return f"{self.topology} | {self.protocol} | {self.deaths}"


CASES = [
    Case(*one) for one in product(TOPOLOGIES, PROTOCOLS, DEATHS) if (one[0], one[1]) != (SHOWS_ALL, "secagg")
]


@dataclass(frozen=True)
class Figure:
    """One run: accuracy, root mean square distance from the mean model, and seconds a round."""

    accuracy: float
    consensus: float
    seconds: float


def settings(case: Case, seed: int, rounds: int, folder: str) -> Config:
    """The configuration of one run."""
    given = TOPOLOGIES[case.topology]
    count = rounds * SILOS // BUFFER if case.topology.startswith("asynchronous") else rounds
    # Between arrivals a silo trains in no round, and takes part in each one's step.
    step = "step" if case.topology.startswith("asynchronous") else "train"
    dies = [f"kill silo {SILOS - 2} round {count // 2} at {step}"] if case.deaths == "one" else []
    tables: Tables = {
        "run": {"rounds": count, "evaluate_every": count, "seed": seed, "display": "none"}
        | {"dir": f"{folder}/run"},
        "task": {"name": "digits", "model": "mlp"},
        "data": {"partition": "dirichlet", "alpha": ALPHA},
        "train": {"epochs": 2, "batch_size": 16, "lr": 0.05, "momentum": 0.9},
        "secure": {"protocol": case.protocol},
        "failure": {"policy": "shrink", "inject": dies},
        "checkpoint": {"every": 0, "key_file": f"{folder}/{{silo}}.key"},
    }
    return configuration.parse(tables | {name: tables.get(name, {}) | keys for name, keys in given.items()})


def ranks_of(topology: str) -> int:
    """Silos, and a coordinator where there is one."""
    return SILOS + (topology == "star")


def run(case: Case, seed: int, rounds: int) -> Figure:
    """Train once."""

    def die() -> None:
        raise SimulatedCrash

    FaultInjector.__init__.__kwdefaults__["die"] = die  # silos are threads
    with tempfile.TemporaryDirectory() as folder:
        config = settings(case, seed, rounds, folder)

        def rank(comm: Communicator) -> Tables:
            torch.set_num_threads(1)
            return train(config, comm=comm)

        began = time.perf_counter()
        run_in_threads(ranks_of(case.topology), rank, timeout_s=LONGEST_S)
        took = time.perf_counter() - began
        last = json.loads((Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    return Figure(last["accuracy"], last.get("consensus_distance", 0.0), took / config.run.rounds)


def traffic(case: Case) -> tuple[int, int]:
    """Messages and bytes of a round, of all ranks together."""
    with tempfile.TemporaryDirectory() as folder:
        found = dry_run(settings(case, 0, 2, folder), ranks_of(case.topology))
    totals = [row.total for row in found.topology]
    return sum(messages for messages, _ in totals), sum(sent for _, sent in totals)


def spread(values: list[float], digits: int = 2) -> str:
    """Mean, and standard deviation over seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} +- {deviation:.{digits}f}"


def behind(found: dict[str, list[Figure]], case: Case) -> list[float]:
    """Points of accuracy behind serverless FedAvg without a death, by seed."""
    base = found[Case(SERVERLESS, case.protocol, "none").key]
    pairs = zip(found[case.key], base, strict=True)
    return [100 * (other.accuracy - one.accuracy) for one, other in pairs]


COLUMNS = ("topology", "sum", "silos that die", "accuracy, %", "behind, points", "consensus distance")
COLUMNS += ("messages", "KiB", "ms a round")
SHOWN = ("topology", "plain, %", "one dies", "secagg, %", "one dies", "consensus distance", "messages")
SHOWN += ("KiB", "ms a round")


def rows(
    found: dict[str, list[Figure]], sent: dict[str, tuple[int, int]], timed: dict[str, float]
) -> list[list[str]]:
    """Cells of the table."""
    shown = []
    for case in CASES:
        figures, (messages, nbytes) = found[case.key], sent[case.key]
        cells = [case.topology, case.protocol, case.deaths]
        cells += [spread([100 * one.accuracy for one in figures]), spread(behind(found, case))]
        cells += [spread([one.consensus for one in figures], 3) if case.protocol == "plain" else ""]
        cells += [str(messages), f"{nbytes / 1024:.0f}"]
        shown.append([*cells, f"{1e3 * timed[case.key]:.0f}" if case.key in timed else ""])
    return shown


def markdown(
    found: dict[str, list[Figure]], sent: dict[str, tuple[int, int]], timed: dict[str, float]
) -> list[str]:
    """A line for each topology, shorter: in the clear and under secagg, and what it costs without a death."""
    lines = [f"| {' | '.join(SHOWN)} |", f"|---|{'---:|' * (len(SHOWN) - 1)}"]
    for topology in TOPOLOGIES:
        cells, costs = [topology], []
        for protocol in PROTOCOLS:
            for deaths in DEATHS:
                figures = found.get(Case(topology, protocol, deaths).key)
                cells.append(spread([100 * one.accuracy for one in figures], 1) if figures else "-")
            key = Case(topology, protocol, "none").key
            if key in found:
                costs.append((*sent[key], timed.get(key)))
        plain = found[Case(topology, "plain", "none").key]
        cells.append(f"{statistics.fmean([one.consensus for one in plain]):.2f}")
        cells.append(" / ".join(str(messages) for messages, _, _ in costs))
        cells.append(" / ".join(f"{nbytes / 1024:.0f}" for _, nbytes, _ in costs))
        cells.append(" / ".join("" if seconds is None else f"{1e3 * seconds:.0f}" for *_, seconds in costs))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plot(found: dict[str, list[Figure]], sent: dict[str, tuple[int, int]], path: Path) -> None:
    """How far each topology is behind, over the bytes of a round; hollow where a silo dies."""
    sheet, axes = pyplot().subplots(figsize=(9, 5))
    colours = {"plain": "#4477aa", "secagg": "#ee6677"}
    for case in CASES:
        lost = behind(found, case)
        axes.errorbar(
            [sent[case.key][1] / 1024],
            [statistics.fmean(lost)],
            yerr=[statistics.stdev(lost) if len(lost) > 1 else 0.0],
            fmt="o",
            capsize=2,
            color=colours[case.protocol],
            markerfacecolor="none" if case.deaths == "one" else None,
        )
        if case.deaths == "none" and case.protocol == "plain":
            place = (sent[case.key][1] / 1024, statistics.fmean(lost))
            axes.annotate(case.topology, place, fontsize=6, rotation=20)
    axes.axhline(2.0, linewidth=0.8, linestyle="--", color="grey")
    axes.set(xscale="log", xlabel="KiB in a round, all ranks", ylabel="points behind serverless FedAvg")
    axes.set_title("plain (blue) and secagg (red); hollow: one of eight silos dies half-way")
    axes.invert_yaxis()
    sheet.savefig(path, bbox_inches="tight")


def main() -> None:
    """Run what FILE lacks, save it, and show all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--timed", action="store_true", help="one more run of each row, for its seconds")
    parser.add_argument("--markdown", action="store_true", help="a shorter table, of what FILE has")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    console = Console(width=160)
    begun = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    if begun and (begun["seeds"], begun["rounds"]) != (options.seeds, options.rounds):
        parser.error(
            f"{options.json} is of {begun['seeds']} seeds and {begun['rounds']} rounds: name another"
        )
    found = {key: [Figure(**one) for one in each] for key, each in begun.get("figures", {}).items()}
    sent: dict[str, tuple[int, int]] = {key: tuple(one) for key, one in begun.get("traffic", {}).items()}
    timed: dict[str, float] = {} if options.timed else begun.get("timed", {})

    def save() -> None:
        if options.json:
            figures = {key: [asdict(one) for one in each] for key, each in found.items()}
            saved = {"machine": machine(), "seeds": options.seeds, "rounds": options.rounds}
            options.json.write_text(
                json.dumps(saved | {"figures": figures, "traffic": sent, "timed": timed}, indent=1) + "\n"
            )

    for case in CASES:
        if case.key not in sent:
            sent[case.key] = traffic(case)
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        asked = {
            pool.submit(run, case, seed, options.rounds): (case, seed)
            for case in CASES
            if case.key not in found
            for seed in range(options.seeds)
        }
        parts: dict[str, dict[int, Figure]] = {}
        for done in as_completed(asked):
            case, seed = asked[done]
            parts.setdefault(case.key, {})[seed] = done.result()
            if len(parts[case.key]) == options.seeds:
                found[case.key] = [parts[case.key][one] for one in range(options.seeds)]
                save()
                console.print(case.key, spread([100 * one.accuracy for one in found[case.key]]))
    for case in CASES if options.timed else []:
        timed[case.key] = run(case, 0, options.rounds).seconds
    save()
    if options.markdown:
        print("\n".join(markdown(found, sent, timed)))
    table = Table(*COLUMNS, title=f"{SILOS} silos, Dirichlet({ALPHA}), {options.rounds} rounds")
    for cells in rows(found, sent, timed):
        table.add_row(*cells)
    console.print(table)
    if options.plot:
        plot(found, sent, options.plot)


if __name__ == "__main__":
    main()
