"""The device of a rank."""

import pytest

from silofl.errors import ConfigError
from silofl.training.device import device_name


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
