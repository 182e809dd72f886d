"""The garbage collector's part in a start."""

import gc
import subprocess
import sys

import pytest

from silofl import startup

COMMAND = """
import gc, sys
from silofl import startup
began = []
startup.begin, begin = lambda: (began.append(1), begin()), startup.begin
sys.argv = ["silofl", *sys.argv[1:]]
from silofl.__main__ import main
try:
    main()
finally:
    print("began", len(began))
    print("looked through at its end", len(gc.get_objects()) > 1000)
"""


@pytest.fixture
def collector():
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_before_a_start_is_over(collector):
    startup.begin()
    assert not gc.isenabled()
    frozen = gc.get_freeze_count()
    startup.over()
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen, "what is there already would be looked through"


def test_a_program_of_the_user_s_keeps_its_ways(collector):
    frozen = gc.get_freeze_count()
    gc.disable()
    startup.over()
    assert not gc.isenabled()
    assert gc.get_freeze_count() == frozen


@pytest.mark.covering(0)
@pytest.mark.parametrize(("command", "began"), [("train", 1), ("check", 0)])
def test_ranks_alone_start_like_that(command, began):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, command, "nowhere.toml"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-2:] == [f"began {began}", "looked through at its end False"]
