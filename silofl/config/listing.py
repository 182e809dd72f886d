"""`silofl strategies`: what six sections may name, with keys and papers."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from silofl import config as configuration
from silofl.attacks.base import Attack, LiveAttack
from silofl.attacks.registry import ATTACKS
from silofl.compression.base import Codec
from silofl.compression.registry import CODECS
from silofl.config.mistakes import either
from silofl.errors import ConfigError
from silofl.personal.registry import METHODS
from silofl.privacy.places import PLACES
from silofl.pruning.base import PruningRule, ScheduledRule
from silofl.pruning.registry import RULES
from silofl.robust.base import ResilientRule, RobustRule
from silofl.robust.registry import RULES as ROBUST
from silofl.strategies.base import Strategy
from silofl.strategies.registry import STRATEGIES

WIDTH = 110
EFFECTS = {
    "none": "one model for all silos",
    "part": "layers stay with their silo, in no sum and not in model.safetensors",
    "beside": "the shared model is as without it",
    "instead": "local steps are its own",
}


def listing(name: str | None = None) -> list[str]:
    """Lines on all members, or on those of one name. ConfigError where there is none."""
    families: list[tuple[str, str, Mapping[str, type[Any]]]] = [
        ("strategy", "how silos train together", STRATEGIES),
        ("personal", "a model of each silo's own", METHODS),
        ("compress", "fewer bytes between silos", CODECS),
        ("prune", "fewer weights, in all silos the same", RULES),
        ("robust", "in the place of means where silos may send anything", ROBUST),
        ("attack", "what some silos do wrong, in a rehearsal", ATTACKS),
    ]
    known = list(dict.fromkeys(member for _, _, members in families for member in members))
    if name is not None and name not in known:
        raise ConfigError(
            f"{name!r} is no strategy, personal method, codec, rule or attack: there are {either(known)}"
        )
    lines: list[str] = []
    for section, purpose, members in families:
        chosen = {key: kind for key, kind in members.items() if name in (None, key)}
        if chosen:
            lines += [f"[{section}]  {purpose}", ""]
        for member, kind in chosen.items():
            lines += [*_told(section, member, kind), ""]
    return lines[:-1]


def _told(section: str, name: str, kind: type[Any]) -> Iterator[str]:
    text = inspect.getdoc(kind) or ""
    yield f'  name = "{name}"'
    for paragraph in text.split("\n\n"):
        yield from textwrap.wrap(
            " ".join(paragraph.split()), WIDTH - 6, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    docs = docs_of(kind)
    for field in fields(kind):
        said = " ".join(docs.get(field.name, "").split())
        head = f"{field.name} = {toml_text(field.default)}"
        yield from textwrap.wrap(
            f"{head:24}{said}", WIDTH - 6, initial_indent=" " * 6, subsequent_indent=" " * 30
        )
    yield f"      {_about(section, kind)}"
    yield f"      with [privacy]: {_with_privacy(section, name, kind)}"


def _about(section: str, kind: type[Any]) -> str:
    """What a member is, as it states it."""
    if section == "strategy":
        return _strategy(kind)
    if section == "prune":
        return _pruning(kind)
    if section == "robust":
        return _robust(kind)
    if section == "attack":
        return _attack(kind)
    return _codec(kind) if section == "compress" else EFFECTS[kind.effect]


def _pruning(kind: type[PruningRule]) -> str:
    if not issubclass(kind, ScheduledRule):
        return "the model stays as dense as it is"
    return "a mask that all silos make from the global model; what is pruned is neither trained nor sent"


def _robust(kind: type[RobustRule]) -> str:
    if not issubclass(kind, ResilientRule):
        return "means by numbers of samples, which one silo can move anywhere"
    fewest = [kind(f=f).fewest(f) for f in (1, 2)]
    each = fewest[1] - fewest[0]
    needs = f"{each if each > 1 else ''} f + {fewest[0] - each} silos at least".strip()
    looks = "whole updates" if kind.whole else "each coordinate"
    return f"{needs}; looks at {looks}; needs every silo's own update"


def _attack(kind: type[Attack]) -> str:
    if not issubclass(kind, LiveAttack):
        return "every silo does as it should"
    parts = ["changes the attacker's training data"] if kind.poisons else []
    if kind.forge is not LiveAttack.forge:
        parts.append("sends another update than was learnt")
    return " and ".join(parts) + (", of what other silos learnt" if kind.colludes else "")


def _codec(kind: type[Codec]) -> str:
    sums = "goes under secure sums" if kind.linear else "goes in the clear alone"
    right = "right on average" if kind.unbiased else "biased"
    return f"{sums}; {right} without error feedback; with keys bits, rotation, error_feedback, too"


def _strategy(kind: type[Strategy]) -> str:
    parts = [f"sends {' and '.join(kind.sends)}", f"is given {' and '.join(kind.shared)}"]
    if kind.scalars:
        parts.append(f"and the numbers {', '.join(kind.scalars)}")
    parts.append("needs every silo's own update" if kind.needs == "rows" else "goes under secure sums")
    if kind.local_init is not Strategy.local_init or kind.streaming is not Strategy.streaming:
        parts.append("keeps a state in each silo's checkpoint")
    return "; ".join(parts)


def _with_privacy(section: str, name: str, kind: type[Any]) -> str:
    """With which units and places of [privacy] a configuration of it is taken."""
    table: dict[str, Any] = {"name": name}
    if getattr(kind, "needs_layers", False):
        table["layers"] = ["head.*"]
    if section == "compress":
        table["bits"] = 8

    def goes(unit: str, place: str) -> bool:
        noise: dict[str, Any] = {"unit": unit, "place": place, "noise_multiplier": 1.0}
        if unit == "example":
            noise["sample_rate"] = 0.1
        try:
            configuration.parse({section: table, "privacy": noise, "train": {"steps": 1}})
        except ConfigError:
            return False
        return True

    found = {unit: [place for place in PLACES if goes(unit, place)] for unit in ("example", "silo")}
    told = [f"unit {unit} (place {', '.join(places)})" for unit, places in found.items() if places]
    return " and ".join(told) or "refused"


_found_docs: dict[type[Any], dict[str, str]] = {}


def docs_of(kind: type[Any]) -> Mapping[str, str]:
    """The texts below the fields of a class, and of those of silofl that it inherits from."""
    if kind not in _found_docs:
        found: dict[str, str] = {}
        for one in reversed(kind.__mro__):
            if one.__module__.startswith(__name__.partition(".")[0]):
                found |= _own_docs(one)
        _found_docs[kind] = found
    return _found_docs[kind]


def _own_docs(kind: type[Any]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for one, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(one, ast.AnnAssign)
            and isinstance(one.target, ast.Name)
            and isinstance(after, ast.Expr)
        ):
            value = after.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[one.target.id] = value.value
    return found


def toml_text(value: Any) -> str:
    """A default as a file would have it; `unset` for none."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return (
        f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    )
