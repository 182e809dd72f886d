"""Weights that a model begins with, from a safetensors file (`task.weights`)."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from silofl.config import Config, silo_path
from silofl.errors import ConfigError
from silofl.training.slots import plain_name

SHOWN = 3
"""Names of tensors that a sentence has, of many."""


@final
@dataclass(frozen=True)
class GivenWeights:
    """Tensors by name, as a state dict has them.

    Attributes:
        silo: whose file it is.
        path: of the file.
        tensors: in it.
        digest: SHA-256 (hex) of the file.
    """

    silo: int
    path: Path
    tensors: dict[str, Tensor]
    digest: str

    @classmethod
    def of(cls, config: Config, silo: int) -> Self | None:
        """Those of `task.weights`; None where it is not set.

        ConfigError where that is no file that can be read, or no safetensors file.
        """
        if not config.task.weights:
            return None
        path = silo_path(config.task.weights, silo, "task.weights")
        try:
            data = _plain_file(path)
            return cls(silo, path, load(data), hashlib.sha256(data).hexdigest())
        except OSError as error:
            said = f"cannot be read: {error.strerror}; name a safetensors file, or remove it"
        except (SafetensorError, ValueError):
            said = (
                "is no safetensors file, and others, such as pickles of torch, may hold code: write one with "
                "safetensors.torch.save_file(model.state_dict(), path)"
            )
        raise ConfigError(f"silo {silo}: task.weights = {str(path)!r} {said}", rank=silo)

    def put_into(self, module: nn.Module, private: Iterable[str]) -> None:
        """Copy all into a model's tensors. ConfigError, with the names, where the two do not match.

        A model may have what matches the `private` patterns (fnmatch) alone, which stays with its silo and is
        in no model file, and one file's tensor under several names.
        """
        state = {plain_name(name): one for name, one in module.state_dict().items()}
        wanted = {name: one for name, one in state.items() if isinstance(one, Tensor)}
        patterns = tuple(private)
        given = {one.data_ptr() for name, one in wanted.items() if name in self.tensors}
        missing = [
            name
            for name, one in wanted.items()
            if name not in self.tensors
            and one.data_ptr() not in given
            and not any(fnmatchcase(name, pattern) for pattern in patterns)
        ]
        unexpected = [name for name in self.tensors if name not in wanted]
        unlike = [
            f"{name} {tuple(one.shape)} in the file and {tuple(wanted[name].shape)} in the model"
            for name, one in self.tensors.items()
            if name in wanted and one.shape != wanted[name].shape
        ]
        kinds = [
            f"{name} of {str(one.dtype).removeprefix('torch.')}"
            for name, one in self.tensors.items()
            if name in wanted and one.is_complex() != wanted[name].is_complex()
        ]
        parts = [
            f"{what} {_some(names)}"
            for what, names in (
                ("lacks", missing),
                ("has, and the model has not,", unexpected),
                ("has other shapes:", unlike),
                ("has other types:", kinds),
            )
            if names
        ]
        if parts:
            raise ConfigError(
                f"silo {self.silo}: task.weights = {str(self.path)!r} is not of the task's model: it "
                f"{'; it '.join(parts)}: give the file of a model that is built alike",
                rank=self.silo,
            )
        with torch.no_grad():
            for name, one in self.tensors.items():
                wanted[name].copy_(one)


def _plain_file(path: Path) -> bytes:
    """Its bytes. OSError for what is no plain file, such as a pipe that nobody writes to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file")
        return file.read()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
