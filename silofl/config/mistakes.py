"""What is wrong with a configuration, in one sentence that names key, value and remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from silofl.config import (
    attack_section,
    compress_section,
    personal_section,
    prune_section,
    robust_section,
    strategy_section,
    topology_section,
)
from silofl.config.synonyms import KEYS, SECTIONS

_EPSILON = (
    "privacy.target_epsilon (noise is made for the whole run to end at or below it) or privacy.max_epsilon "
    "(the noise stays as it is, and the run ends before a round that would exceed it)"
)
_NOISE = "privacy.noise_multiplier (standard deviation of the noise over privacy.clip_norm)"
MEANT = {
    "privacy": {
        **dict.fromkeys(("epsilon", "eps", "epsilon_budget", "budget"), _EPSILON),
        **dict.fromkeys(("sigma", "noise", "noise_scale", "noise_std", "noise_stddev"), _NOISE),
        **dict.fromkeys(("max_grad_norm", "l2_norm_clip", "max_norm", "clip", "clipping_norm"), "clip_norm"),
        **dict.fromkeys(("sampling_rate", "sampling_probability", "q"), "sample_rate"),
        **dict.fromkeys(("enabled", "enable", "level", "granularity"), "unit"),
        **dict.fromkeys(("target_delta", "max_delta"), "delta"),
        **dict.fromkeys(("adjacency", "neighbors", "neighboring_relation"), "neighbours"),
        **dict.fromkeys(("collusion", "adversaries"), "colluding"),
        **dict.fromkeys(("patient_column", "user_column", "owner"), "data.owner_column"),
    },
    "data": {
        **dict.fromkeys(("label", "label_column", "target_column", "outcome", "y"), "target"),
        **dict.fromkeys(("id_column", "identifier", "index"), "id"),
        **dict.fromkeys(("drop_columns", "ignore", "exclude"), "drop"),
        **dict.fromkeys(("features", "feature_columns", "usecols"), "columns"),
        **dict.fromkeys(("categories", "categorical_columns"), "categorical"),
        **dict.fromkeys(("fill_missing", "fillna", "imputation", "missing"), "impute"),
        **dict.fromkeys(("patient", "patient_id", "patient_column", "user", "user_id"), "owner_column"),
        **dict.fromkeys(("file", "files", "folder", "dir"), "path"),
    },
    "train": {
        **dict.fromkeys(("learning_rate", "eta"), "lr"),
        **dict.fromkeys(("local_epochs", "num_epochs"), "epochs"),
        **dict.fromkeys(("local_steps", "max_steps"), "steps"),
    },
    "task": dict.fromkeys(("label_column", "label", "target"), "data.target"),
    "run": dict.fromkeys(("num_rounds", "n_rounds", "communication_rounds"), "rounds"),
}
"""By section, names that other libraries and papers have for keys, and the key that is meant; one with a dot
is of another section, and a text with a space the whole answer."""
FAMILIES: dict[str, Mapping[str, type[BaseModel]]] = {
    "strategy": strategy_section.SECTIONS,
    "personal": personal_section.SECTIONS,
    "compress": compress_section.SECTIONS,
    "prune": prune_section.SECTIONS,
    "topology": topology_section.SECTIONS,
    "robust": robust_section.SECTIONS,
    "attack": attack_section.SECTIONS,
}
"""Sections whose keys are those of the member of a family that they name."""
_ALIKE = 0.75
"""From which similarity on a key of another section is thought to be meant."""
_NEAR = 0.6
"""Likewise of one's own section: below it nothing is suggested."""


def sentence(error: ValidationError, sections: dict[str, Any]) -> str:
    """The first problem; `sections` are the fields of the whole configuration, by name."""
    problem = error.errors()[0]
    loc, kind, value = list(problem["loc"]), problem["type"], problem["input"]
    family = FAMILIES.get(str(loc[0])) if loc else None
    tag = str(loc.pop(1)) if family and len(loc) > 1 else ""  # a union names its member
    where = ".".join(str(part) for part in loc if isinstance(part, str))
    if len(loc) > 2 and kind in ("extra_forbidden", "missing"):
        return _of_inner_table(where, missing=kind == "missing", known=_inner_keys(loc, sections))
    if kind == "extra_forbidden":
        return _unknown_section(where, value, sections) if len(loc) == 1 else _unknown_key(loc, tag, sections)
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if kind == "union_tag_invalid":
        return _unknown_member(str(loc[0]), value["name"])
    text = problem["msg"].removeprefix("Input should be ")
    if (name := where.partition(".literal[")[0]) != where:  # one of several kinds that a value may be
        where, text = name, f"{text}, or another kind of value that silofl config {name} tells of"
    if kind == "model_type" and len(loc) > 1:
        text = f"a table of {', '.join(_inner_keys([*loc, ''], sections))}"
    if kind == "tuple_type":
        text = f"a list, such as {json.dumps([value], default=str)}"
    if kind == "union_tag_not_found":
        text = f"a valid dictionary or instance of {str(loc[0]).capitalize()}Config"
    return f"{where} = {value!r} is not allowed: it should be {text}"


def _of_inner_table(where: str, *, missing: bool, known: list[str]) -> str:
    """Of a key of a table that is a value itself, such as `run.stop_when`."""
    table, _, key = where.rpartition(".")
    if missing:
        return f"{table} has no {key}: set it, as one of {', '.join(known)}"
    near = alike(key, known, _NEAR)
    hint = f"did you mean {table}.{near[0]}?" if near else f"{table} has {', '.join(known)}"
    return f"unknown key {where}: {hint}"


def _inner_keys(loc: list[Any], sections: dict[str, Any]) -> list[str]:
    """Those of the table in which a key is."""
    kind = sections[str(loc[0])].annotation.model_fields[str(loc[1])].annotation
    tables = [one for one in (kind, *get_args(kind)) if hasattr(one, "model_fields")]
    return list(tables[0].model_fields) if tables else []


def _unknown_section(name: str, value: Any, sections: dict[str, Any]) -> str:
    """Of a table that is no section, or of a key that stands in none."""
    if not isinstance(value, (dict, list)):
        meant = _meant("", name, _keys_by_section(sections))
        hint = f": did you mean {meant}?" if meant else f": write it below one of [{'], ['.join(sections)}]"
        return f"{name} stands in no section{hint}"
    word = name.lower().replace("-", "_")
    near = [SECTIONS[word]] if word in SECTIONS else alike(word, [*sections, *SECTIONS], _NEAR)
    hint = f"did you mean {SECTIONS.get(near[0], near[0])}?" if near else f"there are {', '.join(sections)}"
    return f"unknown section {name}: {hint}"


def _keys_by_section(sections: dict[str, Any]) -> dict[str, list[str]]:
    return {name: list(getattr(one.annotation, "model_fields", ())) for name, one in sections.items()}


def _common(family: Mapping[str, type[BaseModel]]) -> type[BaseModel]:
    """What all sections of a family have, and a member that has no section."""
    kind: type[BaseModel] = next(iter(family.values())).__bases__[0]
    return kind


def _unknown_key(loc: list[Any], member: str, sections: dict[str, Any]) -> str:
    section, key = str(loc[0]), str(loc[1])
    family = FAMILIES.get(section, {})
    kind: type[BaseModel] = family.get(member, _common(family)) if member else sections[section].annotation
    owners = [name for name, one in family.items() if key in one.model_fields]
    if owners:
        named = repr(member) if member in family else "another"
        return (
            f"{section}.{key} is a key of {either(owners)} and {section}.name is {named}, which has "
            f"{', '.join(kind.model_fields)}: remove it, or set {section}.name to {either(owners)}"
        )
    every = _keys_by_section(sections)
    every[section] = list(kind.model_fields)
    others = [name for one in family.values() for name in one.model_fields]  # each says whose it is
    if not alike(key, every[section]):
        every[section] += alike(key, others)
    meant = _meant(section, key, every)
    if not meant:
        return f"unknown key {section}.{key}: [{section}] has {', '.join(dict.fromkeys(every[section]))}"
    return f"unknown key {section}.{key}: did you mean {meant}?"


def _meant(section: str, key: str, every: dict[str, list[str]]) -> str:
    """What is meant by a key that `section` does not have, or by how that is misspelt; empty if nothing is.

    What others call a key of the section, or of any other; one that is spelt alike there; then one of another
    section, `every` one's by name; then one of its own that is less alike.
    """
    own, word = MEANT.get(section, {}), key.lower().replace("-", "_")
    known = [*every.get(section, ()), *own]
    near = alike(word, known)
    if word not in own and (word in KEYS or not near):
        elsewhere = _elsewhere(word, every)
        if elsewhere:
            return elsewhere
    near = near or alike(word, known, _NEAR) or [one for one in known if word and one.startswith(word)][:1]
    return _full(section, own.get(near[0], near[0])) if near else ""


def _elsewhere(word: str, every: dict[str, list[str]]) -> str:
    """What a word means in any section: by its name, as others call it, or spelt alike."""
    same = [f"{name}.{word}" for name, keys in every.items() if word in keys]
    if same:
        return " or ".join(same)
    if word in KEYS:
        return KEYS[word]
    for section, table in MEANT.items():
        if word in table:
            return _full(section, table[word])
    others = {f"{name}.{one}": _likeness(word, one) for name, keys in every.items() for one in keys}
    best = max(others.values(), default=0.0)
    return " or ".join(name for name, one in others.items() if one == best) if best >= _ALIKE else ""


def _full(section: str, name: str) -> str:
    return name if " " in name or "." in name else f"{section}.{name}"


def alike(word: str, known: list[str], cutoff: float = _ALIKE) -> list[str]:
    """The one of `known` that `word` is a misspelling of, if any."""
    return difflib.get_close_matches(word, known, n=1, cutoff=cutoff)


def _likeness(word: str, key: str) -> float:
    return difflib.SequenceMatcher(None, key, word).ratio()


def _unknown_member(section: str, name: Any) -> str:
    allowed = list(FAMILIES[section])
    near = alike(str(name).lower(), allowed, _NEAR)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{section}.name = {name!r} is not allowed: it should be {either(allowed)}{hint}"


def either(names: list[str]) -> str:
    """`'a'`, `'a' or 'b'`, `'a', 'b' or 'c'`."""
    *first, last = map(repr, names)
    return f"{', '.join(first)} or {last}" if first else last
