"""What attacks on privacy find in what others see of a run, with and without secure sums and [privacy].

On digits, silos as threads of one process: gradient inversion of one round's updates and sums
(`inverted_runs.py`), trap weights in the first model, and membership inference on the last model of runs of
few digits (`membership_runs.py`). Tables are Markdown. Nothing but digits, seeds and what others see is used.

    python benchmarks/privacy_attacks_study.py [--seeds 3] [--jobs 2] [--json FILE]
        [--pictures FILE.png] [--roc FILE.svg]                        what it needs: 'silofl[privacy]'
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from inverted_runs import (
    PICTURED,
    SILOS,
    TRAPPED,
    VIEWS,
    Inverted,
    Ranked,
    Trapped,
    invert,
    rank,
    spring,
)
from membership_runs import SETTINGS, Inferred, infer
from side_by_side import pyplot

from silofl.bench.measure import machine
from silofl.privacy_attacks.membership.registry import INFERENCES
from silofl.privacy_attacks.roc import worth
from silofl.privacy_attacks.traps.registry import TRAPS

DIGITS = 1797
MODELS = {"mlp": "MLP", "cnn": "CNN", "tanh": "MLP, tanh"}
INVERSIONS = ("first_layer", "deep_leakage", "cosine_matching", "candidate_matching")
PICTURED_ATTACKS = ("first_layer", "cosine_matching", "candidate_matching")
"""Those that attack the MLP."""
MOST_FOR_OTHERS = 10
RANKED_RUNS = 10
"""For each seed, of ten silos that each send a noisy update."""
BEST = 0.01
EPSILON = 8.0
Job = tuple[str, tuple[Any, ...]]


def jobs(seeds: int) -> list[Job]:
    """All runs, the longest first."""
    every: list[Job] = [("infer", (one, seed)) for one, seed in product(SETTINGS, range(seeds))]
    views = sorted(VIEWS, key=lambda view: -view.examples)
    every += [
        ("invert", (view, model, seed))
        for view, model, seed in product(views, MODELS, range(seeds))
        if model == "mlp" or (view.examples <= MOST_FOR_OTHERS and not (model == "tanh" and view.masked))
    ]
    every += [("rank", (number,)) for number in range(RANKED_RUNS * seeds)]
    return every + [("spring", one) for one in product(TRAPS, (None, EPSILON), range(seeds))]


def run(job: Job) -> Any:
    """What one run showed."""
    torch.set_num_threads(1)
    kind, given = job
    return {"infer": infer, "invert": invert, "rank": rank, "spring": spring}[kind](*given)


def summarized(done: Iterable[tuple[Job, Any]]) -> dict[str, Any]:
    """All that tables have, as JSON."""
    by_kind: dict[str, list[Any]] = defaultdict(list)
    for (kind, _), found in done:
        by_kind[kind] += found if isinstance(found, list) else [found]
    return {
        "inversion": inversions(by_kind["invert"]),
        "likelihood": likelihood(by_kind["rank"]),
        "traps": traps(by_kind["spring"]),
        "membership": memberships(by_kind["infer"]),
    }


def inversions(found: Sequence[Inverted]) -> list[dict[str, Any]]:
    """One row for each view and model, with each attack's sums over seeds."""
    rows = []
    for view, model in product(VIEWS, MODELS):
        here = [one for one in found if (one.view, one.model) == (view.name, model)]
        told: dict[str, Any] = {"view": view.name, "model": model, "examples": view.examples}
        for attack in INVERSIONS:
            runs = [one for one in here if one.attack == attack]
            if runs:
                told[attack] = {
                    "identified": sum(one.identified for one in runs) / sum(one.of for one in runs),
                    "recovered": sum(one.recovered for one in runs) / sum(one.of for one in runs),
                    "psnr": _finite(statistics.median(one.psnr for one in runs)),
                    "ssim": statistics.median(one.ssim for one in runs),
                }
        if here:
            rows.append(told | {"epsilon": here[0].epsilon, "seeds": len({one.seed for one in here})})
    return rows


def _finite(decibels: float) -> float | None:
    """None of images that are equal."""
    return decibels if math.isfinite(decibels) else None


def likelihood(found: Sequence[Ranked]) -> dict[str, Any]:
    """How often the largest likelihood is the digit's own, or one of the largest hundredth, and the most
    that any attack reaches under such noise: of a Gaussian mechanism (Dong et al. 2022)."""
    ranks, normal, noise = np.array([one.ranks for one in found]).ravel(), NormalDist(), found[0].noise
    told: dict[str, Any] = {"of": len(ranks), "epsilon": found[0].epsilon, "noise": noise}
    for name, count in (("first", 1), ("best", math.floor(BEST * DIGITS))):
        chance = count / DIGITS
        most = normal.cdf(normal.inv_cdf(chance) + 1 / noise)
        told[name] = {"found": int(np.count_nonzero(ranks < count)), "chance": chance, "most": most}
    return told


def traps(found: Sequence[Trapped]) -> list[dict[str, Any]]:
    """One row for each trap, with and without [privacy]."""
    rows = []
    for trap, private in product(TRAPS, (False, True)):
        here = [one for one in found if one.trap == trap and (one.epsilon is not None) == private]
        if here:
            rows.append({
                "trap": trap, "epsilon": here[0].epsilon, "of": here[0].of, "seeds": len(here),
                "shown": statistics.fmean(one.shown for one in here),
                "recovered": statistics.fmean(one.recovered for one in here),
                "identified": statistics.fmean(one.identified for one in here),
            })  # fmt: skip
    return rows


def memberships(found: Sequence[Inferred]) -> list[dict[str, Any]]:
    """One row for each setting, with each attack's worth over all seeds' records."""
    rows = []
    for setting in SETTINGS:
        here = [one for one in found if one.setting == setting.name]
        if not here:
            continue
        members = np.concatenate([one.members for one in here])
        told: dict[str, Any] = {"setting": setting.name, "epsilon": here[0].epsilon, "seeds": len(here)}
        told["accuracy"] = {
            name: statistics.fmean(getattr(one, name) for one in here) for name in ("inside", "outside")
        }
        for attack in INFERENCES:
            scores = np.concatenate([one.scores[attack] for one in here])
            apart = [worth(one.scores[attack], one.members).auc for one in here]
            told[attack] = worth(scores, members).to_json() | {"auc_per_seed": apart}
        rows.append(told)
    return rows


def markdown(told: dict[str, Any]) -> list[str]:
    """The tables."""
    return [
        _inversion_table(told["inversion"]),
        _likelihood_table(told["likelihood"]),
        _trap_table(told["traps"]),
        _membership_table(told["membership"]),
    ]


def _inversion_table(rows: Sequence[dict[str, Any]]) -> str:
    names = " | ".join(f"`{name}`" for name in INVERSIONS)
    lines = [
        f"| what is attacked | model | {names} | by chance |",
        "|---|---|" + "---|" * (len(INVERSIONS) + 1),
    ]
    for row in rows:
        cells = [_inversion_cell(row.get(name)) for name in INVERSIONS]
        chance = min(1.0, row["examples"] / DIGITS)
        lines.append(
            f"| {row['view']} | {MODELS[row['model']]} | {' | '.join(cells)} | {100 * chance:.1f} % |"
        )
    return "\n".join(lines)


def _inversion_cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    ratio = "exact" if cell["psnr"] is None else f"{cell['psnr']:.0f} dB"
    return f"{100 * cell['identified']:.0f} %, {100 * cell['recovered']:.0f} %, {ratio}"


def _likelihood_table(told: dict[str, Any]) -> str:
    lines = [
        f"| the digit that was sent, in {told['of']} noisy updates | found | by chance | at most, ever |",
        "|---|---|---|---|",
    ]
    for name, where in (("first", "is the likeliest candidate"), ("best", "is in the likeliest 1 %")):
        one = told[name]
        lines.append(
            f"| {where} | {100 * one['found'] / told['of']:.1f} % | {100 * one['chance']:.2f} % | "
            f"{100 * one['most']:.1f} % |"
        )
    return "\n".join(lines)


def _trap_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| trap | `[privacy]` | images that it shows | digits recovered | digits identified | by chance |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        claim = "none" if row["epsilon"] is None else f"epsilon {row['epsilon']:.1f}"
        lines.append(
            f"| `{row['trap']}` | {claim} | {row['shown']:.1f} | {row['recovered']:.1f} of {row['of']} | "
            f"{row['identified']:.1f} | {row['shown'] * row['of'] / DIGITS:.1f} |"
        )
    return "\n".join(lines)


def _membership_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| training | accuracy: members, others | attack | AUC (95 %) | found, of 1 % false alarms (95 %) |",
        "|---|---|---|---|---|",
    ]
    for row, attack in product(rows, INFERENCES):
        one, accuracy = row[attack], row["accuracy"]
        low = next(rate for rate in one["detected"] if rate["false_positive_rate"] == 0.01)
        claim = row["setting"] + ("" if row["epsilon"] is None else f", epsilon {row['epsilon']:.1f}")
        lines.append(
            f"| {claim} | {100 * accuracy['inside']:.0f} %, {100 * accuracy['outside']:.0f} % | `{attack}` | "
            f"{one['auc']:.2f} ({one['low']:.2f} to {one['high']:.2f}) | "
            f"{100 * low['rate']:.1f} % ({100 * low['low']:.1f} to {100 * low['high']:.1f}) |"
        )
    return "\n".join(lines)


def picture(found: Sequence[Inverted], path: Path) -> None:
    """A digit and what each attack makes of what is seen of it, of the MLP and seed 0: a row a view."""
    views, columns = [VIEWS[number] for number in PICTURED], ("the digit", *PICTURED_ATTACKS)
    plt = pyplot()
    plt.switch_backend("agg" if path.suffix == ".png" else "svg")
    sheet, axes = plt.subplots(len(views), len(columns), figsize=(6.4, 1.25 * len(views)), squeeze=False)
    for view, row in zip(views, axes, strict=True):
        here = {
            one.attack: one.best for one in found if (one.view, one.model, one.seed) == (view.name, "mlp", 0)
        }
        shown = [
            next(iter(here.values()))[1],
            *(here[name][0] if name in here else None for name in PICTURED_ATTACKS),
        ]
        for axis, name, image in zip(row, columns, shown, strict=True):
            axis.set_axis_off()
            if image is not None:
                axis.imshow(np.clip(image, 0, 1), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            if view is views[0]:
                axis.set_title(name.replace("_", "\n"), fontsize=9)
        row[0].text(-0.3, 0.5, view.name.replace(": ", ":\n").replace(", 1", ",\n1").replace(", 10", ",\n10"),
                    transform=row[0].transAxes, fontsize=7, ha="right", va="center")  # fmt: skip
    sheet.subplots_adjust(left=0.3, right=0.99, top=0.93, bottom=0.01, wspace=0.05, hspace=0.08)
    sheet.savefig(path, dpi=90)


def draw_roc(found: Sequence[Inferred], path: Path) -> None:
    """True over false positives of each attack, both as logarithms: a panel for each setting."""
    sheet, axes = pyplot().subplots(1, len(SETTINGS), figsize=(3.4 * len(SETTINGS), 3.2), sharey=True)
    for setting, axis in zip(SETTINGS, axes, strict=True):
        here = [one for one in found if one.setting == setting.name]
        members = np.concatenate([one.members for one in here])
        for attack in INFERENCES:
            scores = np.concatenate([one.scores[attack] for one in here])
            order = members[np.argsort(-scores, kind="stable")]
            true, false = np.cumsum(order) / members.sum(), np.cumsum(~order) / (~members).sum()
            rates = np.geomspace(2e-3, 1, 80)
            reached = np.searchsorted(false, rates, "right") - 1  # as many others, and no more
            axis.plot(rates, np.where(reached < 0, 0.0, true[reached]), label=attack)
        axis.plot([1e-3, 1], [1e-3, 1], color="grey", linestyle=":", label="chance")
        epsilon = here[0].epsilon
        title = setting.name if epsilon is None else f"{setting.name}, epsilon {epsilon:.1f}"
        axis.set(xscale="log", yscale="log", xlim=(2e-3, 1), ylim=(2e-3, 1.05))
        axis.set(xlabel="false positive rate", title=title)
    axes[0].set_ylabel("true positive rate")
    axes[0].legend(loc="lower right", fontsize=7)
    sheet.tight_layout()
    sheet.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (3)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument(
        "--pictures", type=Path, help="draw digits and what was recovered of them here (.png)"
    )
    parser.add_argument("--roc", type=Path, help="draw ROC curves of membership here (.svg, .png)")
    given = parser.parse_args()
    for option in ("seeds", "jobs"):
        if getattr(given, option) < 1:
            parser.error(f"--{option} must be at least 1, not {getattr(given, option)}")
    return given


def main() -> None:
    """Run everything and show it."""
    given, began = arguments(), time.monotonic()
    todo = jobs(given.seeds)
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        done = list(zip(todo, pool.map(run, todo), strict=True))
    told = summarized(done)
    for table in markdown(told):
        print(table, end="\n\n")
    print(f"{SILOS} silos; traps in the sum of {TRAPPED.examples} digits; {time.monotonic() - began:.0f} s")
    if given.json is not None:
        about = {"benchmark": "attacks on privacy", "machine": machine(), "seeds": given.seeds}
        given.json.write_text(json.dumps(about | rounded(told), indent=1) + "\n")
    every = [found for (kind, _), found in done if kind == "invert"]
    if given.pictures is not None:
        picture([one for found in every for one in found], given.pictures)
    if given.roc is not None:
        draw_roc([found for (kind, _), found in done if kind == "infer"], given.roc)


def rounded(value: Any) -> Any:
    """Numbers to four places."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    main()
