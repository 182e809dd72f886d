"""Rounds over a slow link, with [compress] and without, beside `MPI_Allreduce` of the same float32 vector.

How hosts are made and what is measured: `links.py`. A round is all of silofl's but training and evaluation:
keys, masks, sum, the server's step and the new model on every rank. Figures of other links that FILE has
already are kept in it.

    python benchmarks/slow_links.py [--json FILE] [--plot FILE] [--parameters 10000000] [--repeats 9]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import links
from links import REFERENCE, Link, federation, in_turn, rounds
from side_by_side import pyplot

RATES = (100.0, 1000.0)
"""Mbit/s in each direction."""
FEEDBACK = {"rotation": True, "error_feedback": True}
FEW = {"bits": 4} | FEEDBACK
WAYS: dict[str, dict[str, Any]] = {
    "secagg": {},
    "16 bits": {"bits": 16},
    "8 bits": {"bits": 8},
    "4 bits": {"bits": 4},
    "4 bits, rotation, error feedback": FEW,
    "random_k 0.5, the same": {"name": "random_k", "ratio": 0.5} | FEW,
    "random_k 0.25, the same": {"name": "random_k", "ratio": 0.25} | FEW,
    "random_k 0.1, the same": {"name": "random_k", "ratio": 0.1} | FEW,
    "powersgd, rank 8": {"name": "powersgd", "rank": 8},
    "powersgd, rank 2": {"name": "powersgd", "rank": 2},
}
"""[compress] of each."""
WIDTH = 2500
"""Columns of the matrix that the model is for PowerSGD; else it has 16, as in `silofl bench round`."""
SHORT = [name for name, compress in WAYS.items() if "name" in compress]
GOALS = {RATES[0]: "<= 0.15"}
"""Of the best of the short ones, by rate."""


def measure(path: Path, megabits: float, parameters: int, repeats: int) -> int:
    """On a rank: all ways in turn; the first rank writes a `Link` to `path`. Collective."""
    from silofl.bench.round import Trivial
    from silofl.comm import run_on_ranks
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        flat, matrix = Trivial(parameters), Trivial(parameters, WIDTH)
        federations = {
            name: federation(comm, matrix if compress.get("name") == "powersgd" else flat, compress)
            for name, compress in WAYS.items()
        }
        vector = next(iter(federations.values())).values.copy()
        calls = {name: rounds(one) for name, one in federations.items()}
        in_turn(comm, path, megabits, calls, vector, repeats, dict.fromkeys(SHORT, GOALS.get(megabits, "")))
        for one in federations.values():
            one.close()

    return run_on_ranks(body)


def plot(found: list[Link], path: Path) -> None:
    """Ratios of times with their quartiles, and of bytes on the link, by way and link."""
    sheet, axes = pyplot().subplots(1, len(found), figsize=(11, 4), sharey=True, squeeze=False)
    for pane, link in zip(axes[0], found, strict=True):
        ways = [one for one in link.rows if one.name != REFERENCE]
        places = range(len(ways))
        errors = [[one.ratio - one.ratio_low for one in ways], [one.ratio_high - one.ratio for one in ways]]
        pane.barh(places, [one.ratio for one in ways], xerr=errors, capsize=3, label="time")
        sent = [link.crossed[one.name] / link.crossed[REFERENCE] for one in ways]
        pane.plot(sent, places, "k|", markersize=14, label="bytes on the link")
        pane.set_yticks(places, [one.name for one in ways])
        pane.set(title=f"{link.megabits:g} Mbit/s", xlabel="over MPI_Allreduce, float32", xlim=(0, None))
        pane.axvline(1.0, linewidth=0.8, color="grey")
    axes[0][0].invert_yaxis()  # of all panes, which share it
    axes[0][0].legend()
    sheet.tight_layout()
    sheet.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def to_json(found: list[Link], parameters: int) -> str:
    """The figures and the machine for a program to read."""
    return links.to_json("slow links", found, parameters, {"ways": WAYS})


if __name__ == "__main__":
    links.main(__file__, __doc__ or "", RATES, measure, to_json, plot)
