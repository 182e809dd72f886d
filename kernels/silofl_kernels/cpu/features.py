"""Which path this processor has for each keystream, asked before anything is compiled.

Compiling an instruction that the target lacks ends the process inside LLVM, so the question comes first.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import llvmlite.binding as llvm
from numba.core import config as _numba_config

from silofl_kernels.prg import Family

config: Any = _numba_config  # numba sets its attributes at run time

PATHS: dict[Family, tuple[str, ...]] = {
    "aes": ("vaes512", "vaes256", "aesni", "portable"),
    "chacha": ("vector", "portable"),
}
"""Every path of a family, the fastest first. All of them give the same bytes."""

FORCE_VARIABLE = "SILOFL_KERNEL_PATH"
"""Comma-separated path names; a family takes the first one that is its own ("aesni,portable")."""

_NEEDS: dict[str, frozenset[str]] = {
    "vaes512": frozenset({"vaes", "aes", "avx512f", "avx512bw"}),
    "vaes256": frozenset({"vaes", "aes", "avx2"}),
    "aesni": frozenset({"aes", "sse2"}),
}


def instruction_sets() -> frozenset[str]:
    """Instruction sets that compiled kernels may use, by LLVM's names.

    Follows `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES`: beside another processor's name only the features
    listed with a plus count, and a feature that the processor lacks never does.
    """
    try:
        host = frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)
    except RuntimeError:  # LLVM does not know this kind of system
        host = frozenset()
    if config.CPU_FEATURES is None:
        return host
    listed = [item.strip() for item in config.CPU_FEATURES.split(",") if item.strip()]
    added = {item.lstrip("+") for item in listed if not item.startswith("-")}
    removed = {item[1:] for item in listed if item.startswith("-")}
    plays_another = config.CPU_NAME not in (None, llvm.get_host_cpu_name())
    base = frozenset(added) if plays_another else host
    return (base & host) - removed


def available(family: Family) -> tuple[str, ...]:
    """Paths of `family` that this processor can run, the fastest first.

    With `NUMBA_DISABLE_JIT` only the portable path is left, which is then plain Python.
    """
    if without_jit():
        return ("portable",)
    here = instruction_sets()
    return tuple(path for path in PATHS[family] if _NEEDS.get(path, frozenset()) <= here)


def without_jit() -> bool:
    """True where `NUMBA_DISABLE_JIT` turns kernels into plain Python."""
    return bool(config.DISABLE_JIT)


def chacha_lanes() -> int:
    """ChaCha20 blocks computed side by side on the vector path: as many 32-bit lanes as a register has."""
    return register_bytes() // 4


def register_bytes() -> int:
    """Bytes of a vector register."""
    here = instruction_sets()
    if "avx512f" in here:
        return 64
    return 32 if "avx2" in here else 16


def path(family: Family) -> str:
    """The path that kernels of `family` take in this process.

    Raises:
        ValueError: `SILOFL_KERNEL_PATH` names an unknown path or one that this processor lacks.
    """
    return _path(family, os.environ.get(FORCE_VARIABLE, ""))


@functools.cache
def _path(family: Family, forced: str) -> str:
    wanted = [name.strip() for name in forced.split(",") if name.strip()]
    known = {name for names in PATHS.values() for name in names}
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"{FORCE_VARIABLE}={forced!r}: no path {unknown[0]!r}; known: {sorted(known)}")
    mine = [name for name in wanted if name in PATHS[family]]
    here = available(family)
    if not mine:
        return here[0]
    if mine[0] not in here:
        raise ValueError(f"{FORCE_VARIABLE} asks for {mine[0]!r}; this processor has {', '.join(here)}")
    return mine[0]
