"""The tables of docs/threat-model.md: their rows, the tests that they name, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "threat-model.md"
ADVERSARIES = (
    "The wire",
    "A curious silo",
    "A lying silo",
    "A lying server of a slice",
    "Colluders",
    "A thief of a disk",
    "A stale backup",
)
ASSETS = (
    "an update",
    "a record",
    "the model",
    "keys and identity",
    "the ledger and epsilon",
    "the run going on",
    "who takes part",
)
LINK = re.compile(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)( \(long\))?")
NOTHING = "Nothing:"
"""How a cell begins that no test has to show."""


@dataclass(frozen=True)
class Row:
    """One asset under one adversary."""

    adversary: str
    asset: str
    mechanism: str
    tests: str
    remains: str


def rows(text: str) -> list[Row]:
    """The rows of all tables under the headings of adversaries."""
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        adversary, _, body = section.partition("\n")
        for line in body.splitlines() if adversary in ADVERSARIES else ():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if line.startswith("|") and cells[0] != "asset" and set(cells[0]) != {"-"}:
                cells += [""] * (4 - len(cells))
                found.append(Row(adversary, *cells[:3], " ".join(cells[3:])))
    return found


def named(text: str) -> dict[str, bool]:
    """Ids of all tests that the document names, anywhere, and whether it says that one is long."""
    return {f"{path}::{test}": bool(long) for test, path, long in LINK.findall(text)}


def groups() -> dict[str, str]:
    """Which markers select what `make test` runs, by group."""
    makefile = (ROOT / "Makefile").read_text()
    listed = re.search(r"^GROUPS := (.*)$", makefile, re.MULTILINE)
    assert listed is not None
    rules = dict(re.findall(r'^test-([\w-]+):.*\n\t\$\(PYTEST\) -m "(.*)" tests$', makefile, re.MULTILINE))
    return {group: rules[group] for group in listed[1].split()}


def selected(expression: str, markers: frozenset[str]) -> bool:
    """Whether `pytest -m expression` runs a test that has these markers."""
    words = set(re.findall(r"[a-z_]+", expression)) - {"and", "or", "not"}
    return bool(eval(expression, {"__builtins__": {}}, {word: word in markers for word in words}))


Collected = Mapping[str, list[frozenset[str]]]
"""Markers of every item of a test, by the id without parameters."""


def faults(text: str, collected: Collected) -> list[str]:
    """What is wrong with the document, a sentence each."""
    return [*_faults_of_tables(rows(text)), *_faults_of_tests(named(text), collected)]


def _faults_of_tables(table: list[Row]) -> list[str]:
    found = []
    places = [(row.adversary, row.asset) for row in table]
    wanted = [(adversary, asset) for adversary in ADVERSARIES for asset in ASSETS]
    found += [
        f"{adversary}, {asset}: no row" for adversary, asset in wanted if (adversary, asset) not in places
    ]
    found += [f"{adversary}, {asset}: no such row" for adversary, asset in set(places) - set(wanted)]
    found += [
        f"{adversary}, {asset}: two rows"
        for adversary, asset in set(places)
        if places.count((adversary, asset)) > 1
    ]
    for row in table:
        cell = f"{row.adversary}, {row.asset}"
        if not row.mechanism or not row.remains:
            found.append(f"{cell}: an empty cell")
        if not LINK.search(row.tests) and not row.mechanism.startswith(NOTHING):
            found.append(f'{cell}: a claim without a test; begin it with "{NOTHING}" where nothing protects')
        if LINK.sub("", row.tests).strip(" ,"):
            found.append(f"{cell}: {LINK.sub('', row.tests).strip(' ,')!r} is no link to a test")
    return found


def _faults_of_tests(tests: dict[str, bool], collected: Collected) -> list[str]:
    found, run = [], groups()
    for test, long in tests.items():
        items = collected.get(test, [])
        if not items:
            found.append(f"{test} does not exist")
            continue
        if any({"skip", "skipif", "xfail"} & markers for markers in items):
            found.append(f"{test} is skipped, or may be")
        short = [markers for markers in items if "long" not in markers]
        if long == bool(short):
            found.append(f"{test} is {'not ' if long else ''}long")
        for markers in short:
            times = sum(selected(expression, markers) for expression in run.values())
            if times != 1:
                found.append(f"{test} is run by {times} groups of `make test`")
    return found
