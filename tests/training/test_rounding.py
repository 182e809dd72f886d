"""Settings of torch under which a product of float32 has fewer digits than a bound on norms needs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.federation.silo import Silo
from silofl.training.rounding import keep_digits, rounder_than_float32
from tests.federation.test_privacy import Plain

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(autouse=True)
def settings_kept() -> Iterator[None]:
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def test_cudnn_is_told_to_keep_the_digits_of_convolutions() -> None:
    assert rounder_than_float32(GPU) == 'torch.backends.cudnn.conv.fp32_precision = "tf32"'
    keep_digits(CPU)
    assert torch.backends.cudnn.allow_tf32
    keep_digits(GPU)
    assert rounder_than_float32(GPU) is None


@pytest.mark.parametrize(("precision", "on_cpu"), [("high", "tf32"), ("medium", "bf16")])
def test_products_of_fewer_digits_are_known(precision: str, on_cpu: str) -> None:
    keep_digits(GPU)
    assert rounder_than_float32(CPU) is None
    torch.set_float32_matmul_precision(precision)
    assert rounder_than_float32(CPU) == f'torch.backends.mkldnn.matmul.fp32_precision = "{on_cpu}"'
    assert rounder_than_float32(GPU) == 'torch.backends.cuda.matmul.fp32_precision = "tf32"'


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_refuses_them_whenever_they_are_set(dtype: str) -> None:
    config = configuration.parse(
        {
            "train": {"dtype": dtype},
            "privacy": {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2},
            "secure": {"bits": 32},
            "strategy": {"name": "fedsgd"},
            "checkpoint": {"key_file": "unused.key"},
        }
    )
    clipped = Silo(config, Plain(), 1, 3, "cpu").clipped_gradients(config.privacy)
    some = np.arange(4)
    clipped.sum(some)
    torch.set_float32_matmul_precision("medium")
    if dtype == "float64":  # whose products are as they were
        assert clipped.sum(some)[1].examples == len(some)
        return
    with pytest.raises(ConfigError, match=r"silo 1: .*mkldnn.matmul.fp32_precision = .* bound a norm"):
        clipped.sum(some)
