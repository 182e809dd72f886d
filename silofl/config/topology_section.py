"""[topology]: one section for each arrangement of ranks, whose keys are the fields of its dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from silofl.config.member_section import any_of, section_of
from silofl.config.section import Section
from silofl.errors import ConfigError
from silofl.topologies.arrangements.hierarchical import LABEL
from silofl.topologies.arrangements.registry import ARRANGEMENTS, coordinators

DEFAULT = "sharded"
"""What a [topology] without a name means."""
OTHERS = "other"
"""Stands for topologies that have a class in `TOPOLOGIES` and no arrangement, and so no keys."""


class TopologyConfig(Section):
    """[topology]: how contributions become the next models. The other keys are those of the one named."""

    name: str = DEFAULT


SECTIONS = {name: section_of(name, kind, TopologyConfig) for name, kind in ARRANGEMENTS.items()}
"""The section of each arrangement."""

if TYPE_CHECKING:
    AnyTopology = TopologyConfig
else:
    AnyTopology = any_of({**SECTIONS, OTHERS: TopologyConfig}, DEFAULT, others=OTHERS)
"""The section of any topology, told apart by `name`."""


def coordinators_of(table: Any, ranks: int) -> tuple[int, ...]:
    """The ranks without data, of so many, by a file's [topology]; none where that is not right yet."""
    name = table.get("name", DEFAULT) if isinstance(table, dict) else DEFAULT
    if not isinstance(name, str) or name not in SECTIONS:
        return ()
    try:
        return coordinators(SECTIONS[name].model_validate(table), ranks)
    except ValidationError:
        return ()


def group_by_labels(table: Any, labels: Sequence[str]) -> None:
    """Put groups of ranks, by the `labels` of their institutions, in the place of "label" in a [topology].

    ConfigError where some institutions have a label and others none, or all have the same.
    """
    if not (isinstance(table, dict) and table.get("groups") == LABEL) or not any(labels):
        return
    if not all(labels):
        raise ConfigError(
            f'topology.groups = "{LABEL}" and institution number {labels.index("") + 1} has no label: give '
            "each one"
        )
    found = _nested([(tuple(label.split("/")), rank) for rank, label in enumerate(labels)])
    if len(found) == 1:
        raise ConfigError(f'topology.groups = "{LABEL}" and all labels are one: give two at least')
    table["groups"] = found


def _nested(labels: list[tuple[tuple[str, ...], int]]) -> list[Any]:
    """Groups of ranks by the first part of their labels, and within them by what is left."""
    by_first: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for (first, *rest), rank in labels:
        by_first.setdefault(first, []).append((tuple(rest), rank))
    return [_group(members) for members in by_first.values()]


def _group(members: list[tuple[tuple[str, ...], int]]) -> list[Any]:
    """The ranks of a group, or its own groups; those whose label ends here are one of these."""
    ending = [rank for rest, rank in members if not rest]
    inner = _nested([one for one in members if one[0]])
    if not inner:
        return ending
    return [*([ending] if ending else []), *inner] if ending or len(inner) > 1 else inner[0]
