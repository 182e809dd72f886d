"""Where tensors lie in one vector."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor


@final
class VectorLayout:
    """Tensors one behind the other in a real vector (d,).

    A complex value lies as its real and its imaginary part, and begins at an even place: what lies before it
    is one value longer where that needs it.

    Attributes:
        shapes: of the tensors.
        ends: where each ends, with what it is longer by.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.shapes = [tuple(t.shape) for t in tensors]
        self._pairs = [t.is_complex() for t in tensors]
        self._begins: list[int] = []
        end = 0
        for tensor in tensors:
            begin = end + end % 2 if tensor.is_complex() else end
            self._begins.append(begin)
            end = begin + tensor.numel() * (2 if tensor.is_complex() else 1)
        self.ends = [*self._begins[1:], end]

    def cut(self, vector: Tensor, count: int | None = None) -> Iterator[Tensor]:
        """The first `count` tensors as views of a vector (d,)."""
        for begin, shape, pairs in list(zip(self._begins, self.shapes, self._pairs, strict=True))[:count]:
            size = math.prod(shape)
            if pairs:
                yield torch.view_as_complex(vector[begin : begin + 2 * size].view(*shape, 2))
            else:
                yield vector[begin : begin + size].view(shape)
