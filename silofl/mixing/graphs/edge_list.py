"""Edge list: a graph of the user's own, from a file."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np

from silofl.mixing.graphs.base import Edges, Graph, reaches_all

Pairs = tuple[tuple[int, int], ...]


@final
@dataclass(frozen=True)
class EdgeList(Graph):
    """A graph from a file of pairs of silos, without direction.

    CSV with two numbers a line; or JSON, a list of such pairs or, as an object, each silo's neighbours. A
    silo that is lost leaves its edges, and no others take their place: what is left may fall into parts.
    """

    edges_file: str = ""
    """Path of that file, the same on every rank."""

    def refusal(self, silos: int) -> str | None:
        """See `Graph`."""
        if not self.edges_file:
            return 'topology.graph = "edge_list" needs the graph: set topology.edges_file to its path'
        try:
            pairs = self._pairs
        except (OSError, TypeError, ValueError) as error:
            return (
                f"topology.edges_file = {self.edges_file!r} has no graph ({_why(error)}): give CSV with two "
                "silos a line, or JSON with pairs of silos, or each silo's neighbours"
            )
        beyond = sorted({silo for pair in pairs for silo in pair if not 0 <= silo < silos})
        if beyond:
            return (
                f"topology.edges_file = {self.edges_file!r} names silo {beyond[0]}, and silos are 0 to "
                f"{silos - 1}: remove its edges"
            )
        if not reaches_all(self.edges(tuple(range(silos)), 0, 0)):
            return (
                f"topology.edges_file = {self.edges_file!r} is not connected: some silos would never hear "
                "of others; add edges between its parts"
            )
        return None

    def edges(self, silos: tuple[int, ...], step: int, seed: int) -> Edges:
        """See `Graph`: those of the file between silos that are there."""
        place = {silo: k for k, silo in enumerate(silos)}
        edges = np.zeros((len(silos), len(silos)), bool)
        for one, other in self._pairs:
            if one in place and other in place and one != other:
                edges[place[one], place[other]] = edges[place[other], place[one]] = True
        return edges

    @cached_property
    def _pairs(self) -> Pairs:
        text = Path(self.edges_file).read_text(encoding="utf-8")
        if text.lstrip()[:1] in ("[", "{"):
            return tuple(_pair(one) for one in _of_json(json.loads(text)))
        return tuple(_pair(row) for row in csv.reader(text.splitlines()) if any(map(str.strip, row)))


def _of_json(told: Any) -> list[Any]:
    if isinstance(told, dict):
        return [[silo, other] for silo, others in told.items() for other in _list(others)]
    return _list(told)


def _list(told: Any) -> list[Any]:
    if not isinstance(told, list):
        raise TypeError("no list")
    return told


def _pair(told: Any) -> tuple[int, int]:
    if not isinstance(told, list) or len(told) != 2:
        raise ValueError("not two silos in an edge")
    one, other = (int(str(part).strip()) for part in told)
    return one, other


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it is not of that form"
