"""Graphs by their configured name, which is the name of their module."""

from __future__ import annotations

from silofl import families
from silofl.mixing import graphs
from silofl.mixing.graphs.base import Graph

GRAPHS: dict[str, type[Graph]] = {
    name: families.member_of(module, Graph)  # type: ignore[type-abstract]
    for name, module in families.modules_of(graphs).items()
}
"""What `topology.graph` may be."""
