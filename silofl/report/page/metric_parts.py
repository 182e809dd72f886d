"""A run's metrics: by round with the spread over silos, by silo, and of each model on each data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from silofl.report.lines import value_text
from silofl.report.page.figures import BEYOND, Line, lines_figure
from silofl.report.page.page_parts import Drawing, Part, Table
from silofl.report.page.shared_files import CrossSite, SharedFiles
from silofl.report.page.words import plain_number
from silofl.report.round_metrics import FIRST, RoundMetrics
from silofl.types import MetricValue

MOST_FIGURES = 12
"""Of metrics, of which a task may have any number; tables have all."""
MOST_CELLS = 400
"""Of a metric that is a tensor."""
Rounds = Sequence[RoundMetrics]

MOST_CELLS = 20_000
"""Of all tables of a kind."""


def metrics_part(run: SharedFiles, key: str) -> Part:
    """Every metric by round; the last round's that are no single numbers as tables."""
    names = metric_names(run.rounds)
    drawings = [
        one for k, name in enumerate(names[:MOST_FIGURES]) if (one := _drawing(run, f"{key}-m{k}", name)).svg
    ]
    said = []
    if any(sum(name in silo for silo in one.per_silo) > 1 for one in run.rounds for name in names):
        said.append("Shaded: from the lowest to the highest silo of each round; those of the last are named.")
    elif drawings:
        said.append("Of all silos together; they do not share their own (run.share_silo_metrics).")
    if len(names) > MOST_FIGURES:
        said.append(
            f"Of {len(names)} metrics the first {MOST_FIGURES} are drawn; the table of silos has all."
        )
    if not drawings and run.rounds:
        why = " (privacy.metrics), as held-out records are in no claim" if run.private else ""
        said.append(f"No metric was evaluated in this run{why}.")
    return Part("Metrics", said, drawings, _tensors(run.rounds))


def metric_names(rounds: Rounds) -> list[str]:
    """Names of metrics that are single numbers: loss and accuracy first, those of silos alone last."""
    means = dict.fromkeys(
        name
        for one in rounds
        for name, value in one.means.items()
        if isinstance(value, float) or (value is None and not isinstance(value, list))
    )
    own = dict.fromkeys(name for one in rounds for silo in one.per_silo for name in silo)
    tensors = {name for one in rounds for name, value in one.means.items() if isinstance(value, list)}
    first = [name for name in FIRST if name in means]
    return [name for name in dict.fromkeys([*first, *means, *own]) if name not in tensors]


def _drawing(run: SharedFiles, key: str, name: str) -> Drawing:
    """The federation's value by round, between the lowest and the highest of silos."""
    rounds, x = run.rounds, [one.round for one in run.rounds]
    mean = [_number(one.means.get(name)) for one in rounds]
    own = [[value for silo in one.per_silo if (value := silo.get(name)) is not None] for one in rounds]
    spread = None
    if max(map(len, own), default=0) > 1:
        last = rounds[max(index for index, values in enumerate(own) if values)].per_silo
        known = {silo: value for silo, one in enumerate(last) if (value := one.get(name)) is not None}
        low, high = min(known, key=lambda s: known[s]), max(known, key=lambda s: known[s])
        spread = (
            Line(f"silo {low}", x, [min(values, default=None) for values in own], "muted", 0.8),
            Line(f"silo {high}", x, [max(values, default=None) for values in own], "muted", 0.8),
        )
    lines = [Line("all silos", x, mean)]
    if all(value is None for value in mean):
        lines = [Line("median", x, [median(values) if values else None for values in own])]
    svg = lines_figure(key, name, lines, number=plain_number, value=value_text, between=spread)
    return Drawing(name, svg)


def silos_part(run: SharedFiles) -> Part:
    """A row for each silo: its own metrics where it shares them, and how often it took part."""
    if not run.rounds:
        return Part("Silos")
    last = next((one for one in reversed(run.rounds) if any(one.per_silo)), run.rounds[-1])
    names = list(dict.fromkeys(name for silo in last.per_silo for name in silo))
    names = [*(name for name in FIRST if name in names), *(name for name in names if name not in FIRST)]
    left_out = max(0, len(names) - MOST_CELLS // max(run.silos, 1))
    names = names[: len(names) - left_out]
    spent = (run.summary.epsilon_per_silo if run.summary is not None else None) or []
    head = ["silo", *names, *(["epsilon"] if spent else []), "rounds", "failures", "returns"]
    rows, attendance = [], _attendance(run.rounds)
    for silo in range(run.silos):
        own = last.per_silo[silo] if silo < len(last.per_silo) else {}
        metrics = [_cell(own, name) for name in names]
        epsilon = [_cell({"epsilon": spent[silo]}, "epsilon")] if silo < len(spent) else ["–"] * bool(spent)
        counts = [times[silo] for times in attendance]
        rows.append([f"silo {silo}", *metrics, *epsilon, *map(str, counts)])
    said = []
    if not names:
        said = ["Silos do not share metrics of their own in this run (run.share_silo_metrics)."]
    if left_out:
        said = [f"{left_out} metrics are left out: of {run.silos} silos they would be too many cells."]
    caption = f"Metrics are of round {last.round}." if names else ""
    return Part("Silos", said, (), [Table("Silo by silo", head, rows, caption=caption)])


def _attendance(rounds: Rounds) -> list[Counter[int]]:
    """How often each silo took part, failed and came back."""
    return [
        Counter(silo for one in rounds for silo in getattr(one, name))
        for name in ("survivors", "failed", "rejoined")
    ]


def cross_site_part(rows: Sequence[CrossSite]) -> Part:
    """Model i on data j, a table for each metric, the best model of each data set in bold."""
    models, data = (list(dict.fromkeys(getattr(row, of) for row in rows)) for of in ("model", "data"))
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    tables = []
    if len(models) * len(data) * len(names) > MOST_CELLS:
        said = [f"{len(models)} models on {len(data)} data sets are too many cells for this page."]
        return Part("Across sites", said)
    for name in names:
        found = {(row.model, row.data): _number(row.metrics.get(name)) for row in rows}
        if all(value is None for value in found.values()):
            continue
        cells = [[found.get((model, one)) for one in data] for model in models]
        texts = [
            [m, *("–" if v is None else value_text(v) for v in own)]
            for m, own in zip(models, cells, strict=True)
        ]
        tables.append(Table(name, ["model", *map(_file_name, data)], texts, strong=_best(name, cells)))
    said = ["Each model (rows) on each silo's data (columns), as `silofl evaluate --cross-site` found."]
    return Part("Across sites", said if tables else (), (), tables)


def _best(name: str, cells: Sequence[Sequence[float | None]]) -> frozenset[tuple[int, int]]:
    """Of each column the lowest loss, or the highest of another metric."""
    chosen = min if "loss" in name or "error" in name else max
    found = set()
    for column in range(len(cells[0])):
        known = [value for own in cells if (value := own[column]) is not None]
        found |= {
            (row, column + 1) for row, own in enumerate(cells) if known and own[column] == chosen(known)
        }
    return frozenset(found)


def _tensors(rounds: Rounds) -> list[Table]:
    """Metrics of the last evaluated round that have rows and columns, or are one row."""
    last = next((one for one in reversed(rounds) if one.means), None)
    tables = []
    for name, value in (last.means if last is not None else {}).items():
        if not isinstance(value, list) or not value:
            continue
        matrix = [one if isinstance(one, list) else [one] for one in value]
        flat = [cell for own in matrix for cell in own]
        if len(flat) > MOST_CELLS or any(isinstance(cell, list | dict) for cell in flat):
            continue
        width = max(map(len, matrix))
        texts = [[str(k), *(_tensor_cell(cell) for cell in own)] for k, own in enumerate(matrix)]
        tables.append(
            Table(name, ["", *map(str, range(width))], [row + [""] * (width + 1 - len(row)) for row in texts])
        )
    return tables


def _tensor_cell(value: object) -> str:
    if isinstance(value, int | float) and abs(value) < BEYOND:
        return plain_number(float(value))
    return "–"


def _cell(own: object, name: str) -> str:
    value = own.get(name) if hasattr(own, "get") else None
    return "–" if value is None else value_text(value)


def _number(value: MetricValue) -> float | None:
    return None if isinstance(value, list) else value


def _file_name(name: str) -> str:
    """Of a path its last part: folders tell of a machine."""
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
