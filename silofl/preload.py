"""What ranks load, loaded beforehand in the process that they are forked from (`silofl.launcher.zygote`)."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module

from silofl.launcher.environment import given_threads
from silofl.launcher.zygote import standing

PACKAGES = ("silofl_kernels", "silofl")
LATE = ("tensorboard.summary.writer.record_writer", "tensorboard.compat.proto.summary_pb2")
"""Modules of libraries that ours import when they are needed."""


def preload() -> None:
    """Import all modules of ours, and what they import late; load the kernels of the usual sum.

    Nothing random, no key and no thread is made. Modules of an extra that is not installed are left out.
    """
    names = [
        module.name
        for package in PACKAGES
        for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}.", lambda name: None)
    ]
    for name in (*names, *LATE):
        with suppress(Exception):  # a rank that needs it finds out why
            import_module(name)
    _load_kernels()


def _load_kernels() -> None:
    """Those of the default sum; ranks with others load theirs."""
    import numpy as np

    from silofl.aggregation.secure_session import own_prg
    from silofl.aggregation.spec import AggregationSpec, VectorSpec
    from silofl.aggregation.warm_up import compile_kernels
    from silofl.config import Config

    secure = Config().secure
    vectors = tuple(VectorSpec(kind, 64, kind) for kind in ("scaled", "exact"))
    spec = AggregationSpec(vectors, np.dtype(np.float32), 1, 0, bytes(32), 2, scalars=("loss",))
    compile_kernels(spec, secure.bits, own_prg(), stochastic=secure.rounding == "stochastic")


def set_threads(environ: Mapping[str, str] = os.environ) -> None:
    """In a fork, give libraries as many threads as their variables say: they were loaded with one each.

    They start here: fork no more after that. Does nothing elsewhere.
    """
    threads = given_threads(environ) or 1
    if standing.stub() is None or threads == 1:
        return
    import numba
    import threadpoolctl  # type: ignore[import-untyped]
    import torch

    torch.set_num_threads(threads)  # of OpenMP and of the MKL within torch
    threadpoolctl.threadpool_limits(threads)  # of NumPy's and SciPy's BLAS
    numba.config.reload_config()  # type: ignore[no-untyped-call]
