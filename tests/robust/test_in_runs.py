"""Robust rules in runs of threads: against plain references, with a silo that dies, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from silofl import config as configuration
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError
from silofl.federation.dry_run import dry_run
from silofl.federation.early_checks import Start, robust_rule
from silofl.federation.loop import train
from silofl.robust.base import aggregate
from silofl.robust.registry import RULES
from silofl.strategies.fedavg import FedAvg
from silofl.topologies.robust_steps import RobustSteps
from tests.robust import naive as rules
from tests.strategies import naive
from tests.strategies.test_federated import FAULT, LR, STEPS, WITHOUT_2, Softmax, deaths
from tests.topologies.test_over_slices import SILOS, stepped, update

__all__ = ["deaths"]
ROUNDS = 8


def configured(path: Path, robust: dict[str, Any], *inject: str, **sections: Any) -> Any:
    tables: dict[str, Any] = {
        "run": {"name": "f", "dir": str(path), "display": "none", "rounds": ROUNDS},
        "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"},
        "secure": {"protocol": "plain"},
        "failure": {"policy": "shrink", "inject": list(inject)},
        "robust": robust,
    }
    return configuration.parse(tables | sections)


def run(config: Any, silos: int = 4, *, resume: bool = False) -> Any:
    def rank(comm: Any) -> Any:
        torch.set_num_threads(1)
        return train(config, Softmax(), comm=comm, resume=resume)

    run_in_threads(silos, rank, timeout_s=60)
    return load_file(Path(config.run.dir) / "model.safetensors")["weight"].ravel()


def reference(rule: Any, present: Any = None) -> Any:
    data, x = naive.silos(), np.zeros(naive.SIZE)
    for here in present or [naive.ALL[0]] * ROUNDS:
        x = x + rule(np.array([naive.descend(data[k], x, LR, STEPS) - x for k in here]))
    return x


@pytest.mark.usefixtures("deaths")
@pytest.mark.parametrize(("name", "fault"), [("median", ()), ("geometric_median", (FAULT,))])
def test_steps_are_by_what_the_rule_makes_of_the_updates(tmp_path: Path, name: str, fault: Any) -> None:
    model = run(configured(tmp_path, {"name": name, "f": 1}, *fault))
    present = WITHOUT_2[:ROUNDS] if fault else None
    expected = reference(lambda x: getattr(rules, name)(x, 1), present)
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dying", [-1, 2])
@pytest.mark.parametrize("name", ["geometric_median", "mean_around_median"])
def test_servers_of_slices_make_what_one_of_the_whole_would(name: str, dying: int) -> None:
    """Five slices, one of which a rank takes over whose server fails as the step begins."""
    rule: Any = RULES[name](f=1, clip=True)
    expected = aggregate(rule, [update(silo) for silo in range(SILOS)])
    found = stepped(RobustSteps(FedAvg(), rule, 0), "plain", dying=dying)
    assert [silo for silo, one in enumerate(found) if one is None] == [dying] * (dying >= 0)
    for one in found:
        assert one is None or np.array_equal(one, expected)


def test_what_a_rule_goes_on_from_is_there_after_a_resume(tmp_path: Path) -> None:
    robust = {"name": "centered_clipping", "f": 1, "radius": 0.1}
    center = np.zeros(naive.SIZE)

    def rule(x: Any) -> Any:
        nonlocal center
        lengths = np.linalg.norm(x - center, axis=1)[:, None]
        center = center + ((x - center) * np.minimum(1, 0.1 / lengths)).mean(axis=0)
        return center

    table = {"name": "f", "dir": str(tmp_path), "display": "none"}
    run(configured(tmp_path, robust, run={**table, "rounds": 3}))
    model = run(configured(tmp_path, robust, run={**table, "rounds": ROUNDS}), resume=True)
    np.testing.assert_allclose(model, reference(rule), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("robust", "sections", "silos", "said"),
    [
        ({"name": "krum", "f": 1}, {}, 4, r"^robust\.f = 1 is too large for 4 silos.*set it to 0"),
        (
            {"name": "median"},
            {"secure": {"protocol": "secagg"}},
            4,
            r'hides them in one sum.*set secure\.protocol = "plain"',
        ),
        ({"name": "median"}, {"secure": {}}, 4, r"hides them in one sum"),
        ({"name": "median"}, {"run": {"participation": 0.5}}, 4, r"run\.participation = 0\.5 leaves it to"),
        ({"name": "median", "f": 1}, {"run": {"silos_per_round": 2}}, 9, r"too large for 2 silos"),
        ({"name": "median", "f": 2, "bucket": 2}, {}, 8, r"too large for 4 buckets of 8 silos"),
        (
            {"name": "root_trust", "mix": True},
            {},
            4,
            r'^robust\.mix = true mixes the update that robust\.name = "root_trust"',
        ),
        (
            {"name": "root_trust", "root": 5},
            {"run": {"silos_per_round": 4}},
            9,
            r"^run\.silos_per_round = 4 draws rounds without silo 5, which robust\.root trusts",
        ),
    ],
    ids=str,
)
def test_a_rule_that_cannot_be_had_of_so_many_is_refused_early(
    tmp_path: Path, robust: Any, sections: Any, silos: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        robust_rule(Start(configured(tmp_path, robust, **sections), silos))


def test_a_dry_run_refuses_it_as_well(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^robust\.f = 1 is too large for 4 silos"):
        dry_run(configured(tmp_path, {"name": "krum", "f": 1}), 4)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"strategy": {"name": "fedexp"}}, "has each silo tell square and share"),
        ({"strategy": {"name": "fednova"}}, "has each silo tell"),
        ({"strategy": {"name": "streaming_diloco"}}, "sums something else"),
        ({"compress": {"bits": 8}}, r"\[compress\] .* gives sums alone"),
        ({"prune": {"name": "magnitude", "end": 5}}, r"\[prune\] gives sums alone"),
        (
            {"privacy": {"unit": "silo", "noise_multiplier": 1.0, "sample_rate": 0.1}},
            r'set privacy\.place = "local"',
        ),
        ({"robust": {"name": "krumm"}}, "krum"),
        ({"robust": {"name": "median", "redraw": 2}}, r"robust\.bucket = 1 has none"),
        ({"robust": {"name": "median", "radius": 1.0}}, "robust.radius is a key of 'centered_clipping'"),
    ],
    ids=str,
)
def test_what_a_rule_does_not_go_with_is_one_sentence(tmp_path: Path, sections: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(tmp_path, **{"robust": {"name": "median"}} | sections)


def test_the_summary_names_the_rule(tmp_path: Path) -> None:
    table = {"name": "f", "dir": str(tmp_path), "display": "none", "rounds": 1}
    run(configured(tmp_path, {"name": "median", "f": 1, "mix": True}, run=table))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["robust"] == "median with f = 1, of updates mixed"
    assert summary["rejected"] == []
