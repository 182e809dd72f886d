"""Parents, children and ancestors of processes."""

import os
import subprocess
import sys

import pytest

from silofl.launcher import process_tree

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")


def test_a_child_has_this_process_as_parent():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in process_tree.children_of(os.getpid())
        assert process_tree.parent_of(child.pid) == os.getpid()
        assert process_tree.children_of(child.pid) == []
    finally:
        child.communicate(b"\n")
    assert child.pid not in process_tree.children_of(os.getpid())


def test_a_process_that_has_ended_has_neither_parent_nor_children():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert process_tree.parent_of(ended.pid) is None
    assert process_tree.children_of(ended.pid) == []


def test_the_nearest_ancestor_is_the_parent():
    assert process_tree.launcher_pid() == os.getppid()
    program = "from silofl.launcher.process_tree import ancestor_executables as a; print(a()[0])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == os.path.realpath(f"/proc/{os.getpid()}/exe")
