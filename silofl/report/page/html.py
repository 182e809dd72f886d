"""The page: chapters in a template that escapes all text, styled by one sheet, without any script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from silofl.console import printable
from silofl.errors import MissingDependencyError
from silofl.report.lines import duration, value_text
from silofl.report.page.comparing import comparison, named
from silofl.report.page.course_parts import presence_part, privacy_part, time_part
from silofl.report.page.detection_parts import detection_part
from silofl.report.page.figures import require_matplotlib
from silofl.report.page.metric_parts import cross_site_part, metrics_part, silos_part
from silofl.report.page.page_parts import Chapter
from silofl.report.page.settings_parts import configuration_part, environment_part
from silofl.report.page.shared_files import SharedFiles
from silofl.report.page.words import bytes_text, plain_number, silos_told
from silofl.report.round_metrics import FIRST

POLICY = "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"
"""The page's Content-Security-Policy: one style sheet, by its digest, and nothing else at all."""
MOST_FACTS = 4
"""Metrics among the facts."""


def page_of(runs: Sequence[SharedFiles]) -> str:
    """One HTML file of the runs. Raises MissingDependencyError without what draws and writes it."""
    require_matplotlib()
    by_name = named(runs)
    chapters = [_chapter(name, run, f"r{k}") for k, (name, run) in enumerate(by_name.items())]
    if len(runs) > 1:
        chapters.insert(0, comparison(by_name))
    return _rendered(chapters)


def _chapter(name: str, run: SharedFiles, key: str) -> Chapter:
    """All that is known of one run."""
    parts = [
        metrics_part(run, key),
        presence_part(run, key),
        silos_part(run),
        detection_part(run),
        cross_site_part(run.cross_site),
        privacy_part(run, key),
        time_part(run, key),
        configuration_part(run),
        environment_part(run),
    ]
    return Chapter(name, _status(run), run.remarks, _facts(run), [part for part in parts if not part.empty])


def _status(run: SharedFiles) -> str:
    told = run.config
    strategy, task = (told.get(section, {}).get("name") for section in ("strategy", "task"))
    own = told.get("task", {}).get("factory")
    parts = [
        run.folder if run.folder != run.name else "",
        "finished" if run.summary is not None else "not finished",
        silos_told(run.silos) if run.silos else "",
        f"task {own or task}" if own or task else "",
        f"strategy {strategy}" if strategy else "",
        f"{run.summary.parameters:,} parameters"
        if run.summary is not None and run.summary.parameters
        else "",
    ]
    return " · ".join(part for part in parts if part)


def _facts(run: SharedFiles) -> list[tuple[str, str]]:
    """What is looked for first."""
    last = next((one for one in reversed(run.rounds) if one.means), None)
    means = {} if last is None else {k: v for k, v in last.means.items() if not isinstance(v, list)}
    names = [*(n for n in FIRST[::-1] if n in means), *(n for n in means if n not in FIRST)]
    facts = [(name, value_text(means[name])) for name in names[:MOST_FACTS]]
    spent = [one.epsilon for one in run.rounds if one.epsilon is not None]
    planned = run.config.get("run", {}).get("rounds")
    done = run.rounds[-1].round if run.rounds else 0
    facts.append(
        ("epsilon", plain_number(spent[-1]) if spent else ("unbounded" if run.private else "no noise"))
    )
    facts.append(
        ("rounds", f"{done} of {planned}" if isinstance(planned, int) and planned != done else str(done))
    )
    facts.append(("time", duration(sum(one.seconds for one in run.rounds))))
    if run.rounds:
        facts.append(
            ("sent a round", bytes_text(sum(one.bytes_sent for one in run.rounds) / len(run.rounds)))
        )
    return facts


def _rendered(chapters: Sequence[Chapter]) -> str:
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise MissingDependencyError(
            "silofl report writes with jinja2, which is not installed: pip install 'silofl[report]'"
        ) from None

    def shown(value: Any) -> Any:
        """Text of files, whose controls and marks of direction are written out."""
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    folder = resources.files(__package__)
    style = (folder / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=shown, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((folder / "template.html").read_text(encoding="utf-8"))
    return template.render(
        chapters=chapters,
        style=Markup(style),
        policy=POLICY.format(digest),
        drawn=Markup,
        several=len(chapters) > 1,
    )
