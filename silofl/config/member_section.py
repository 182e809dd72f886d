"""Sections of families: one for each member, whose keys are the fields of its dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import Discriminator, Tag, create_model

from silofl.config.section import Section

Base = TypeVar("Base", bound=Section)


def section_of(name: str, kind: type[Any], base: type[Base]) -> type[Base]:
    """The section of one member: constraints are those of the annotations of its fields."""
    hints = get_type_hints(kind, include_extras=True)
    keys: Any = {field.name: (hints[field.name], field.default) for field in fields(kind)}
    keys = {"name": (Literal[name], name)} | keys
    return create_model(f"{kind.__name__}Config", __base__=base, __doc__=kind.__doc__, **keys)


def any_of(sections: Mapping[str, type[Section]], default: str, *, others: str | None = None) -> Any:
    """The type of a section of any member, told apart by `name`; `others` has those of unknown names."""

    def name_in(table: Any) -> str | None:
        """The name that a table, or a section, gives; None where it is neither."""
        name = table.get("name", default) if isinstance(table, dict) else getattr(table, "name", None)
        name = name if name is None or isinstance(name, str) else repr(name)
        return name if others is None or name in {None, *sections} else others

    members = [Annotated[section, Tag(name)] for name, section in sections.items()]
    return Annotated[reduce(or_, members), Discriminator(name_in)]
