"""A user's own task by its name, and every way to get that name wrong."""

import importlib.util
import sys

import pytest
import torch
from torch import nn

from silofl.config import parse
from silofl.errors import ConfigError, DataError
from silofl.tasks import build
from silofl.tasks.factory import from_factory
from silofl.tasks.factory_source import refuse_unfindable

SOURCE = """
import torch
from torch import nn
from silofl.errors import DataError

class Mine:
    def __init__(self, width=3):
        if width < 0:
            raise ValueError("width must not be negative\\nand more")
        if width == 0:
            raise DataError("no data for width 0: make it larger")
        self.width = width
    def model(self):
        return nn.Linear(self.width, 1)
    def data(self, silo, silos):
        return torch.utils.data.TensorDataset(torch.zeros(4, self.width)), None
    def loss(self, model, batch):
        return model(batch[0]).square().mean()
    def metrics(self, model, batch):
        return {}

class Half:
    loss = "low"
    def model(self): ...
    def data(self, silo, silos): ...

number = 7
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "mytask.py").write_text(SOURCE)
    (tmp_path / "needs.py").write_text("import absent_library.part\n")
    (tmp_path / "broken.py").write_text("def (\n")
    (tmp_path / "raises.py").write_text("raise RuntimeError('no licence\\nsecond line')\nclass Mine: ...\n")
    (tmp_path / "script.py").write_text("class Mine: ...\nraise SystemExit(2)\n")
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("from mytask import Mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("mytask", "needs", "broken", "raises", "mypackage", "mypackage.inner"):
        sys.modules.pop(name, None)


def made(factory, **options):
    return build(parse({"task": {"factory": factory, "options": options}}))


@pytest.mark.parametrize("factory", ["mytask:Mine", "mypackage.inner:Mine"])
def test_a_class_in_the_current_folder_is_built_with_its_options(factory):
    task = made(factory, width=5)
    assert isinstance(task.model(), nn.Linear)
    assert task.model().in_features == 5
    assert task.loss(task.model(), (torch.zeros(2, 5),)).shape == ()


@pytest.mark.parametrize(
    ("factory", "options", "sentence"),
    [
        ("mytask", {}, "task.factory = 'mytask' is not of the form package.module:Class"),
        (":Mine", {}, "task.factory = ':Mine' is not of the form package.module:Class"),
        ("mytask:", {}, "task.factory = 'mytask:' is not of the form package.module:Class"),
        ("my/task.py:Mine", {}, "task.factory = 'my/task.py:Mine' is not of the form package.module:Class"),
        ("a..b:Mine", {}, "task.factory = 'a..b:Mine' is not of the form package.module:Class"),
        (
            "nowhere:Mine",
            {},
            "task.factory = 'nowhere:Mine': there is no module nowhere: "
            "run in the folder that holds it or install it",
        ),
        (
            "task.py:Mine",
            {},
            "task.factory = 'task.py:Mine': there is no module task: it names a module, not a file: write "
            "task:Mine",
        ),
        (
            "mypackage.nothing:Mine",
            {},
            "task.factory = 'mypackage.nothing:Mine': there is no module mypackage.nothing: "
            "run in the folder that holds it or install it",
        ),
        (
            "needs:Mine",
            {},
            "task.factory = 'needs:Mine': there is no module absent_library: needs imports it; install it",
        ),
        (
            "broken:Mine",
            {},
            "task.factory = 'broken:Mine': importing broken failed: SyntaxError: "
            "invalid syntax (broken.py, line 1)",
        ),
        (
            "raises:Mine",
            {},
            "task.factory = 'raises:Mine': importing raises failed: RuntimeError at raises.py:1, in "
            "<module>; silofl check shows its text",
        ),
        (
            "script:Mine",
            {},
            "task.factory = 'script:Mine': importing script failed: it ends the program (SystemExit), as a "
            "script does: keep that below if __name__ == '__main__'",
        ),
        ("mytask:Mime", {}, "task.factory = 'mytask:Mime': mytask has no Mime: did you mean Mine?"),
        ("mytask:Zzzzzzz", {}, "task.factory = 'mytask:Zzzzzzz': mytask has no Zzzzzzz"),
        ("mytask:number", {}, "task.factory = 'mytask:number' is a int, not a class or function"),
        (
            "mytask:Half",
            {},
            "task.factory = 'mytask:Half' is no task: it has no method loss or metrics; "
            "a task has model, data, loss, metrics",
        ),
        (
            "mytask:Mine",
            {"depth": 2},
            "task.factory = 'mytask:Mine' failed with task.options ['depth']: TypeError: "
            "Mine.__init__() got an unexpected keyword argument 'depth'",
        ),
        (
            "mytask:Mine",
            {"width": -1},
            "task.factory = 'mytask:Mine' failed with task.options ['width']: ValueError at mytask.py:9, in "
            "__init__; silofl check shows its text",
        ),
    ],
)
def test_each_mistake_is_one_sentence(factory, options, sentence):
    with pytest.raises(ConfigError) as caught:
        made(factory, **options)
    assert str(caught.value) == sentence
    assert early(factory) in (sentence, "")


def early(factory):
    """What a look at the files finds wrong, without running them."""
    try:
        refuse_unfindable(factory)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "factory",
    [
        *("mytask", "a..b:Mine", "nowhere:Mine", "mypackage.nothing:Mine", "needs:Mine", "broken:Mine"),
        *("mytask:Mime", "queue:Mine", "absent.inner:Mine"),
    ],
)
def test_what_files_tell_is_told_before_anything_is_run(factory):
    loaded = set(sys.modules)
    assert early(factory).startswith(f"task.factory = {factory!r}")
    assert set(sys.modules) == loaded


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("class Mine: ...", "Mine"),
        ("from mytask import Mine as Yours", "Yours"),
        ("from mytask import *", "Mine"),
        ("def __getattr__(name): ...", "Mine"),
        ("globals()['Mine'] = 1", "Mine"),
        ("if True:\n    Mine = int", "Mine"),
        ("for Mine in (int,): pass", "Mine"),
        ("try:\n    import absent_library\nexcept ImportError: pass\nMine = 1", "Mine"),
        ("(Mine := int)", "Mine"),
        ("import json.decoder as Mine", "Mine"),
        ("from . import mytask\nclass Mine: ...", "Mine"),
        ("# coding: latin-1\n# \xe9\nclass Mine: ...", "Mine"),
    ],
)
def test_no_task_is_refused_for_how_its_file_is_written(tmp_path, source, name):
    (tmp_path / "odd.py").write_text(source, encoding="latin-1")
    assert early(f"odd:{name}") == ""


def test_a_package_that_finds_its_modules_itself_is_left_to_do_so(tmp_path):
    (tmp_path / "mypackage" / "__init__.py").write_text("__path__.append('/elsewhere')")
    assert early("mypackage.nothing:Mine") == ""
    assert early("torch:Mine") == ""  # loaded already: importing tells which is meant


def test_what_a_constructor_says_is_shown_where_one_person_s_process_is_all():
    with pytest.raises(ConfigError, match=r"ValueError: width must not be negative$"):
        from_factory("mytask:Mine", {"width": -1}, alone=True)


@pytest.mark.parametrize("library", ["torch", "silofl"])
def test_a_task_in_a_file_that_is_called_like_a_library(tmp_path, library):
    (tmp_path / f"{library}.py").write_text(SOURCE)
    with pytest.raises(ConfigError, match=f"{library} has no Mine: the library {library} is loaded, and not"):
        made(f"{library}:Mine")


def test_the_tasks_own_refusal_is_passed_on():
    with pytest.raises(DataError, match=r"^no data for width 0: make it larger$"):
        made("mytask:Mine", width=0)


def test_files_of_the_folder_hide_installed_modules_and_none_of_python_s(tmp_path):
    """Libraries load some of Python's only when they need them."""
    for name in ("this", "torchgen"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
        sys.modules.pop(name, None)
    made("mytask:Mine", width=5)
    found = {name: importlib.util.find_spec(name).origin for name in ("this", "torchgen", "torch")}
    assert found["torchgen"] == str(tmp_path / "torchgen.py")
    assert not any(found[name].startswith(str(tmp_path)) for name in ("this", "torch"))


def test_a_task_in_a_file_that_is_called_like_one_of_python_s(tmp_path):
    (tmp_path / "queue.py").write_text(SOURCE)
    with pytest.raises(ConfigError, match="'queue:Mine': Python has a module queue of its own; rename yours"):
        made("queue:Mine")
