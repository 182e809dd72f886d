"""The device of a rank."""

import os

import pytest
import torch

from silofl import config as configuration
from silofl.errors import ConfigError, TrainingError
from silofl.federation.local_work import RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.fedavg import FedAvg
from silofl.training.device import device_name, prepare
from silofl.training.metric_states import Evaluation
from tests.training.test_divergence import Plain


@pytest.mark.parametrize(
    ("requested", "gpus", "local_rank", "name"),
    [
        ("auto", 0, 3, "cpu"),
        ("auto", 4, 3, "cuda:3"),
        ("auto", 2, 3, "cuda:1"),
        ("auto", 1, 3, "cuda:0"),
        ("cpu", 4, 1, "cpu"),
        ("cuda", 4, 5, "cuda:1"),
        ("cuda:2", 4, 0, "cuda:2"),
    ],
)
def test_device_of_a_rank(requested, gpus, local_rank, name):
    assert device_name(requested, gpus, local_rank) == name


@pytest.mark.parametrize(
    ("requested", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:4", 4), ("cuda:x", 4), ("tpu", 1)]
)
def test_a_device_that_is_not_there_is_refused(requested, gpus):
    with pytest.raises(ConfigError, match=r"train\.device is"):
        device_name(requested, gpus, 0)


def test_a_gpu_is_made_the_one_of_the_thread_and_adds_up_in_one_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    prepare(torch.device("cpu"))
    assert (torch.are_deterministic_algorithms_enabled(), chosen) == (False, [])
    try:
        prepare(torch.device("cuda:2"))
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert (chosen, os.environ["CUBLAS_WORKSPACE_CONFIG"]) == ([torch.device("cuda:2")], ":4096:8")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "has no memory left .* lower train.batch_size"),
        (
            torch.AcceleratorError("CUDA error: assert\nCompile with"),
            "CUDA error: assert: a GPU tells .* late",
        ),
    ],
)
@pytest.mark.parametrize("where", ["step", "evaluate"])
def test_what_a_gpu_says_late_or_lacks_is_one_sentence(
    error: Exception, said: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Silo(configuration.parse({}), Plain(), 1, 3, "cpu")
    whole, count = one.initial(), one.model.trainable

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    def work() -> None:
        if where == "evaluate":
            monkeypatch.setattr(Evaluation, "add", fail)
            monkeypatch.setattr(one, "_test", one.train)
            one.evaluate(whole)
        monkeypatch.setattr(one.trainer, "_update", fail)
        one.fit(RoundStart({"model": whole[:count]}, whole[count:], 2, FedAvg()))

    with pytest.raises(TrainingError, match=f"^silo 1: .*{said}") as found:
        work()
    assert "\n" not in str(found.value)
