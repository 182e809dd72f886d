"""A rank's command line, as another rank starts it again."""

import json
import os
import subprocess
import sys

from silofl.comm.respawn import Place

PROGRAM = """
import json, os
from silofl.comm.respawn import Place
print(json.dumps(Place.own(3).to_json()))
names = "OMP_NUM_THREADS", "XDG_STATE_HOME", "SILOFL_RESPAWNED"
print(json.dumps([os.environ.get(name) for name in names]))
"""


def started(command, folder, **more):
    keep = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    done = subprocess.run(command, cwd=folder, env=keep | more, capture_output=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_process_is_started_as_it_was(tmp_path):
    """Interpreter arguments, arguments, folder and variables; what the other has and it had not is unset."""
    command = [sys.executable, "-X", "utf8", "-c", PROGRAM, "train", "a b.toml"]
    told, variables = started(command, tmp_path, OMP_NUM_THREADS="3")
    assert variables == ["3", None, None]
    place = Place.from_json(told)
    assert place.local_rank == 3
    assert place.folder == str(tmp_path)
    again, now = started(
        ["env", *place.arguments], place.folder, XDG_STATE_HOME="/other", OMP_NUM_THREADS="1"
    )
    assert now == ["3", None, "1"]
    assert Place.from_json(again) == place


def test_a_command_line_is_not_shown():
    assert repr(Place("north", 0, "/data/north", ("python", "--set", "data.path=x.csv"))) == (
        "Place(host='north', local_rank=0)"
    )
