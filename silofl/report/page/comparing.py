"""Several runs beside each other: final metrics, curves over one another, keys that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from silofl.report.lines import duration, value_text
from silofl.report.page.figures import DASHES, MARKERS, Line, lines_figure
from silofl.report.page.metric_parts import MOST_FIGURES, metric_names
from silofl.report.page.page_parts import Chapter, Drawing, Part, Table
from silofl.report.page.settings_parts import differences
from silofl.report.page.shared_files import SharedFiles
from silofl.report.page.words import bytes_text, plain_number


def named(runs: Sequence[SharedFiles]) -> dict[str, SharedFiles]:
    """Runs by a name that each has alone: its own, else its directory's, else with its number."""
    names = [run.name for run in runs]
    for own in ([run.folder for run in runs], [f"{run.folder} ({k})" for k, run in enumerate(runs, 1)]):
        often = Counter(names)
        names = [name if often[name] == 1 else other for name, other in zip(names, own, strict=True)]
    return dict(zip(names, runs, strict=True))


def comparison(runs: Mapping[str, SharedFiles]) -> Chapter:
    """The chapter before those of the runs."""
    keys = differences(runs)
    parts = [
        Part("Results", (), _curves(runs), [_final(runs)]),
        Part("Configurations", () if keys.rows else ["No key differs."], (), [keys] if keys.rows else []),
    ]
    return Chapter(f"{len(runs)} runs compared", parts=parts)


def _final(runs: Mapping[str, SharedFiles]) -> Table:
    """A row for each run: its last metrics, and what it took."""
    names = _names(runs)
    rows = []
    for name, run in runs.items():
        last = next((one for one in reversed(run.rounds) if one.means), None)
        means = {} if last is None else last.means
        spent = next((one.epsilon for one in reversed(run.rounds) if one.epsilon is not None), None)
        sent = sum(one.bytes_sent for one in run.rounds)
        rows.append(
            [
                name if run.summary is not None else f"{name} (not ended)",
                *("–" if means.get(one) is None else value_text(means[one]) for one in names),
                "–" if spent is None else plain_number(spent),
                str(run.rounds[-1].round if run.rounds else 0),
                str(run.silos),
                duration(sum(one.seconds for one in run.rounds)),
                bytes_text(sent),
            ]
        )
    return Table("At the end", ["run", *names, "epsilon", "rounds", "silos", "time", "sent"], rows)


def _names(runs: Mapping[str, SharedFiles]) -> list[str]:
    """Metrics of all silos together that are single numbers, of any run."""
    found = dict.fromkeys(name for run in runs.values() for name in metric_names(run.rounds))
    shown = {name for run in runs.values() for one in run.rounds for name in one.means}
    return [name for name in found if name in shown]


def _curves(runs: Mapping[str, SharedFiles]) -> list[Drawing]:
    """Metrics and epsilon of all runs over one another."""
    found = []
    for place, metric in enumerate([*_names(runs)[:MOST_FIGURES], None]):
        lines = [
            Line(
                name,
                [one.round for one in run.rounds],
                [_value(one.epsilon if metric is None else one.means.get(metric)) for one in run.rounds],
                f"s{k % len(MARKERS)}",
                1.6,
                DASHES[k % len(DASHES)],
                MARKERS[k % len(MARKERS)],
            )
            for k, (name, run) in enumerate(runs.items())
        ]
        title = metric or "epsilon"
        svg = lines_figure(
            f"c-{place}", title, lines, number=plain_number, value=value_text, from_zero=metric is None
        )
        found += [Drawing(title, svg)] if svg else []
    return found


def _value(value: object) -> float | None:
    return value if isinstance(value, float) else None
