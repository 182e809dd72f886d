"""No silo fails or rejoins without a line that says so, and a run knows when to resynchronize."""

from __future__ import annotations

import json

import pytest

from silofl.federation.failure.membership_tracker import MembershipTracker


def test_a_silo_that_fails_and_rejoins_between_two_lines_is_in_the_next_one_twice() -> None:
    tracker = MembershipTracker((0, 1, 2, 3))
    assert tracker.mark_failed((0, 1, 3)) == (2,)
    assert tracker.mark_failed((0, 1, 3)) == ()
    tracker.mark_rejoined((2,))
    assert tracker.mark_failed((0, 1, 2, 3)) == ()
    assert tracker.changes() == ((2,), (2,))
    assert tracker.changes() == ((), ())
    assert tracker.mark_failed((1, 2)) == (0, 3)
    assert tracker.changes() == ((0, 3), ())


def test_a_silo_that_rejoins_knows_what_survivors_know() -> None:
    tracker = MembershipTracker((0, 1, 2))
    tracker.mark_failed((0,))
    tracker.mark_rejoined((1,))
    copy = MembershipTracker((2,))
    copy.take_over(json.loads(json.dumps(tracker.rejoin_state())), None)
    for one in (tracker, copy):
        one.mark_rejoined((2,))
    assert copy.mark_failed((0, 1)) == tracker.mark_failed((0, 1)) == (2,)
    assert copy.changes() == tracker.changes() == ((1, 2, 2), (1, 2))


ALL = (0, 1, 2, 3)


def test_the_round_after_a_return_is_to_resynchronize() -> None:
    tracker = MembershipTracker(ALL)
    tracker.mark_failed((0, 1, 3))
    assert not tracker.resync
    tracker.mark_rejoined(())
    assert not tracker.resync
    tracker.mark_rejoined((2,))
    assert tracker.resync


@pytest.mark.parametrize("pending", [False, True])
def test_a_resumed_run_still_resynchronizes(pending: bool) -> None:
    """Where the job was killed between the return and the round after it, and where a silo was away."""
    killed = MembershipTracker(ALL)
    killed.mark_rejoined((2,) if pending else ())
    for committed_by in (ALL, (0, 1, 3), (0, 1)):
        flags = []
        for silo in ALL:
            resumed = MembershipTracker(ALL)
            member = silo in committed_by
            own = killed.state() if member else {"resync": not pending}  # of an earlier round
            resumed.restore(own, committed_by, member=member)
            flags.append(resumed.resync)
            assert resumed.changes() == ((), tuple(one for one in ALL if one not in committed_by))
        assert flags == [pending or committed_by != ALL] * len(ALL)


def test_a_silo_without_a_state_of_its_own_resynchronizes_with_the_others() -> None:
    tracker = MembershipTracker(ALL)
    tracker.restore(None, (0, 1, 3), member=False)
    assert tracker.resync
