"""Nobody is lost, or comes back, without a line that says so."""

from __future__ import annotations

import json

from silofl.federation.roll import Roll


def test_who_is_lost_and_comes_back_between_two_lines_is_in_the_next_one_twice() -> None:
    roll = Roll((0, 1, 2, 3))
    assert roll.strike((0, 1, 3)) == (2,)
    assert roll.strike((0, 1, 3)) == ()
    roll.enter((2,))
    assert roll.strike((0, 1, 2, 3)) == ()
    assert roll.since() == ((2,), (2,))
    assert roll.since() == ((), ())
    assert roll.strike((1, 2)) == (0, 3)
    assert roll.since() == ((0, 3), ())


def test_who_comes_back_reads_the_others_roll() -> None:
    roll = Roll((0, 1, 2))
    roll.strike((0,))
    roll.enter((1,))
    copy = Roll.taken_up(json.loads(json.dumps(roll.state())))
    for one in (roll, copy):
        one.enter((2,))
    assert copy.strike((0, 1)) == roll.strike((0, 1)) == (2,)
    assert copy.since() == roll.since() == ((1, 2, 2), (1, 2))
