"""Serverless: every rank serves a slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from silofl.topologies.arrangements.base import Arrangement


@final
@dataclass(frozen=True)
class Sharded(Arrangement):
    """Each silo steps its own slice of the shared model."""

    gives_rows: ClassVar[bool] = True
    follows_samples: ClassVar[bool] = True
    any_pace: ClassVar[bool] = True
