"""A term of the loss that compares what one layer puts out in several models, such as a contrastive one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from silofl.errors import ConfigError, DataError
from silofl.training.flat import FlatModel
from silofl.training.slots import plain_name
from silofl.types import Vector

Penalty = Callable[[Tensor, list[Tensor]], Tensor]
"""A term of the loss, (), of the outputs (m, r) of a batch in the trained model and in the others."""
NAMED = 12
"""Layers that an error names, at most."""


@final
class Comparison:
    """The loss of a batch with the term that `penalty` makes of one layer's outputs.

    The others are copies in evaluation mode, without gradients; they see each batch as the trained model
    does, with the same random numbers. Of a layer that is called several times in a loss the last output
    counts, and of one with more than two dimensions all values of a sample.

    Args:
        module: the trained model.
        others: copies of it, see `frozen_copies`.
        layer: the name of the module whose outputs are compared.
        penalty: the term.
        silo: its number, for errors.

    Raises:
        ConfigError: there is no such layer, or it puts out nothing that can be compared.
    """

    def __init__(
        self, module: nn.Module, others: Sequence[nn.Module], layer: str, penalty: Penalty, silo: int
    ) -> None:
        self._module, self._others = module, others
        self._layer, self._penalty, self._silo = layer, penalty, silo
        self._put_out: list[Any] = []
        self._hooked = [_layer_of(one, layer, silo) for one in dict.fromkeys([module, *others])]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While the layer's outputs are taken note of."""
        handles = [one.register_forward_hook(self._take) for one in self._hooked]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _take(self, module: nn.Module, args: Any, output: Any) -> None:
        self._put_out = [output]

    def loss(self, run: Callable[[nn.Module], Tensor]) -> Tensor:
        """The task's loss of a batch, which `run(model)` gives, and the term."""
        device = next(self._module.parameters()).device
        outputs: dict[nn.Module, Tensor] = {}
        for other in dict.fromkeys(self._others):
            with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
                outputs[other] = self._output(run, other)[1]
        loss, own = self._output(run, self._module)
        return loss + self._penalty(own, [outputs[other] for other in self._others])

    def _output(self, run: Callable[[nn.Module], Tensor], module: nn.Module) -> tuple[Tensor, Tensor]:
        """The loss, and what the layer put out (m, r), of single precision or double."""
        self._put_out = []
        loss = run(module)
        output = self._put_out[-1] if self._put_out else None
        self._put_out = []
        if not (isinstance(output, Tensor) and output.is_floating_point() and output.dim() > 1):
            raise ConfigError(
                f"strategy.layer = {self._layer!r} puts out {_described(output)} in the task's loss, and a "
                "tensor of (samples, values) is compared: name another module of the model",
                rank=self._silo,
            )
        return loss, output.flatten(1).to(torch.promote_types(output.dtype, torch.float32))


def frozen_copies(
    model: FlatModel, parameters: Sequence[Vector], buffers: Vector, silo: int
) -> list[nn.Module]:
    """A copy of the model for each of these parameters (P,), in evaluation mode and with these buffers (b,).

    What is loaded of `model` is another afterwards. Equal arrays give one copy.
    """
    copies: dict[int, nn.Module] = {}
    for values in parameters:
        if id(values) not in copies:
            model.load_parts(values, buffers)
            copies[id(values)] = _copied(model.module, silo).eval().requires_grad_(False)
    return [copies[id(values)] for values in parameters]


def _copied(module: nn.Module, silo: int) -> nn.Module:
    try:
        made: nn.Module = copy.deepcopy(module)
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"silo {silo}: the strategy compares the task's model with copies of it, and copy.deepcopy "
            f"raises {type(error).__name__}: let it be copied, such as by detach() of tensors in attributes",
            rank=silo,
        ) from None
    return made


def _layer_of(module: nn.Module, layer: str, silo: int) -> nn.Module:
    """The module of that name. Raises ConfigError where there is none."""
    known = {plain_name(f"{name}.")[:-1]: one for name, one in module.named_modules()}
    found: nn.Module | None = known.get(layer) if layer else None
    if found is None:
        names = [repr(name) for name in known if name]
        listed = ", ".join(names[-NAMED:]) or "none, for it is one module: build it of several"
        raise ConfigError(
            f"strategy.layer = {layer!r} names no module of the task's model; set it to the one whose output "
            f"represents a sample, such as that before the last: {'..., ' * (len(names) > NAMED)}{listed}",
            rank=silo,
        )
    return found


def _described(output: Any) -> str:
    if output is None:
        return "nothing"
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} of shape {tuple(output.shape)}"
    return f"a {type(output).__name__}"
