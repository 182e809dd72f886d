"""The file of a model: all keys under their plain names, and what cannot be written is said beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.errors import DataError
from silofl.federation.silo import Silo
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches
from silofl.training.evaluate import evaluate
from silofl.training.flat import FlatModel
from silofl.training.publication import left_out, published, refuse_unpublishable

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3).requires_grad_(False))


def partly_compiled() -> nn.Module:
    module = network()
    return nn.Sequential(torch.compile(module[0], backend="eager"), module[1], module[2])


@pytest.mark.long
@pytest.mark.covering(0)
@pytest.mark.parametrize("build", [lambda: torch.compile(network(), backend="eager"), partly_compiled])
def test_a_compiled_model_has_the_names_of_the_plain_one(build: Any) -> None:
    model, plain = FlatModel(build(), torch.float32, CPU, ("1.weight",)), network()
    assert model.tensor_names == ["0.weight", "0.bias", "1.bias"]
    assert model.fingerprint() == FlatModel(plain, torch.float32, CPU, ("1.weight",)).fingerprint()
    arrays = published(model, np.arange(model.size, dtype=np.float32))
    assert set(arrays) == set(network().state_dict()) - {"1.weight"}
    network().load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)
    model.module(torch.randn(6, 5)).sum().backward()
    model.check()


class Extra(nn.Linear):
    """A layer with state that is no tensor, or one of its own."""

    def __init__(self, state: Any) -> None:
        super().__init__(5, 3)
        self.state = state

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state


class Only:
    """A task with a model and no more than it takes to be one."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def model(self) -> nn.Module:
        return self._module

    def data(self, silo: int, silos: int) -> Any:
        return TensorDataset(torch.zeros(2, 5), torch.zeros(2, 3)), None

    def loss(self, model: nn.Module, batch: Any) -> Any:
        return (model(batch[0]) - batch[1]).square().mean()

    def metrics(self, model: nn.Module, batch: Any) -> Any:
        return {}


@pytest.mark.parametrize("state", [{"scale": 1.0}, b"bytes", torch.zeros(3)], ids=["dict", "bytes", "tensor"])
def test_extra_state_is_left_out_and_that_is_said(state: Any) -> None:
    silo = Silo(configuration.parse({}), Only(Extra(state)), 0, 1, "cpu")
    assert set(silo.export(silo.initial())) == {"weight", "bias"}
    (notice,) = silo.notices()
    assert notice.startswith("_extra_state of the model is neither shared nor kept")
    assert Silo(configuration.parse({}), Only(nn.Linear(5, 3)), 0, 1, "cpu").notices() == []


def test_a_cache_that_the_models_type_rounds_is_noticed() -> None:
    class Turning(nn.Module):  # frequencies as of rotary positions, which are built anew and not loaded
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(5, 3)
            self.register_buffer("halves", 0.5 ** torch.arange(5), persistent=False)
            self.register_buffer("frequencies", 10000.0 ** (-torch.arange(5) / 5), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(x * self.get_buffer("frequencies") * self.get_buffer("halves"))
            return out

    def notices(dtype: str) -> list[str]:
        return Silo(configuration.parse({"train": {"dtype": dtype}}), Only(Turning()), 0, 1, "cpu").notices()

    (notice,) = notices("bfloat16")
    assert notice.startswith(
        "train.dtype rounds frequencies of the model, which is no part of the state dict"
    )
    assert notices("float32") == notices("float64") == []


class Copies(nn.Linear):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {name: tensor.clone() for name, tensor in super().state_dict(*args, **kwargs).items()}


class Adapters(nn.Linear):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {"weight": super().state_dict(*args, **kwargs)["weight"]}


@pytest.mark.parametrize(("kind", "name"), [(Copies, "weight"), (Adapters, "bias")])
def test_a_state_dict_without_what_is_shared_is_refused_before_anything_is_trained(
    kind: type[nn.Linear], name: str
) -> None:
    with pytest.raises(DataError, match=rf"the state_dict\(\) .* leaves out {name}, which is shared"):
        Silo(configuration.parse({}), Only(kind(5, 3)), 0, 1, "cpu")


def test_a_name_that_makes_the_file_unreadable_is_refused() -> None:
    module = nn.Linear(5, 3)
    module.register_buffer("__metadata__", torch.zeros(2))
    with pytest.raises(DataError, match="a tensor by the name __metadata__, which safetensors keeps"):
        Silo(configuration.parse({}), Only(module), 0, 1, "cpu")


def test_names_that_a_hook_makes_are_kept_and_nothing_private_slips_through() -> None:
    def rename(module: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
        for name in list(state):
            state[f"net.{name}"] = state.pop(name)

    module = network()
    module.register_state_dict_post_hook(rename)
    model = FlatModel(module, torch.float32, CPU, ("1.weight", "1.running_mean", "1.running_var"))
    refuse_unpublishable(model)
    arrays = published(model, np.zeros(model.size, np.float32))
    assert set(arrays) == {f"net.{name}" for name in ("0.weight", "0.bias", "1.bias", "2.weight", "2.bias")}
    assert "net.1.weight" in left_out(model)


class Caching(nn.Linear):
    """Keeps a table for the longest batch so far, as rotary embeddings do for sequences."""

    table = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.table) < len(x):
            self.table = torch.linspace(1, 2, len(x))[:, None]
        return super().forward(x) * self.table[: len(x)]


def test_what_a_model_caches_while_it_is_evaluated_can_be_trained_with() -> None:
    model = FlatModel(Caching(5, 3), torch.float32, CPU)
    data = TensorDataset(torch.ones(9, 5), torch.zeros(9, 3))
    code = UserCode(0)
    found = evaluate(Only(model.module), model, Batches(data, torch.float32, CPU), 1024, code)
    found.finish(code)
    assert found.count == 9
    assert (found.own["loss"] or 0) > 0
    assert all(parameter.grad is None for parameter in model.module.parameters())
    model.module(torch.ones(2, 5)).sum().backward()
    assert model.module.weight.grad is not None
