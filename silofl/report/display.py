"""What rank 0 shows while a run goes on: plain lines, or one live table on a terminal or in a notebook."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console

from silofl.console import printable
from silofl.launcher.process_tree import launcher_pid
from silofl.report.live_display import LiveDisplay
from silofl.report.notebook_display import NotebookDisplay, in_notebook
from silofl.report.round_metrics import RoundMetrics
from silofl.report.text_display import TextDisplay

Kind = Literal["auto", "live", "plain", "none"]


class Display(Protocol):
    """Follows a run; calls never wait for other ranks."""

    def begin(self, plan: dict[str, Any]) -> None:
        """The run is about to start."""

    def notice(self, text: str) -> None:
        """Something worth a line of its own."""

    def round(self, metrics: RoundMetrics) -> None:
        """A round is over."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is over."""

    def close(self) -> None:
        """The run ended early; release what is held."""


class Displays:
    """Several displays as one; none at all on ranks other than 0."""

    def __init__(self, *displays: Display) -> None:
        self._displays = displays

    def begin(self, plan: dict[str, Any]) -> None:
        """The run is about to start."""
        for display in self._displays:
            display.begin(plan)

    def notice(self, text: str) -> None:
        """Something worth a line of its own; of what peers told, too, so that it is made `printable`."""
        for display in self._displays:
            display.notice(printable(text))

    def round(self, metrics: RoundMetrics) -> None:
        """A round is over."""
        for display in self._displays:
            display.round(metrics)

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is over."""
        for display in self._displays:
            display.finish(summary)

    def close(self) -> None:
        """The run ended early."""
        for display in self._displays:
            display.close()


def choose_display(kind: Kind, path: Path, *, leader: bool) -> Display:
    """The display for this rank: lines or a table on rank 0, silence elsewhere."""
    if not leader:
        return Displays()
    shown: list[Display] = []
    if kind == "live" or (kind == "auto" and on_terminal()):
        shown.append(LiveDisplay(Console(force_terminal=True)))
    elif kind == "auto" and in_notebook():
        shown.append(NotebookDisplay())
    elif kind != "none":
        shown.append(TextDisplay(sys.stdout))
    return Displays(*shown)


def on_terminal() -> bool:
    """Whether a person's terminal shows this process's output.

    Open MPI gives its ranks a pseudo-terminal even where its own output goes to a file, so the launcher's
    output is looked at, too.
    """
    if not sys.stdout.isatty():
        return False
    try:
        launcher = os.readlink(f"/proc/{launcher_pid()}/fd/1")
    except OSError:
        return True  # not Linux, or a parent that is not ours to look at
    return launcher.startswith(("/dev/pts/", "/dev/tty"))
