"""The built-in tasks: what their data is, and that their models learn it."""

import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch.nn import functional

from silofl.config import parse
from silofl.errors import ConfigError, DataError, MissingDependencyError
from silofl.tasks import SiloData, build, packaged
from silofl.tasks.models import cnn, linear, mlp


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small are slower on two
    yield
    torch.set_num_threads(before)


def configured(name="digits", *, seed=0, data=None, **task):
    return build(parse({"run": {"seed": seed}, "task": {"name": name, **task}, "data": data or {}}))


def pooled(task, silos):
    parts = [task.data(silo, silos) for silo in range(silos)]
    return [
        torch.cat([dataset.tensors[k] for dataset in side])
        for side in zip(*parts, strict=True)
        for k in (0, 1)
    ]


def rows(x, y):
    """Samples as sorted rows, so that two data sets compare as multisets."""
    table = np.column_stack([np.asarray(x, dtype=np.float32).reshape(len(x), -1), y])
    return table[np.lexsort(table.T)]


@pytest.mark.covering(1)
@pytest.mark.parametrize("partition", ["iid", "dirichlet", "shards", "quantity", "features"])
@pytest.mark.parametrize("silos", [1, 2, 3, 5, 8])
def test_silos_hold_every_published_digit_once(partition, silos):
    x, y, test_x, test_y = pooled(configured(data={"partition": partition}), silos)
    pixels, labels = load_digits(return_X_y=True)
    assert np.array_equal(rows(torch.cat([x, test_x]), torch.cat([y, test_y])), rows(pixels / 16, labels))
    assert x.shape[1:] == (1, 8, 8)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert (x.min(), x.max()) == (0, 1)
    assert abs(len(test_y) / 1797 - 0.2) < 0.03


def test_silos_hold_every_patient_once_on_the_published_scale():
    x, y, test_x, test_y = pooled(configured("breast_cancer"), 4)
    measured, labels = load_breast_cancer(return_X_y=True)
    whole = torch.cat([x, test_x])
    assert whole.shape == (569, 30)
    assert whole.mean(dim=0).abs().max() < 1e-4
    assert (whole.std(dim=0, correction=0) - 1).abs().max() < 1e-5
    scaled = (measured - measured.mean(axis=0)) / measured.std(axis=0)
    assert np.allclose(rows(whole, torch.cat([y, test_y])), rows(scaled, labels), atol=1e-4)


def test_a_sample_has_one_role_at_any_silo():
    """Whatever the partitioner and the number of silos, and so however they overlap between runs."""
    first = pooled(configured(), 4)
    for silos, partition in ((1, "iid"), (3, "shards"), (6, "dirichlet")):
        again = pooled(configured(data={"partition": partition}), silos)
        assert np.array_equal(rows(*again[2:]), rows(*first[2:]))


def test_data_is_a_function_of_the_seed():
    first, again, other = (configured(seed=seed).data(1, 4).train.tensors[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize(("name", "silos"), [("digits", 899), ("breast_cancer", 285)])
def test_more_silos_than_samples(name, silos):
    with pytest.raises(ConfigError, match=f"{silos} silos cannot share .* samples"):
        configured(name).data(0, silos)


def test_a_silo_that_is_dealt_too_few_samples_is_refused():
    task, refused = configured("breast_cancer"), []
    for silo in range(40):
        try:
            assert len(task.data(silo, 200).train)
        except DataError as error:
            refused.append(str(error))
    assert 0 < len(refused) < 30
    sentence = r'silo \d+ has too few samples .* as data.partition = "iid" deals it \d for 200 .*fewer silos'
    assert all(re.match(sentence, text) for text in refused)


@pytest.mark.parametrize("name", ["breast_cancer", "synthetic"])
def test_a_cnn_for_rows_of_numbers_is_refused_at_once(name):
    with pytest.raises(ConfigError, match=r"task.model = 'cnn' needs images.*set task.model to 'mlp'"):
        configured(name, model="cnn")


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("model", "epochs", "least"), [("mlp", 10, 0.93), ("cnn", 8, 0.95), ("linear", 10, 0.9)]
)
def test_digits_are_learnt(model, epochs, least):
    torch.manual_seed(0)
    task = configured(model=model)
    x, y, test_x, test_y = pooled(task, 3)
    network = task.model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(32):
            optimizer.zero_grad()
            task.loss(network, (x[batch], y[batch])).backward()
            optimizer.step()
    with torch.no_grad():
        assert task.metrics(network, (test_x, test_y))["accuracy"] > least


def test_breast_cancer_is_learnt():
    torch.manual_seed(0)
    task = configured("breast_cancer")
    x, y, test_x, test_y = pooled(task, 4)
    network = task.model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        task.loss(network, (x, y)).backward()
        optimizer.step()
    assert task.metrics(network, (test_x, test_y))["accuracy"] > 0.93


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", ["mlp", "cnn", "linear"])
def test_loss_and_metrics_are_their_definitions_in_every_type(model, dtype):
    torch.manual_seed(0)
    task = configured(model=model)
    network = task.model().to(dtype)
    x, y = task.data(0, 20).train.tensors
    loss = task.loss(network, (x, y))
    logits = network(x.to(dtype))
    assert logits.dtype == dtype
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    log_p = functional.log_softmax(logits.double(), dim=1)
    assert abs(loss - -log_p[torch.arange(len(y)), y].mean()) < 1e-5
    right = sum(int(row.argmax() == label) for row, label in zip(logits, y, strict=True))
    assert task.metrics(network, (x, y))["accuracy"] == pytest.approx(right / len(y))
    loss.backward()
    assert all(parameter.grad.dtype == dtype for parameter in network.parameters())


def test_models_have_the_sizes_that_were_asked_for():
    def count(network):
        return sum(parameter.numel() for parameter in network.parameters())

    assert count(linear(60, 10)) == 610
    assert count(mlp(64, [32, 16], 10)) == 64 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10
    assert cnn(1, 28, 20, 7)(torch.zeros(3, 1, 28, 20)).shape == (3, 7)
    assert configured(hidden=[5]).model()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert isinstance(configured().data(0, 2), SiloData)


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_a_data_set_that_is_not_there_is_named(name, monkeypatch, tmp_path):
    task = configured(name)
    monkeypatch.setattr(packaged, "find_spec", lambda package: None)
    with pytest.raises(MissingDependencyError, match=f"data set {name}.csv.* is not there: install"):
        task.data(0, 2)
