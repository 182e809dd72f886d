"""[strategy]: one section for each strategy, whose keys are the fields of its dataclass."""

from __future__ import annotations

from dataclasses import fields
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import Discriminator, Tag, create_model

from silofl.config.sections import Section
from silofl.strategies.base import Strategy
from silofl.strategies.registry import STRATEGIES

DEFAULT = "fedavg"
"""What a [strategy] without a name means."""


class StrategyConfig(Section):
    """[strategy]: how silos train together. The other keys are the fields of the strategy that is named."""

    name: str


def _section(name: str, kind: type[Strategy]) -> type[StrategyConfig]:
    """The section of one strategy: constraints are those of the annotations of its fields."""
    hints = get_type_hints(kind, include_extras=True)
    keys: Any = {field.name: (hints[field.name], field.default) for field in fields(kind)}  # type: ignore[arg-type]
    keys = {"name": (Literal[name], name)} | keys
    return create_model(f"{kind.__name__}Config", __base__=StrategyConfig, __doc__=kind.__doc__, **keys)


SECTIONS: dict[str, type[StrategyConfig]] = {name: _section(name, kind) for name, kind in STRATEGIES.items()}
"""The section of each strategy."""


def _name_in(table: Any) -> str | None:
    """The name that a table, or a section, gives; None where it is neither."""
    name = table.get("name", DEFAULT) if isinstance(table, dict) else getattr(table, "name", None)
    return name if name is None or isinstance(name, str) else repr(name)


if TYPE_CHECKING:
    AnyStrategy = StrategyConfig
else:
    _members = [Annotated[section, Tag(name)] for name, section in SECTIONS.items()]
    AnyStrategy = Annotated[reduce(or_, _members), Discriminator(_name_in)]
"""The section of any strategy, told apart by `name`."""
