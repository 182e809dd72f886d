"""Where a rank runs and by which command, so that its silo can be started again just so."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from silofl.launcher import watchdog
from silofl.launcher.environment import RANK_VARIABLES


@dataclass(frozen=True)
class Place:
    """One rank's host and command line. Other ranks keep it; nobody prints it, for it holds paths."""

    host: str
    local_rank: int
    """Its index among the ranks of its node."""
    folder: str = field(default="", repr=False)
    """Its working directory."""
    arguments: tuple[str, ...] = field(default=(), repr=False)
    """What the program `env` starts it by: its variables, Python, and Python's own arguments."""

    @classmethod
    def own(cls, local_rank: int) -> Place:
        """This process's."""
        unset = [word for name in RANK_VARIABLES if name not in os.environ for word in ("-u", name)]
        given = [f"{name}={os.environ[name]}" for name in RANK_VARIABLES if name in os.environ]
        command = [sys.executable, *sys.orig_argv[1:]]
        arguments = (*unset, *given, f"{watchdog.RESPAWNED}=1", *command)
        return cls(socket.gethostname(), local_rank, os.getcwd(), arguments)

    def told(self, path: Path) -> str:
        """How other ranks are told of a folder: one below its working directory, from there."""
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def to_json(self) -> list[object]:
        """As a message."""
        return [self.host, self.local_rank, self.folder, list(self.arguments)]

    @classmethod
    def from_json(cls, told: Sequence[object]) -> Place:
        """From a message."""
        host, local_rank, folder, arguments = told
        assert isinstance(local_rank, int)
        assert isinstance(arguments, list)
        return cls(str(host), local_rank, str(folder), tuple(map(str, arguments)))
