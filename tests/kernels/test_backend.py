"""Kernels are reached through the backend of their arrays; another one is one line away."""

from __future__ import annotations

import inspect
import timeit
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import silofl_kernels as sk
from silofl_kernels import backend
from silofl_kernels.cpu import kernels as cpu

KERNELS = {
    "add_masks", "add_noise", "add_product", "correlate_noise", "decode_exact", "dequantize",
    "dequantize_blocks", "dequantize_segments", "draw_noise", "encode_exact", "gather", "keystream",
    "largest_index", "max_abs", "mean_around", "pack_bits", "pack_fields", "quantize", "quantize_and_mask",
    "quantize_blocks", "quantize_segments", "random_k", "reduce_rows", "reduce_rows_dequantize",
    "reduce_rows_float", "rotate", "scale_into", "scatter_add", "sketch", "sorted_mean",
    "squared_distances", "top_k", "unpack_bits", "unpack_fields", "unrotate", "unsketch",
}  # fmt: skip


class Elsewhere(np.ndarray):
    """Arrays of a device that only this test has."""


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_backends", dict(backend._backends))
    monkeypatch.setattr(backend, "_chosen", {})


def elsewhere(x: np.ndarray) -> Elsewhere:
    return x.view(Elsewhere)


def test_the_cpu_offers_every_kernel() -> None:
    named = {name for name in vars(backend.Backend) if not name.startswith("_")}
    assert named == KERNELS
    assert set(cpu.__all__) == KERNELS
    for name in KERNELS:
        parameters = inspect.signature(getattr(backend.Backend, name)).parameters
        assert list(parameters)[1:] == list(inspect.signature(getattr(cpu, name)).parameters), name


def test_each_kernel_is_public_and_documented() -> None:
    assert "Args:" in sk.ExactFormat.encode.__doc__
    assert "Args:" in sk.ExactFormat.decode.__doc__
    assert "Args:" in sk.RandomK.indices.__doc__
    for name in KERNELS - {"encode_exact", "decode_exact", "largest_index", "random_k", "sorted_mean"}:
        assert name in sk.__all__
        assert "Args:" in getattr(sk, name).__doc__


def test_one_line_registers_a_backend() -> None:
    seen = []
    other = SimpleNamespace(scale_into=lambda *arguments: seen.append(arguments))
    x = elsewhere(np.ones(3, np.float32))
    sk.scale_into(x, 2.0, x)
    assert (x == 2).all()  # a subclass without a backend of its own is served as what it is
    sk.register(Elsewhere, other)
    sk.scale_into(x, 2.0, x)
    assert (x == 2).all()
    assert [arguments[1] for arguments in seen] == [2.0]
    y = np.ones(3, np.float32)
    sk.scale_into(y, 2.0, y)
    assert (y == 2).all()


def test_arrays_of_two_backends_do_not_mix() -> None:
    sk.register(Elsewhere, SimpleNamespace())
    floats, words = np.ones(3, np.float32), np.zeros(3, np.uint16)
    with pytest.raises(TypeError, match=r"lie in one place: numpy\.ndarray and .*Elsewhere do not"):
        sk.quantize(floats, elsewhere(words), scale=1.0, limit=3)
    with pytest.raises(TypeError, match="lie in one place"):
        sk.reduce_rows([words, elsewhere(words)], words)
    assert not words.any()


def test_an_array_without_a_backend() -> None:
    class OnGpu(SimpleNamespace):
        __cuda_array_interface__ = None

    with pytest.raises(
        TypeError, match=r"arrays of numpy.ndarray, not .*OnGpu \(no GPU backend is built in\)"
    ):
        sk.max_abs(OnGpu())
    with pytest.raises(TypeError, match=r"arrays of numpy\.ndarray, not builtins.list"):
        sk.max_abs([1.0])


def test_mapped_files_are_numpy_arrays(tmp_path: Path) -> None:
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(3,))
    x[:] = -2
    assert sk.max_abs(x) == 2


def test_the_choice_costs_next_to_nothing() -> None:
    x = np.zeros(3)
    assert min(timeit.repeat(lambda: backend.backend_of(x, x), number=1000, repeat=20)) < 1e-3
