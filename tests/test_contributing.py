"""CONTRIBUTING.md is true: its examples, added to a copy of the package as it says, run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"^`(silofl/[\w/]+\.py)`:\n\n```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE))
ONE_LINE = r"^`(silofl/[\w/]+\.py)`:(?:(?!^## ).)*?^The line: `(.*?)`"
LINES = dict(re.findall(ONE_LINE, TEXT, re.DOTALL | re.MULTILINE))
TABLES = {
    "silofl/tasks/stripes.py": ("silofl/tasks/registry.py", "TASKS"),
    "silofl/tasks/heads/counts.py": ("silofl/tasks/heads/__init__.py", "HEADS"),
    "silofl/aggregation/gathered.py": ("silofl/aggregation/protocols.py", "PROTOCOLS"),
    "silofl/aggregation/formats/unit.py": ("silofl/aggregation/formats/__init__.py", "FORMATS"),
    "silofl/privacy/places/majority.py": ("silofl/privacy/places/__init__.py", "PLACES"),
    "silofl/topologies/cautious.py": ("silofl/topologies/registry.py", "TOPOLOGIES"),
    "silofl/report/loggers/csv_lines.py": ("silofl/report/loggers/registry.py", "LOGGERS"),
}
"""Where the line of each example goes."""

TRAIN = """
import json, sys, torch
from silofl import config as configuration
from silofl.comm.threads import run_in_threads
from silofl.federation.loop import train
torch.set_num_threads(1)
for number, sections in enumerate(json.loads(sys.argv[2])):
    run = {"dir": f"{sys.argv[1]}/{number}", "display": "none", "rounds": 4, "loggers": ["csv_lines"]}
    task = {"name": "stripes", "model": "linear"}
    settings = configuration.parse({"run": run, "train": {"epochs": 1, "lr": 0.1}, "task": task} | sections)
    print(run_in_threads(3, lambda comm: train(settings, comm=comm), timeout_s=100)[0]["accuracy"])
"""


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with every example in its place."""
    root = tmp_path_factory.mktemp("contributing")
    shutil.copytree(ROOT / "silofl", root / "silofl")  # what is compiled already, too
    for name, text in FILES.items():
        assert not (root / name).exists()
        (root / name).write_text(text)
    for name, line in LINES.items():
        table, variable = root / TABLES[name][0], TABLES[name][1]
        kind = re.search(r"(\w+)(\(\))?,$", line)
        text = table.read_text()
        added = re.sub(rf"^({variable}\b.*?= {{)$", rf"\1\n    {line}", text, count=1, flags=re.MULTILINE)
        assert added != text, f"{table} has no table {variable}"
        home = name.removesuffix(".py").replace("/", ".")
        if kind is not None:  # else the line names the module itself
            added = added.replace("\nfrom silofl", f"\nfrom {home} import {kind[1]}\nfrom silofl", 1)
        table.write_text(added)
    return root


EXAMPLES: list[dict[str, dict[str, object]]] = [
    {"strategy": {"name": "fedavg"}},
    {"strategy": {"name": "signavg", "lr": 0.05}},
    {"personal": {"name": "interpolated", "own": 0.3}},
    {"compress": {"name": "neighbours_mean", "bits": 8, "error_feedback": True}},
    {"prune": {"name": "columns", "density": 0.5, "end": 3}},
    {
        "robust": {"name": "halves", "f": 1},
        "attack": {"name": "stubborn", "silos": [2]},
        "secure": {"protocol": "plain"},
    },
    {"secure": {"protocol": "gathered"}},
    {"topology": {"name": "cautious"}},
    {"privacy": {"unit": "silo", "place": "majority", "noise_multiplier": 0.02, "metrics": "exact"}},
]


def run(copied: Path, code: str, *arguments: str) -> str:
    """What a program prints that imports the copy."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=copied,
        env={**os.environ, "PYTHONPATH": f"{copied}:{ROOT / 'kernels'}"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def train(copied: Path, tmp_path: Path) -> list[float]:
    told = run(copied, TRAIN, str(tmp_path / "run"), json.dumps(EXAMPLES))
    return [float(line) for line in told.split()]


def test_every_family_has_its_example() -> None:
    folders = {name.split("/")[1] for name in FILES}
    assert folders == {
        "strategies",
        "compression",
        "pruning",
        "personal",
        "robust",
        "attacks",
        "tasks",
        "aggregation",
        "transforms",
        "privacy",
        "topologies",
        "report",
    }
    assert set(LINES) == set(TABLES)


def test_the_examples_train(copied: Path, tmp_path: Path) -> None:
    """The task is an example, too: all of them train on it."""
    accuracies = train(copied, tmp_path)
    assert len(accuracies) == len(EXAMPLES)
    assert len((tmp_path / "run/0/rounds.csv").read_text().splitlines()) == 5
    assert min(accuracies) > 0.9


def test_the_head_learns_and_predicts(copied: Path, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, torch; path = sys.argv[1] + '/n.csv';"
        "from silofl.config import parse; from silofl.tasks import build;"
        "rng = np.random.default_rng(0); x = rng.normal(size=200); y = rng.poisson(np.exp(1 + x));"
        "np.savetxt(path, np.c_[x, y], '%g', ',', header='a,n', comments='');"
        "task = {'name': 'files', 'head': 'counts', 'model': 'linear'};"
        "task = build(parse({'task': task, 'data': {'path': path, 'target': 'n'}}));"
        "batch = task.data(0, 1).train.tensors; model = task.model();"
        "ways = [list(model.parameters()), lambda w: torch.autograd.grad(task.loss(model, batch), w)];"
        "down = lambda w, g: w.data.sub_(0.1 * g);"  # an optimizer of torch's loads its compiler
        "[list(map(down, ways[0], ways[1](ways[0]))) for _ in range(200)];"
        "rate = task.head.decided(model(torch.tensor([[0.0], [1]])).detach().numpy());"
        "assert np.abs(np.log(rate) - [1, 2]).max() < 0.2, rate"
    )
    run(copied, code, str(tmp_path))


def test_the_transform_comes_off_the_sum(copied: Path) -> None:
    code = (
        "import numpy as np; from silofl.transforms.shift import Shift;"
        "from silofl.transforms.base import Slice;"
        "s = Shift(5, 3); x = np.arange(9.0); place = Slice(0, 1);"
        "total = sum(s.encode(x * k, place, np.empty(9)) for k in range(3));"
        "assert np.array_equal(s.decode(total, place), 3 * x)"
    )
    run(copied, code)


def test_the_place_has_more_noise_than_was_promised(copied: Path) -> None:
    """Six shares that an observer does not know, of which three are enough: twice the variance."""
    code = (
        "from silofl.config import PrivacyConfig; from silofl.privacy.plan import Plan;"
        "plans = [Plan(PrivacyConfig(unit='silo', place=name, noise_multiplier=2.0), 1000, 32, 7, 500, 1, 1)"
        " for name in ('distributed', 'majority')];"
        "one, other = (plan.of_sum(plan.grid(2.0), 7).noise_multiplier for plan in plans);"
        "assert abs(other / one - 2**0.5) < 1e-3, (one, other)"
    )
    run(copied, code)


def test_the_format_adds_up(copied: Path) -> None:
    """Three silos' values, weighed and masked, come back as their mean within three half steps."""
    code = (
        "import numpy as np; from silofl.aggregation.formats import format_of;"
        "from silofl.aggregation.formats.base import NO_RANGES, Weight;"
        "from silofl.aggregation.layout import Block; from silofl.aggregation.spec import VectorSpec;"
        "from silofl_kernels import MaskSet;"
        "on, off = (MaskSet('aes-128-ctr', [bytes(16)], [sign]) for sign in (1, -1));"
        "none = MaskSet('aes-128-ctr', [], []); spec = VectorSpec('x', 50, 'unit');"
        "form = format_of(spec).of(spec, 16, 3, stochastic=False);"
        "values = np.random.default_rng(0).uniform(-1, 1, (3, 50)); block = Block('x', 0, 50, 0, 50, 0);"
        "words = np.empty((3, 50), np.uint16);"
        "[form.encode(v, Weight(1 / 3, 1 / 3), NO_RANGES, None).write(block, row, masks)"
        " for v, row, masks in zip(values, words, (on, none, none))];"
        "out = np.empty(50); form.decode(block, words.sum(0, dtype=np.uint16), off, NO_RANGES, 1.0, out);"
        "assert np.abs(out - values.mean(0)).max() < 1.5 / 32700, out;"
        "assert form.encode(np.full(5, 2.0), Weight(1.0, 1.0), NO_RANGES, None).clipped == 5"
    )
    run(copied, code)


def test_the_commands_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", TEXT):
        assert re.search(rf"^[\w $()-]*\b{target}\b[\w $()-]*:", makefile, re.MULTILINE) or target in makefile
