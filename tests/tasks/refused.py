"""Files that are refused, and the one sentence that each ends in."""

import pytest

from silofl.config import parse
from silofl.errors import DataError
from silofl.tasks import build

GOOD = "a,b,label\n" + "1,2,0\n" * 5
"""A table that is taken."""


def stop_reason(path, **task):
    data = {"path": str(path), **({"target": task.pop("target")} if "target" in task else {})}
    task = task if "labels" in task else {"classes": 3, **task}
    built = build(parse({"task": {"name": "files", **task}, "data": data}))
    with pytest.raises(DataError) as caught:
        built.data(2, 4)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    assert "silo 2" in sentence
    return sentence


def csv(folder, text):
    path = folder / "mine.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
