"""Names are the field's: words that were private to this code stay out of it."""

from __future__ import annotations

import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = Path(__file__).name

RETIRED = {
    "add_up": "reduce",
    "add_words": "reduce",
    "against_privacy": "conflicts",
    "audience": "participants",
    "beat": "heartbeat",
    "Chronicle": "RunLogger",
    "Crew": "ElasticGroup",
    "crew": "group",
    "crowded": "oversubscribed",
    "Died": "SimulatedCrash",
    "drop_in": "secure_sum",
    "Ending": "Shutdown",
    "Fate": "World",
    "fit_to": "wrap",
    "fold_dequantize": "reduce_rows_dequantize",
    "fold_float": "reduce_rows_float",
    "forecast": "dry_run",
    "global_vector": "values, or a shared vector by its name",
    "handover": "rejoin_state",
    "heir": "successor",
    "hold_to_autograd": "check_gradients",
    "invitation": "spawn_info",
    "Invitation": "SpawnInfo",
    "journal": "release_log",
    "Journal": "ReleaseLog",
    "Keeper": "CheckpointManager",
    "keepers": "replicas",
    "KeyedRound": "SecAggRound",
    "largest_magnitude": "max_abs",
    "learn": "fit",
    "leave_note": "write_exit_status",
    "Meeting": "Collective",
    "MOST_COPIES": "MAX_REPLICAS",
    "MpiFacts": "MpiInfo",
    "NoisySum": "TransformedSum",
    "Offer": "MemfdSegment",
    "Opened": "OpenableSum",
    "outlook": "describe_policy",
    "Permit": "Authorizer",
    "PIECE_WORDS": "CHUNK_BYTES",
    "polite": "backoff",
    "Protection": "PrivacyEngine",
    "RanksLost": "RankFailedError",
    "recall": "respawn",
    "recalls": "respawns",
    "Reckoning": "EpsilonPrefetch",
    "Rehearsal": "FaultInjector",
    "Roll": "MembershipTracker",
    "Room": "Rendezvous",
    "shelf": "directory",
    "Shelf": "CheckpointDirectory",
    "Sums": "AggregationSpec",
    "survives_failures": "fault_tolerance_enabled",
    "take_turn": "stagger",
    "TakeAgain": "RetryRound",
    "Terms": "PrivacyParameters",
    "territories": "owned_ranges",
    "too_dear": "over_budget",
    "vault": "chunked_aead",
    "wait_politely": "wait_with_backoff",
    "WordAggregator": "Aggregator",
    "rehearsal": "fault_injector",
}
"""Identifiers that were renamed, and the field's term."""

PHRASES = {
    "a crew": "an elastic group",
    "the roll": "the membership",
    "whoever": "the rank that",
    "those who are left": "the survivors",
    "who are left": "the survivors",
    "NoisySum": "TransformedSum",
    "global_vector": "values",
}
"""Words of sentences, in documents and docstrings."""


@cache
def sources() -> list[Path]:
    folders = ("silofl", "kernels", "tests", "benchmarks", "examples")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if path.name != OWN)


ANY_RETIRED = re.compile(r"\b(" + "|".join(RETIRED) + r")\b")


@cache
def identifiers(path: Path) -> frozenset[str]:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return frozenset(token.string for token in tokens if token.type == tokenize.NAME)


def test_retired_identifiers_stay_out() -> None:
    found = [
        f"{path.relative_to(ROOT)} has {word}: say {RETIRED[word]}"
        for path in sources()
        if ANY_RETIRED.search(path.read_text())  # reading tokens takes a hundred times as long
        for word in sorted(identifiers(path) & RETIRED.keys())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("phrase", PHRASES)
def test_private_phrases_stay_out(phrase: str) -> None:
    texts = [path for path in sources() if path.parts[len(ROOT.parts)] in ("silofl", "kernels")]
    texts += [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    found = [str(path.relative_to(ROOT)) for path in texts if phrase in path.read_text()]
    assert not found, f"{phrase!r}: say {PHRASES[phrase]!r}"


CONVENTIONS = {"__init__", "base", "cli", "registry"}
"""Files that every package may have."""

ONE_THING = {
    "additive": "the shares and the sum of one protocol",
    "classification": "one class of several: its head, and the tasks that have it",
    "none": "the member of a family by which nothing is done",
}
"""Files of one name in several packages, and the one thing that they are about."""


def test_a_file_name_means_one_thing() -> None:
    """A benchmark has the name of what it measures."""
    homes: dict[str, set[str]] = {}
    for path in sources():
        parts = path.relative_to(ROOT).parts
        if parts[0] == "silofl" and parts[1] != "bench" and path.stem not in CONVENTIONS:
            homes.setdefault(path.stem, set()).add("/".join(parts[1:-1]))
    several = {name: sorted(found) for name, found in homes.items() if len(found) > 1}
    assert several.keys() == ONE_THING.keys(), several
