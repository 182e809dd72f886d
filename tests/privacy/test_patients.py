"""All records of one person as a unit: what they add to a sum, their role, and what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from silofl.comm.threads import run_in_threads
from silofl.config import parse
from silofl.crypto.noise_keys import NoiseKeys
from silofl.crypto.secret import Secret
from silofl.errors import ConfigError, SiloflError
from silofl.federation.loop import train
from silofl.federation.silo import Silo
from silofl.privacy.grid import FLOAT_MARGIN
from silofl.privacy.plan import Plan
from silofl.tasks import build
from silofl.tasks.base import SiloData
from silofl.training import clipped
from silofl.training.persons import Persons, Sample
from silofl.training.private import PrivateSteps, StepNoise
from silofl_kernels import Stream, discrete_gaussian
from tests.federation.test_privacy import Plain, federate, settings

CLIP_NORM, KINDS = 0.5, ("ghost", "hooks", "functorch")


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Owned(Plain):
    """`Plain` whose owners are told."""

    def __init__(self, owners: Any = None) -> None:
        self.owners = owners

    def data(self, silo: int, silos: int) -> SiloData:
        given = super().data(silo, silos)
        return SiloData(given.train, None, self.owners)


def steps(path: Path, owners: Any, **privacy: Any) -> tuple[PrivateSteps, Silo, Plan]:
    alone = privacy.get("place") == "local"
    strategy = {"name": "fedavg", "momentum": 0.0} if alone else {}
    config = settings(path, strategy=strategy, privacy={"clip_norm": CLIP_NORM} | privacy)
    silo = Silo(config, Owned(owners), 0, 4, "cpu")
    keys = NoiseKeys(Secret(bytes(32)), bytes(16), 0, run=bytes(16))
    gradients = silo.clipped_gradients(config.privacy)
    made = PrivateSteps(gradients, silo.model, silo.persons, 0.2, keys, silo.data_digest(), silo.counted)
    return made, silo, Plan(config.privacy, silo.model.size, 32, 4, silo.counted, 5, 3)


@pytest.mark.covering(0)
@pytest.mark.parametrize("clipping", KINDS)
def test_with_one_record_each_a_patient_is_an_example_to_the_last_bit(tmp_path: Path, clipping: str) -> None:
    owners = [f"p{k}" for k in np.random.default_rng(0).permutation(200)]
    sums, models = [], []
    for unit, whose in (("example", None), ("patient", owners)):
        made, silo, plan = steps(tmp_path, whose, unit=unit, clipping=clipping, place="local")
        assert silo.counted == 200
        sums.append(made.sum(1, 0)[0].numpy().copy())
        grid = plan.grid(1.0)
        optimizer = torch.optim.SGD(list(silo.model.module.parameters()), lr=0.1)
        made.train(optimizer, 3, StepNoise(grid, discrete_gaussian(grid.share)), 1, 0)
        models.append(silo.model.vector.numpy().copy())
    assert sums[0].tobytes() == sums[1].tobytes()
    assert models[0].tobytes() == models[1].tobytes()
    assert np.any(models[0])


@pytest.mark.parametrize("clipping", KINDS)
def test_a_patient_adds_the_clipped_mean_of_its_gradients(
    tmp_path: Path, clipping: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1 to 150 records, which pass through memory by 32."""
    monkeypatch.setitem(clipped.PHYSICAL, clipping, 32)
    owners = np.repeat(np.arange(4), (1, 2, 47, 150))
    made, silo, _ = steps(tmp_path, owners, unit="patient", clipping=clipping)
    gradients = made._gradients
    task, expected = Plain(), torch.zeros_like(silo.model.vector)
    x, y = task.data(0, 4).train.tensors  # type: ignore[attr-defined]
    parameters = list(silo.model.module.parameters())
    norms = []
    for person in range(4):
        mine = torch.from_numpy(np.flatnonzero(owners == person))
        mean = torch.autograd.grad(task.loss(silo.model.module, (x[mine], y[mine])), parameters)
        flat = torch.cat([one.flatten() for one in mean])
        norms.append(float(flat.norm()))
        expected += flat * min(1.0, CLIP_NORM / norms[-1])
    found, stats = gradients.sum(silo.persons.sample(np.arange(4), 0, None))
    assert max(norms) > CLIP_NORM
    assert stats.examples == 4
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    one, _ = gradients.sum(silo.persons.sample(np.array([3]), 0, None))
    assert float(one.norm()) <= CLIP_NORM


def test_a_patient_whose_gradient_is_not_finite_adds_nothing(tmp_path: Path) -> None:
    made, silo, _ = steps(tmp_path, np.repeat(np.arange(20), 10), unit="patient")
    gradients = made._gradients
    silo.train._tensors[0][3] = float("nan")  # type: ignore[index]
    gradients._proven = True
    total, stats = gradients.sum(silo.persons.sample(np.array([0, 5]), 0, None))
    assert stats.refused == 1
    assert bool(total.isfinite().all())


def test_of_many_records_so_many_are_drawn_as_the_configuration_says() -> None:
    persons = Persons(np.repeat(np.arange(3), (1, 4, 100)), 5)
    draws = Stream("aes-128-ctr", bytes(16))
    drawn = [persons.sample(np.arange(3), step, draws) for step in (0, 0, 1)]
    assert [len(group) for group in drawn[0].groups] == [4, 5]
    assert all(np.array_equal(a, b) for a, b in zip(drawn[0].groups, drawn[1].groups, strict=True))
    assert not np.array_equal(drawn[0].groups[1], drawn[2].groups[1])
    assert set(drawn[0].groups[1]) <= set(range(5, 105))
    one = Persons(np.repeat(np.arange(3), (1, 4, 100)), 1).sample(np.arange(3), 0, draws)
    assert one.groups == ()
    assert len(one.single) == one.persons == 3
    counts = np.zeros(105)
    for step in range(2000):
        for group in persons.sample(np.array([2]), step, draws).groups:
            counts[group] += 1
    assert 60 < counts[5:].min() <= counts[5:].max() < 140


def test_a_round_that_is_taken_again_has_the_same_persons_and_records(tmp_path: Path) -> None:
    """In another process, too; and other ones where a record is said to be another person's."""

    def total(owners: NDArray[np.int64], attempt: int = 0) -> bytes:
        made, _, _ = steps(tmp_path, owners, unit="patient", records_per_patient=2)
        return bytes(made.sum(3, attempt)[0].numpy().tobytes())

    owners = np.random.default_rng(4).integers(0, 40, 200)
    assert total(owners) == total(owners) != total(owners, 1)
    other = owners.copy()
    other[17] = other[18]
    assert total(other) != total(owners)
    digests = [steps(tmp_path, whose, unit="patient")[1].data_digest() for whose in (owners, other)]
    assert digests[0] != digests[1]


Rows = list[tuple[str, NDArray[np.float64], int]]


class File:
    """A table in which persons have records, and the clipped sum over all that train."""

    def __init__(self, path: Path, **more: Any) -> None:
        self.path = path / "mine.csv"
        data = {"path": str(self.path), "owner_column": "patient_id", "test_fraction": 0.3}
        self.config = parse(
            {
                "task": {"name": "files", "model": "linear", "classes": 2},
                "data": data,
                "privacy": {"unit": "patient", "noise_multiplier": 1.0, "clip_norm": CLIP_NORM, **more},
                "strategy": {"name": "fedsgd"},
            }
        )
        self.task: Any = build(self.config)

    def of(self, rows: Rows) -> NDArray[np.float64]:
        lines = ["a,patient_id,b,c,label"]
        lines += [f"{x[0]},{who},{x[1]},{x[2]},{label}" for who, x, label in rows]
        self.path.write_text("\n".join(lines))
        silo = Silo(self.config, self.task, 0, 1, "cpu")
        gradients = silo.clipped_gradients(self.config.privacy)
        gradients._proven = True
        everyone = silo.persons.sample(np.arange(len(silo.persons)), 0, None)
        total = gradients.sum(everyone)[0].double().numpy().copy()
        gradients.close()
        return total


def table(rng: np.random.Generator) -> Rows:
    sizes = [1, 1, 1, 2, 3, 5, 8, 20, 50] * 2
    return [
        (f"id-{person}", rng.normal(size=3), int(rng.integers(2)))
        for person, size in enumerate(sizes)
        for _ in range(size)
    ]


def test_all_records_of_a_person_move_the_sum_by_one_clipping_norm(tmp_path: Path) -> None:
    """Whatever is in them and however many there are: added, removed, more of them, or replaced by others."""
    rng, most = np.random.default_rng(1), 1 + FLOAT_MARGIN
    rows, of = table(rng), File(tmp_path).of
    before, largest = of(rows), 0.0
    for trial in range(24):
        size = (1, 2, 7, 300)[trial % 4]
        scale = (1.0, 1e3, 1e6)[trial % 3]
        wild: Rows = [(f"new-{trial}", scale * rng.normal(size=3), int(rng.integers(2))) for _ in range(size)]
        place = int(rng.integers(len(rows)))
        whom = rows[place][0]
        kept = [row for row in rows if row[0] != whom]
        as_whom: Rows = [(whom, x, label) for _, x, label in wild]
        for changed, units in (
            (rows[:place] + wild + rows[place:], 1),
            (kept, 1),
            (rows + as_whom, 2),
            (kept[:3] + as_whom + kept[3:], 2),
        ):
            by = float(np.linalg.norm(of(changed) - before)) / CLIP_NORM
            assert by <= most * units
            largest = max(largest, by / units)
    assert largest > 0.5


@pytest.mark.parametrize("unit", ["none", "example", "patient"])
def test_all_records_of_a_person_have_one_role_that_nobody_else_decides(tmp_path: Path, unit: str) -> None:
    rows = table(np.random.default_rng(2))
    more: dict[str, Any] = {} if unit == "none" else {"noise_multiplier": 1.0}
    config = parse(
        {
            "task": {"name": "files", "model": "linear", "classes": 2},
            "data": {"path": str(tmp_path / "t.csv"), "owner_column": "patient_id", "test_fraction": 0.5},
            "privacy": {"unit": unit, **more},
            "strategy": {"name": "fedavg" if unit == "none" else "fedsgd"},
        }
    )

    def trained(rows: Rows) -> set[str]:
        lines = ["a,b,c,patient_id,label"]
        lines += [f"{x[0]},{x[1]},{x[2]},{who},{label}" for who, x, label in rows]
        (tmp_path / "t.csv").write_text("\n".join(lines))
        task: Any = build(config)
        values = {np.float32(x[0]): who for who, x, _ in rows}
        train, test = task.data(0, 1)
        sides = [{values[np.float32(x)] for x in side.tensors[0][:, 0].numpy()} for side in (train, test)]
        assert not sides[0] & sides[1]
        assert train.tensors[0].shape[1] == 3
        return sides[0]

    every = {who for who, _, _ in rows}
    first = trained(rows)
    assert first
    assert first < every
    assert trained([row for row in rows if row[0] != "id-7"]) == first - {"id-7"}
    assert trained([*rows, ("id-3", np.ones(3) * 7, 0)]) == first


def test_a_task_that_tells_no_owners_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"silo 0: privacy.unit = \"patient\" needs to know whose"):
        steps(tmp_path, None, unit="patient")


def test_no_owner_is_told_or_written_and_a_resume_samples_alike(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [f"Musterperson-{k:03d}" for k in np.random.default_rng(3).integers(0, 60, 200)]

    def at(where: str, rounds: int) -> Any:
        return settings(
            tmp_path / where,
            run={"rounds": rounds},
            privacy={"unit": "patient", "records_per_patient": 2, "institutions_per_patient": 2},
            checkpoint={"key_file": str(tmp_path / "silo-{silo}.key")},
        )

    task: Any = Owned(names)
    results = federate(at("a", 2), task=task)
    assert all(not isinstance(one, SiloflError) for one in results), results
    resumed = federate(at("a", 3), task=task, resume=True)
    assert all(not isinstance(one, SiloflError) for one in resumed), resumed
    assert resumed[0]["epsilon"] > results[0]["epsilon"]
    assert "every patient" in (tmp_path / "a" / "run" / "summary.json").read_text()
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    told = capfd.readouterr()
    assert b"Musterperson" not in written
    assert "Musterperson" not in told.out + told.err


def test_more_institutions_than_silos_are_refused_on_all(tmp_path: Path) -> None:
    config = settings(tmp_path, privacy={"unit": "patient", "institutions_per_patient": 5})

    def rank(comm: Any) -> Any:
        try:
            return train(config, Owned(np.arange(200)), comm=comm)
        except SiloflError as error:
            return str(error)

    found = run_in_threads(4, rank, timeout_s=60)
    assert all("privacy.institutions_per_patient = 5 is more than the 4 silos" in str(one) for one in found)


def test_a_sample_of_examples_is_one_of_persons_with_one_record() -> None:
    sample = Sample(np.arange(3), (np.array([7, 9]),))
    assert sample.persons == 4
    assert sample.first.tolist() == [0, 1, 2, 7]
