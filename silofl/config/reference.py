"""Every key of a configuration, from its types: `silofl config`, `docs/configuration.md`, a JSON schema."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from silofl.config import LOCAL_KEYS, Config
from silofl.config.listing import WIDTH, docs_of, toml_text
from silofl.config.mistakes import FAMILIES, MEANT, alike
from silofl.config.section import Section
from silofl.errors import ConfigError

UNSET = "unset"
SHORT = (("RunConfig", "keep_best"), ("TrainConfig", "schedule"))
"""Keys of a table in whose place a text may stand."""
_MEMBERS = {
    "strategy": "strategies",
    "personal": "personal methods",
    "compress": "codecs",
    "prune": "rules of pruning",
    "topology": "topologies",
    "robust": "robust rules",
    "attack": "attacks",
}
_TOLD = {
    "topology": "`docs/topologies.md`",
}
"""What tells of a family's members, where `silofl strategies` does not."""


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        section, name: of it.
        kind: what its values are, in words, such as `integer above 0`.
        choices: its values as a file has them, where they are a few; else empty.
        default: as a file would have it, or `unset`.
        doc: what it does.
        members: of which members of the section's family it is; empty for all, and where there is none.
        local: whether each institution sets it for itself.
    """

    section: str
    name: str
    kind: str
    choices: tuple[str, ...]
    default: str
    doc: str
    members: tuple[str, ...] = ()
    local: bool = False

    @property
    def full(self) -> str:
        """`train.lr`."""
        return f"{self.section}.{self.name}"


def sections() -> dict[str, str]:
    """What each section is about, by name."""
    found = {}
    for name, field in Config.model_fields.items():
        text = inspect.getdoc(_base(name, field)) or ""
        found[name] = " ".join(text.split()).removeprefix(f"[{name}]: ").removeprefix(f"[{name}]")
    return found


@cache
def keys(section: str) -> tuple[Key, ...]:
    """All keys of a section, those of a family's members behind those that all have."""
    field = Config.model_fields[section]
    kind, family = _base(section, field), FAMILIES.get(section, {})
    docs = docs_of(kind)
    fields = {name: one for name, one in kind.model_fields.items() if name != "name"}
    found = [_key(section, name, one, docs) for name, one in fields.items()]
    if not family:
        named = kind.model_fields.get("name")
        return (*([] if named is None else [_key(section, "name", named, docs)]), *found)
    default = field.get_default().name
    first = Key(
        section,
        "name",
        "text",
        tuple(f'"{name}"' for name in family),
        f'"{default}"',
        f"Which of the {_MEMBERS[section]}; {_TOLD.get(section, '`silofl strategies`')} tells of each. It "
        "decides the other keys.",
    )
    return (first, *found, *_of_members(section, {*kind.model_fields, "name"}))


def _of_members(section: str, common: set[str]) -> Iterator[Key]:
    """Keys that some members have, once for each meaning."""
    by_meaning: dict[Key, list[str]] = {}
    for member, kind in FAMILIES[section].items():
        docs = _member_docs(section, member)
        for name, field in kind.model_fields.items():
            if name not in common:
                by_meaning.setdefault(_key(section, name, field, docs), []).append(member)
    for key, members in by_meaning.items():
        yield Key(**{**vars(key), "members": tuple(members)})


def _member_docs(section: str, member: str) -> Mapping[str, str]:
    from silofl.attacks.registry import ATTACKS
    from silofl.compression.registry import CODECS
    from silofl.personal.registry import METHODS
    from silofl.pruning.registry import RULES
    from silofl.robust.registry import RULES as ROBUST
    from silofl.strategies.registry import STRATEGIES
    from silofl.topologies.arrangements.registry import ARRANGEMENTS

    kinds: dict[str, Mapping[str, type[Any]]] = {
        "strategy": STRATEGIES,
        "personal": METHODS,
        "compress": CODECS,
        "prune": RULES,
        "topology": ARRANGEMENTS,
        "robust": ROBUST,
        "attack": ATTACKS,
    }
    return docs_of(kinds[section][member])


def _base(section: str, field: FieldInfo) -> type[Section]:
    """The section's class, of a family what all of its members have."""
    family = FAMILIES.get(section)
    kind: Any = field.annotation if family is None else next(iter(family.values())).__bases__[0]
    found: type[Section] = kind
    return found


def _key(section: str, name: str, field: FieldInfo, docs: Mapping[str, str]) -> Key:
    kind, choices = describe(field.annotation, field.metadata)
    default = field.get_default(call_default_factory=True)
    return Key(
        section,
        name,
        kind,
        choices,
        UNSET if default is None else _default_text(default),
        " ".join(docs.get(name, "").split()),
        local=(section, name) in LOCAL_KEYS,
    )


def _default_text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "[" + ", ".join(f'"{one}"' for one in value) + "]"
    if isinstance(value, tuple):
        return _default_text(list(value))
    if isinstance(value, Section):  # in short, as a text in its place is read
        return _default_text(next(iter(dict(value).values())))
    return toml_text(value)


def describe(kind: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> tuple[str, tuple[str, ...]]:
    """A type in words, and its values as a file has them where they are a few."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return describe(parts[0], [*_constraints(parts[1:]), *metadata])
    if origin in (Union, UnionType):
        return _union([one for one in parts if one is not NoneType], metadata)
    if origin is Literal or kind is bool:
        return "one of", ("true", "false") if kind is bool else tuple(map(toml_text, parts))
    if origin in (list, tuple, dict):
        of = _plural(describe(parts[origin is dict])[0])
        return f"table of {of} by name" if origin is dict else f"list of {of}", ()
    if isinstance(kind, type) and issubclass(kind, Section):
        return f"table of {', '.join(kind.model_fields)}", ()
    words: dict[Any, str] = {int: "integer", float: "number", str: "text", Any: "value"}
    return f"{words[kind]}{_limits(metadata)}", ()


def _union(parts: list[Any], metadata: Any) -> tuple[str, tuple[str, ...]]:
    told = [describe(one, metadata if one in (int, float) else ()) for one in parts]
    if len(told) == 1:
        return told[0]
    if all(kind == "one of" for kind, _ in told):
        return "one of", tuple(dict.fromkeys(choice for _, choices in told for choice in choices))
    return " or ".join(" or ".join(choices) if choices else kind for kind, choices in told), ()


def _constraints(parts: tuple[Any, ...]) -> list[Any]:
    return [one for part in parts for one in (part.metadata if isinstance(part, FieldInfo) else [part])]


def _limits(metadata: Any) -> str:
    """` above 0 and at most 1`, in words."""
    said = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    found: dict[str, Any] = {}
    for one in _constraints(tuple(metadata)):
        found |= {name: value for name in said if (value := getattr(one, name, None)) is not None}
    if "ge" in found and "le" in found:
        return f" from {found['ge']} to {found['le']}"
    huge = 2**31
    limits = [f"{said[name]} {value}" for name, value in found.items() if abs(value) < huge]
    return f" {' and '.join(limits)}" if limits else ""


def _plural(words: str) -> str:
    first, _, rest = words.partition(" ")
    several = first if first.endswith("s") or first == "one" else f"{first}s"
    return f"{several} {rest}".strip().replace("one of", "words")


def listing(name: str | None = None) -> list[str]:
    """Lines for people: all sections, the keys of one, or one key. ConfigError for what there is not."""
    every = sections()
    if name is None:
        width = max(map(len, every)) + 4
        lines = [line for one, text in every.items() for line in _wrapped(f"[{one}]", text, width)]
        return [*lines, "", "silofl config SECTION tells of its keys, silofl config SECTION.KEY of one"]
    section, _, key = name.strip("[]").partition(".")
    if section not in every:
        near = alike(section, list(every))
        hint = f": did you mean {near[0]}?" if near else f": there are {', '.join(every)}"
        meant = _meant_key(section, every)
        if meant and not key:
            hint = f", but a key {meant}: silofl config {meant} tells of it"
        raise ConfigError(f"there is no section {section!r}{hint}")
    found = list(keys(section))
    if key:
        names = [one.name for one in found]
        found = [one for one in found if one.name == key]
        if not found:
            near = alike(key, names)
            hint = f": did you mean {section}.{near[0]}?" if near else f": it has {', '.join(names)}"
            raise ConfigError(f"[{section}] has no key {key!r}{hint}")
    lines = [] if key else _wrapped(f"[{section}]", every[section], len(section) + 4)
    for one in found:
        lines += ["", *_told(one)]
    return lines[1:] if key else lines


def _meant_key(name: str, every: Iterable[str]) -> str:
    """The full name of a key that is called so, here or in other libraries; empty where there is none."""
    own = [f"{section}.{name}" for section in every if any(one.name == name for one in keys(section))]
    others = [
        word if "." in word else f"{section}.{word}"
        for section, names in MEANT.items()
        if " " not in (word := names.get(name, " "))
    ]
    return [*own, *others, ""][0]


def _told(key: Key) -> list[str]:
    head = f"{key.full} = {key.default}" if key.default != UNSET else f"{key.full}  (unset)"
    indent = " " * 4
    kind = f"one of {', '.join(key.choices)}" if key.choices else key.kind
    about = [kind, *([f"of {', '.join(key.members)}"] if key.members else [])]
    about += ["each institution's own"] if key.local else []
    return [
        head,
        *textwrap.wrap(key.doc.replace("`", ""), WIDTH, initial_indent=indent, subsequent_indent=indent),
        *textwrap.wrap("; ".join(about), WIDTH, initial_indent=indent, subsequent_indent=indent * 2),
    ]


def _wrapped(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{head:{width}}", subsequent_indent=" " * width)


_HEAD = """# Configuration reference

Made from the types by `silofl config --markdown`; `silofl config SECTION.KEY` tells the same on the command
line. `silofl config --schema` is a JSON schema, by which editors complete and check; `silofl init` writes it
beside a commented start, whose line `#:schema` names it. Every key can be set by `--set section.key=value`.
A key that is set and does nothing is refused.

*own*: each institution sets it for itself, also in its `[[institution]]`; all others are one for all silos.
"""


def markdown() -> str:
    """`docs/configuration.md`."""
    lines = [_HEAD]
    for section, text in sections().items():
        lines += [f"## [{section}]", "", _cell(f"{text[:1].upper()}{text[1:]}"), ""]
        lines += ["| key | type | default | |", "|---|---|---|---|"]
        lines += [_row(key) for key in keys(section)]
        lines.append("")
    return "\n".join(lines)


def _row(key: Key) -> str:
    kind = ", ".join(f"`{one}`" for one in key.choices) or key.kind
    own = " *own*" if key.local else ""
    of = f"*{', '.join(key.members)}*: " if key.members else ""
    default = key.default if key.default == UNSET else f"`{key.default}`"
    return f"| `{key.name}`{own} | {kind} | {default} | {of}{_cell(key.doc)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def schema() -> dict[str, Any]:
    """A JSON schema of configuration files, with what each key does."""
    made: dict[str, Any] = Config.model_json_schema()
    for section, field in Config.model_fields.items():
        family = FAMILIES.get(section, {})
        told = {(member, key.name): key for key in keys(section) for member in key.members or ("",)}
        own: dict[str, Any] = dict(family) or {"": field.annotation}
        for member, kind in own.items():
            table = made["$defs"][kind.__name__]
            table["description"] = sections()[section]
            if member and member != field.get_default().name:
                table["required"] = ["name"]  # else a section without a name would be of several members
            for name, one in table["properties"].items():
                key = told.get((member, name), told.get(("", name)))
                one["description"] = "" if key is None else key.doc
                one.pop("title", None)
    made["properties"]["institution"] = _institutions(made)
    data = made["$defs"]["DataConfig"]["properties"]
    data["standardize"] = {**data["standardize"], "enum": [False, True, "federated"]}
    for section, name in SHORT:
        table = made["$defs"][section]["properties"][name]
        kinds = table.pop("anyOf", None) or [{"$ref": table.pop("$ref")}]
        table["anyOf"] = [*kinds, {"type": "string"}]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **made,
        "title": "Configuration of silofl",
    }


def _institutions(made: Mapping[str, Any]) -> dict[str, Any]:
    """`[[institution]]`: see `silofl.config.institutions`."""
    own: dict[str, Any] = {}
    for section, key in sorted(LOCAL_KEYS - {("run", "display")}):
        kind: Any = Config.model_fields[section].annotation
        value = made["$defs"][kind.__name__]["properties"][key]
        table = own.setdefault(section, {"type": "object", "additionalProperties": False, "properties": {}})
        table["properties"][key] = value
    text = {"type": "string"}
    named = {
        "name": {**text, "description": "The institution's name, of which there is one each."},
        "host": {**text, "description": "Where `silofl launch` starts its rank; all have one, or none."},
        "identity": own["secure"]["properties"]["identity"],
        "device": own["train"]["properties"]["device"],
    }
    return {
        "type": "array",
        "description": "What each institution has of its own, in the order of the silos.",
        "items": {
            "type": "object",
            "properties": {**named, **own},
            "required": ["name"],
            "additionalProperties": False,
        },
    }
