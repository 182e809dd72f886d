"""The privacy statement of a data set, from an institution's budget file: `silofl privacy FILE`."""

from __future__ import annotations

from pathlib import Path

import silofl
from silofl.config import PrivacyConfig
from silofl.errors import ConfigError
from silofl.federation.privacy.budget_file import BudgetFile
from silofl.federation.privacy.budget_place import SUFFIX
from silofl.privacy.accountant import Method
from silofl.privacy.ledger import Ledger
from silofl.privacy.places import PLACES
from silofl.privacy.spent_statement import Statement


def statement_of_budget(path: Path) -> Statement:
    """What all runs that a file counts have released of one data set, at the least delta of theirs.

    It speaks of the place that holds against fewest, and of as many colluding silos as any run did. Raises
    ConfigError for a file without releases, else the errors of `BudgetFile`.
    """
    if not path.name.endswith(SUFFIX):
        raise ConfigError(
            f"{path} is neither a run directory nor a budget file, which ends in {SUFFIX}: name one of them"
        )
    budget = BudgetFile(path)
    budget.update()
    if not budget.spendings:
        raise ConfigError(f"{path} counts no release: name a budget file, such as FOLDER/data.budget.jsonl")
    last, spent = budget.spendings[-1], budget.spent
    if spent is None:
        raise ConfigError(f"{path} counts a run whose noise was known to the observer: no epsilon holds")
    relations = {kind.neighbours for kind in spent}
    mechanisms = {kind.mechanism for kind in spent} - {"gaussian"}
    privacy = PrivacyConfig.model_validate(
        {
            "unit": last.unit,
            "neighbours": min(relations),
            "place": max((one.place for one in budget.spendings), key=_openness),
            "mechanism": max(mechanisms, default="discrete-gaussian"),
            "colluding": max(one.colluding for one in budget.spendings),
            "delta": min(one.delta for one in budget.spendings),
            "noise_multiplier": 1.0,
        }
    )
    ledger = Ledger()
    for release, count in spent.items():
        ledger.record(release, [0], count)
    runs = budget.runs
    prints = len({one.data for one in budget.spendings if one.data})  # statistics of columns have none
    facts = [
        ("runs", f"{runs}, with {len(budget.spendings)} releases"),
        ("fingerprints", f"{prints} of the data"),
    ]
    more = {"runs": runs, "releases": len(budget.spendings), "fingerprints": prints}
    methods = {one.method for one in budget.spendings}
    method: Method = "rdp" if "skellam" in mechanisms or methods == {"rdp"} else "pld"
    outside = ["runs that did not count here: with another privacy.budget_name, or without a budget_dir"]
    return Statement(
        f"a data set ({path})", silofl.__version__, privacy, ledger, facts, outside, more, method
    )


def _openness(place: str) -> tuple[bool, bool]:
    """Larger for a place that holds against fewer."""
    return not PLACES[place].holds_against_silos, not PLACES[place].alone
