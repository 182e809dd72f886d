"""Nobody is lost, or comes back, without a line that says so."""

from __future__ import annotations

import json

from silofl.federation.failure.membership_tracker import MembershipTracker


def test_who_is_lost_and_comes_back_between_two_lines_is_in_the_next_one_twice() -> None:
    tracker = MembershipTracker((0, 1, 2, 3))
    assert tracker.mark_failed((0, 1, 3)) == (2,)
    assert tracker.mark_failed((0, 1, 3)) == ()
    tracker.mark_rejoined((2,))
    assert tracker.mark_failed((0, 1, 2, 3)) == ()
    assert tracker.changes() == ((2,), (2,))
    assert tracker.changes() == ((), ())
    assert tracker.mark_failed((1, 2)) == (0, 3)
    assert tracker.changes() == ((0, 3), ())


def test_who_comes_back_reads_the_others_roll() -> None:
    tracker = MembershipTracker((0, 1, 2))
    tracker.mark_failed((0,))
    tracker.mark_rejoined((1,))
    copy = MembershipTracker.from_state(json.loads(json.dumps(tracker.state())))
    for one in (tracker, copy):
        one.mark_rejoined((2,))
    assert copy.mark_failed((0, 1)) == tracker.mark_failed((0, 1)) == (2,)
    assert copy.changes() == tracker.changes() == ((1, 2, 2), (1, 2))
