"""Figures of a page: lines by round that are labelled where they end, and who was there."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from silofl.console import printable
from silofl.errors import MissingDependencyError
from silofl.report.page.svg import colour, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 400.0, 225.0
"""In 1/72 inch; a page scales them to its columns."""
LEFT, RIGHT, TOP, BOTTOM = 46.0, 104.0, 10.0, 34.0
LINE_HEIGHT, ROW_HEIGHT = 13.0, 21.0
MOST_POINTS = 320
"""Of a line; more rounds are put together, a few at a time."""
LONGEST_LABEL = 20
ON_A_PHONE = 1.1
"""How much larger the page writes there, beside lines."""
GAP = "\N{EN SPACE}"
"""Between a label's name and its value."""
BEYOND = 1e30
"""A number that no axis can show."""
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1, 1.5)),
    (0, (6, 2, 1, 2)),
    (0, (9, 3)),
    (0, (3, 1, 1, 1, 1, 1)),
)
MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "silofl",
    "text.parse_math": False,
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "xtick.bottom": False,
    "ytick.left": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

Number = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """One line: what it is called, where it ends, its points in order of `x`, None where there is none."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    role: str = "ink"
    width: float = 1.9
    dashes: Any = "-"
    marker: str = ""

    def points(self) -> tuple[list[float], list[float]]:
        """Those that an axis can show, at most `MOST_POINTS`: means of a few rounds where there are more."""
        seen = [
            (x, y)
            for x, y in zip(self.x, self.y, strict=True)
            if y is not None and math.isfinite(y) and abs(y) < BEYOND
        ]
        step = -(-len(seen) // MOST_POINTS)
        groups = [seen[start : start + step] for start in range(0, len(seen), max(step, 1))]
        return (
            [group[-1][0] for group in groups],
            [sum(y for _, y in group) / len(group) for group in groups],
        )


@dataclass(frozen=True)
class Presence:
    """One silo's row: rounds that it took part in, was not drawn for, failed in, and was back in."""

    silo: int
    there: Sequence[int]
    not_drawn: Sequence[int]
    failed: Sequence[int]
    rejoined: Sequence[int]


def require_matplotlib() -> None:
    """Raise MissingDependencyError where figures cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "silofl report draws with matplotlib, which is not installed: pip install 'silofl[report]'"
        ) from None


def lines_figure(
    key: str,
    title: str,
    lines: Sequence[Line],
    *,
    number: Number,
    value: Number | None = None,
    between: tuple[Line, Line] | None = None,
    bound: tuple[str, float] | None = None,
    from_zero: bool = False,
) -> str:
    """Lines by round as an SVG element; empty where no line has a point.

    Args:
        key: unlike that of any other figure of the page.
        title: what it shows, for those who do not see it.
        lines: the heaviest first; each is labelled at the right, with its last round where others go on.
        number: how values are written at the axis.
        value: how they are written at a line's end, if otherwise.
        between: lowest and highest, between which the figure is shaded.
        bound: a level across the figure, with its name.
        from_zero: whether the axis begins at 0.
    """
    drawn = [(line, *line.points()) for line in (*(between or ()), *lines)]
    drawn = [one for one in drawn if one[1]]
    if not drawn:
        return ""
    value = value or number
    end = max(x[-1] for _, x, _ in drawn)
    texts = [
        f"{_short(line.label)}{GAP}{value(y[-1])}" + (f", to {x[-1]:.0f}" if x[-1] < end else "")
        for line, x, y in drawn
    ]
    with _axes(HEIGHT, texts) as (axes, saved):
        labels: list[tuple[float, str, str]] = []
        if between is not None and len(drawn) > len(lines) + 1:
            axes.fill_between(drawn[0][1], drawn[0][2], drawn[1][2], color=colour("band"), linewidth=0)
        for text, (line, x, y) in zip(texts, drawn, strict=True):
            axes.plot(
                x,
                y,
                color=colour(line.role),
                linewidth=line.width,
                linestyle=line.dashes,
                marker=line.marker or ("o" if len(x) == 1 else None),
                markersize=3.6,
                markevery=max(1, len(x) // 6),
                clip_on=False,
                solid_capstyle="round",
            )
            labels.append((y[-1], text, line.role))
        if bound is not None and abs(bound[1]) < BEYOND:
            axes.axhline(bound[1], color=colour("bad"), linewidth=1.0, linestyle=(0, (4, 3)), clip_on=False)
            labels.append((bound[1], f"{bound[0]}{GAP}{value(bound[1])}", "bad"))
        _frame(axes, [one for _, x, _ in drawn for one in x], number)
        if from_zero:
            axes.set_ylim(bottom=0)
        _label_ends(axes, labels, HEIGHT - TOP - BOTTOM)
        told = "; ".join(f"{line.label}: {value(y[0])} to {value(y[-1])}" for line, _, y in drawn[::-1])
        return inline(saved(), key, printable(f"{title} by round. {told}"))


def presence_figure(key: str, rows: Sequence[Presence], rounds: Sequence[int]) -> str:
    """Which silos took part in which rounds, with failures and returns, as an SVG element."""
    height = TOP + BOTTOM + ROW_HEIGHT * len(rows)
    with _axes(height, ()) as (axes, saved):
        for place, row in enumerate(rows):
            for role, width, dashes, numbers in (
                ("s0", 7.0, "-", row.there),
                ("muted", 1.2, (0, (1, 2)), row.not_drawn),
            ):
                for first, last in _stretches(numbers):
                    axes.plot(
                        [first - 0.5, last + 0.5],
                        [place, place],
                        color=colour(role),
                        linewidth=width,
                        linestyle=dashes,
                        solid_capstyle="butt",
                        clip_on=False,
                    )
            for role, marker, aside, numbers in (
                ("bad", "x", -0.26, row.failed),
                ("good", "^", 0.26, row.rejoined),
            ):
                for ink, edge in (("paper", 5.0), (role, 2.0 if marker == "x" else 1.0)):
                    axes.plot(
                        numbers,
                        [place + aside] * len(numbers),
                        linestyle="none",
                        marker=marker,
                        markersize=6.5,
                        markeredgewidth=edge,
                        color=colour(ink),
                        zorder=3,
                        clip_on=False,
                    )
        _frame(axes, [rounds[0] - 0.5, rounds[-1] + 0.5], str)
        axes.grid(visible=False)
        axes.set_yticks(range(len(rows)), [f"silo {row.silo}" for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        for place, row in enumerate(rows):
            text = f"{len(row.there)} of {len(rounds)}"
            axes.text(
                1.03, place, text, color=colour("ink"), va="center", transform=axes.get_yaxis_transform()
            )
        told = "; ".join(f"silo {row.silo}: {len(row.there)} of {len(rounds)} rounds" for row in rows)
        return inline(saved(), key, f"Rounds that silos took part in. {told}")


@contextmanager
def _axes(height: float, labels: Sequence[str]) -> Iterator[tuple[Axes, Callable[[], str]]]:
    """Axes of a figure of `height` with room for labels on their right, and what saves it.

    Nobody's own settings of Matplotlib are in it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        colours = {
            "axes.edgecolor": "muted",
            "grid.color": "grid",
            **dict.fromkeys(("xtick.color", "ytick.color", "axes.labelcolor"), "muted"),
        }
        style: Any = {**_STYLE, **{name: colour(role) for name, role in colours.items()}}
        mpl.rcParams.update(style)
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        right = max([RIGHT, *(_width(label) * ON_A_PHONE + 12 for label in labels)])
        size = (WIDTH - LEFT - right) / WIDTH, (height - TOP - BOTTOM) / height
        axes = figure.add_axes((LEFT / WIDTH, BOTTOM / height, *size))

        def saved() -> str:
            out = io.BytesIO()
            with warnings.catch_warnings(action="ignore"):
                figure.savefig(
                    out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
                )
            return out.getvalue().decode()

        yield axes, saved


def _width(text: str) -> float:
    """About how wide a text is, in 1/72 inch: a browser's font is its own, and seldom wider than this one."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=_STYLE["font.size"])
    with warnings.catch_warnings(action="ignore"):  # of characters that this font lacks
        return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def _frame(axes: Axes, x: Sequence[float], number: Number) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = min(x), max(x)
    axes.set_xlim(low - (low == high) * 0.5, high + (low == high) * 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: number(value)))
    axes.set_xlabel("round", loc="right", labelpad=1)


def _label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]], height: float) -> None:
    """Write labels to the right, at the heights of lines' ends, moved apart so that each can be read."""
    bottom, top = axes.get_ylim()
    ordered = sorted(labels, key=lambda one: one[0])
    wanted = [(value - bottom) / (top - bottom) * height for value, _, _ in ordered]
    for place, (_, text, role) in zip(_apart(wanted, height), ordered, strict=True):
        axes.text(
            1.03,
            place / height,
            text,
            transform=axes.transAxes,
            va="center_baseline",
            color=colour(role),
            fontweight="bold" if role == "ink" else "normal",
        )


def _apart(wanted: Sequence[float], height: float) -> list[float]:
    """Places in ascending order, `LINE_HEIGHT` apart and as near as can be to those that are wanted."""
    places: list[float] = []
    for one in wanted:
        places.append(max(one, places[-1] + LINE_HEIGHT) if places else max(one, 0.0))
    ceiling = height
    for index in range(len(places) - 1, -1, -1):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - LINE_HEIGHT
    return places


def _stretches(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each stretch of numbers that follow each other."""
    begun = 0
    for index, one in enumerate(numbers):
        if index + 1 == len(numbers) or numbers[index + 1] != one + 1:
            yield numbers[begun], one
            begun = index + 1


def _short(label: str) -> str:
    text = printable(label)
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
