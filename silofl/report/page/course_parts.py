"""A run's course: privacy spent, seconds, bytes, who took part, failures and returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from silofl.report.lines import duration, value_text
from silofl.report.page.figures import DASHES, MARKERS, Line, Presence, lines_figure, presence_figure
from silofl.report.page.page_parts import Drawing, Part, Table
from silofl.report.page.shared_files import SharedFiles
from silofl.report.page.words import bytes_text, plain_number, seconds_text
from silofl.report.round_metrics import RoundMetrics, silos_text

MOST_ROWS = 48
"""Silos of the figure of who took part; the table of silos has all."""
LEAST_SHARE = 0.02
"""Of a run's seconds, for a phase to have a line of its own."""
MOST_PHASES = 5
FAR_ABOVE = 5.0
"""A round of so many times the 95th percentile is cut off."""
MOST_EVENTS = 200
Rounds = Sequence[RoundMetrics]


def privacy_part(run: SharedFiles, key: str) -> Part:
    """Epsilon by round, and what is claimed."""
    claims = [] if run.summary is None else [run.summary.privacy, run.summary.outside]
    said = [f"{text[0].upper()}{text[1:]}." for text in claims if text]
    x, spent = [one.round for one in run.rounds], [one.epsilon for one in run.rounds]
    limits = run.config.get("privacy", {})
    name = next(
        (name for name in ("max_epsilon", "target_epsilon") if isinstance(limits.get(name), float)), None
    )
    bound = None if name is None else (name.split("_")[0], float(limits[name]))
    svg = lines_figure(
        f"{key}-e",
        "epsilon",
        [Line("spent", x, spent)],
        number=plain_number,
        value=value_text,
        bound=bound,
        from_zero=True,
    )
    delta = limits.get("delta")
    at = f" at delta {delta:g}" if isinstance(delta, float) else ""
    drawings = [Drawing("epsilon", svg, f"Spent by the end of each round{at}.")] if svg else []
    return Part("Privacy", said, drawings)


def time_part(run: SharedFiles, key: str) -> Part:
    """Seconds by phase and bytes, by round and in all."""
    rounds = run.rounds
    if not rounds:
        return Part("Time and traffic")
    x = [one.round for one in rounds]
    total = sum(one.seconds for one in rounds)
    phases = _phases(rounds)
    top, cut = _top_of(rounds)
    lines = [Line("round", x, [min(one.seconds, top) for one in rounds])]
    shown = [name for name in phases if phases[name] >= LEAST_SHARE * total][:MOST_PHASES]
    for place, name in enumerate(shown):
        own = [None if s is None else min(s, top) for one in rounds for s in [one.seconds_by_phase.get(name)]]
        lines.append(Line(name, x, own, f"s{place}", 1.2, DASHES[place + 1], MARKERS[place]))
    seconds = lines_figure(f"{key}-s", "seconds", lines, number=seconds_text, from_zero=True)
    sent = [float(one.bytes_sent) for one in rounds]
    traffic = lines_figure(f"{key}-b", "bytes", [Line("sent", x, sent)], number=bytes_text, from_zero=True)
    rows = [
        [
            name,
            seconds_text(spent),
            seconds_text(spent / len(rounds)),
            f"{spent / total:.0%}" if total else "–",
        ]
        for name, spent in phases.items()
    ]
    rows.append(["whole rounds", seconds_text(total), seconds_text(total / len(rounds)), "100%"])
    strong = frozenset((len(rows) - 1, column) for column in range(4))
    told = "Means over the silos that were in a phase; a round waits for the slowest."
    table = Table(
        "Seconds by phase", ["phase", "in all", "a round", "share"], rows, caption=told, strong=strong
    )
    drawings = [
        Drawing("Seconds", seconds, f"Of a round, and of its longest phases.{cut}"),
        Drawing(
            "Bytes",
            traffic,
            f"What rank 0 sent to others for sums, keys and the new model: {bytes_text(sum(sent))} in all.",
        ),
    ]
    for name, title, about in (
        ("density", "Density", "Part of the weights that pruning leaves."),
        ("clip_norm", "Clipping norm", "Of the next round, as it follows the silos' updates."),
    ):
        values = [getattr(one, name) for one in rounds]
        svg = lines_figure(f"{key}-{name}", title, [Line(title.lower(), x, values)], number=plain_number)
        drawings += [Drawing(title, svg, about)] if svg else []
    return Part("Time and traffic", (), drawings, [table])


def _top_of(rounds: Rounds) -> tuple[float, str]:
    """Where seconds are cut off, so that one slow round does not flatten all others; a sentence on which."""
    longest = sorted(one.seconds for one in rounds)
    top = longest[int(0.95 * (len(longest) - 1))] * FAR_ABOVE
    slow = [one for one in rounds if one.seconds > top]
    if not slow or not top:
        return math.inf, ""
    first = slow[0]
    more = f" and {len(slow) - 1} more" if len(slow) > 1 else ""
    return top, f" Cut off: round {first.round}, which took {duration(first.seconds)}{more}."


def _phases(rounds: Rounds) -> dict[str, float]:
    """Seconds of each phase in all rounds, the longest first."""
    names = dict.fromkeys(name for one in rounds for name in one.seconds_by_phase)
    sums = {name: sum(one.seconds_by_phase.get(name, 0.0) for one in rounds) for name in names}
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def presence_part(run: SharedFiles, key: str) -> Part:
    """Which silo took part in which round; failures and returns in order."""
    if not run.rounds or not run.silos:
        return Part("Who took part")
    rows = [
        Presence(
            silo,
            [one.round for one in run.rounds if silo in one.survivors],
            [one.round for one in run.rounds if one.drawn is not None and silo not in one.drawn],
            [one.round for one in run.rounds if silo in one.failed],
            [one.round for one in run.rounds if silo in one.rejoined],
        )
        for silo in range(min(run.silos, MOST_ROWS))
    ]
    svg = presence_figure(f"{key}-p", rows, [one.round for one in run.rounds])
    told = "A bar: its update is in the model."
    if any(row.failed for row in rows):
        told += " × it failed in that round."
    if any(row.rejoined for row in rows):
        told += " ▲ it came back before that round."
    if any(row.not_drawn for row in rows):
        told += " Dots: it was not drawn."
    if run.silos > MOST_ROWS:
        told += f" The first {MOST_ROWS} of {run.silos} silos."
    events = _events(run.rounds)
    said = [] if events else ["No silo failed."]
    if len(events) > MOST_EVENTS:
        said = [f"The first {MOST_EVENTS} of {len(events)} events."]
    table = Table(
        "Failures and returns", ["round", "after", "what happened"], events[:MOST_EVENTS], numbers=9
    )
    return Part("Who took part", said, [Drawing("Rounds by silo", svg, told)], [table] if events else [])


def _events(rounds: Rounds) -> list[list[str]]:
    """A row for each failure and each return: the round, the run's seconds by its end, what happened."""
    ends = accumulate(one.seconds for one in rounds)
    found = []
    for one, end in zip(rounds, ends, strict=True):
        if one.failed:
            took = f"the others went on after {one.recovery_seconds:.2f} s"
            found.append([str(one.round), duration(end), f"{silos_text(one.failed)} failed; {took}"])
        if one.rejoined:
            waited = one.seconds_by_phase.get("rejoin", 0.0)
            took = f", waited for {waited:.2f} s" if waited else ""
            found.append([str(one.round), duration(end), f"{silos_text(one.rejoined)} came back{took}"])
    return found
