"""docs/threat-model.md leaves no adversary and no asset out, and claims nothing that no test shows."""

from __future__ import annotations

import re
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest
from tests.threat_table import ADVERSARIES, ASSETS, DOCUMENT, ROOT, Collected, faults, named

TEXT = DOCUMENT.read_text()
pytestmark = pytest.mark.threat_model


@pytest.fixture(scope="module")
def collected(request: pytest.FixtureRequest) -> Collected:
    """Of all tests that the document names: as this session has collected them, or else collected here."""
    items = {item.nodeid: item for item in request.config.stash[conftest.COLLECTED]}
    have = {nodeid.partition("[")[0] for nodeid in items}
    for path in {test.partition("::")[0] for test in set(named(TEXT)) - have}:
        if (ROOT / path).exists():
            module = pytest.Module.from_parent(request.session, path=ROOT / path)
            more = [item for item in module.collect() if isinstance(item, pytest.Item)]
            conftest.mark_groups(more)
            items |= {item.nodeid: item for item in more}
    found: dict[str, list[frozenset[str]]] = defaultdict(list)
    for nodeid, item in items.items():
        found[nodeid.partition("[")[0]].append(frozenset(mark.name for mark in item.iter_markers()))
    return found


def test_every_cell_is_there_and_what_it_names_is_run_by_make_test(collected: Collected) -> None:
    assert faults(TEXT, collected) == []
    assert TEXT.count("\n| an update |") == len(ADVERSARIES)


ROW = next(line for line in TEXT.splitlines() if line.startswith("| the ledger and epsilon"))
TEST = next(iter(named(ROW)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (ROW + "\n", "", f"{ADVERSARIES[0]}, the ledger and epsilon: no row"),
        (
            ROW,
            ROW.replace("the ledger and epsilon", "the ledger"),
            f"{ADVERSARIES[0]}, the ledger: no such row",
        ),
        (ROW, f"{ROW}\n{ROW}", f"{ADVERSARIES[0]}, the ledger and epsilon: two rows"),
        (ROW, "| the ledger and epsilon | It is signed. | | - |", "a claim without a test"),
        (ROW, "| the ledger and epsilon | Nothing: sign it. | |", "an empty cell"),
        (ROW, ROW.replace("[test_", "[its_", 1), "is no link to a test"),
        (TEST.partition("::")[2], "test_of_nothing", "::test_of_nothing does not exist"),
        (f"## {ADVERSARIES[-1]}", "## A backup", f"{ADVERSARIES[-1]}, {ASSETS[-1]}: no row"),
    ],
    ids=["no row", "another row", "two rows", "no test", "empty", "no link", "no such test", "no adversary"],
)
def test_a_document_that_claims_more_is_found(collected: Collected, old: str, new: str, said: str) -> None:
    assert old in TEXT
    assert any(said in fault for fault in faults(TEXT.replace(old, new, 1), collected))


@pytest.mark.parametrize(
    ("markers", "said"),
    [
        ([{"skip"}], "is skipped, or may be"),
        ([{"parametrize"}, {"parametrize", "skipif"}], "is skipped, or may be"),
        ([{"long"}], "is long"),
        ([{"slurm", "kernels"}], "is run by 2 groups"),
    ],
)
def test_a_test_that_is_not_run_is_found(collected: Collected, markers: Any, said: str) -> None:
    changed = {**collected, TEST: [frozenset(one) for one in markers]}
    if markers == [{"slurm", "kernels"}]:
        assert not any(TEST in fault for fault in faults(TEXT, collected))
    assert any(TEST in fault and said in fault for fault in faults(TEXT, changed))


def test_a_test_that_skips_itself_fails(request: pytest.FixtureRequest) -> None:
    report: Any = SimpleNamespace(skipped=True, outcome="skipped", longrepr=None)
    conftest.refuse_skipped(request.node, report)
    assert report.outcome == "failed"
    assert re.search(r"threat-model\.md", report.longrepr)
