"""Opacus' hooks on a model: the norm of each example's gradient, and gradients themselves.

The one module that imports Opacus, and late: that takes seconds.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from silofl.errors import ConfigError
from silofl.training.ghost import linear_norms
from silofl.training.slots import is_number

Clipping = Literal["ghost", "hooks", "functorch"]
"""By norms alone, or by every example's gradient in memory, made by Opacus' rules or by functorch."""

_ON_MODULES = ("activations", "max_batch_len")
_ON_PARAMETERS = ("_norm_sample", "_current_grad_sample")


@final
class ExampleGradients:
    """What the gradient of each example of a batch is (`hooks`, `functorch`), or how long it is (`ghost`).

    Ghost clipping finds norms from what goes into a layer and what comes back to it (Li et al. 2022, "Large
    Language Models Can Be Strong Differentially Private Learners", section 4). Hooks work inside
    `watching(...)` only, and `close` takes them off.

    Args:
        module: a model that `refuse_unsupported` has let pass.
        clipping: see `Clipping`.
        silo: whose model this is, for errors.

    Raises:
        ConfigError: Opacus is not installed, or it refuses the model.
    """

    def __init__(self, module: nn.Module, clipping: Clipping, silo: int) -> None:
        self._clipping: Clipping = clipping
        self._silo = silo
        self._names = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._roots: list[Tensor] = []
        with self._explained():
            self._hooks = _attach(module, clipping)
        self._modules = list(self._hooks.iterate_submodules(module))
        self._handles = [
            handle
            for one in self._modules
            for handle in (
                one.register_forward_hook(self._note_root),
                one.register_forward_pre_hook(self._for_every_example),
            )
        ]
        self._examples = 0
        self._hooks.disable_hooks()

    def _for_every_example(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Give a layer whose input is common to all examples, as position numbers are, one row for each.

        Else what comes back to it would be added up over the examples already.
        """
        first = inputs[0] if inputs else None
        if not (self._hooks.hooks_enabled and isinstance(first, Tensor) and first.dim()):
            return None
        if len(first) == 1:
            first = first.expand(self._examples, *first.shape[1:])
        return (first.contiguous(), *inputs[1:])  # Opacus has views of it

    def _note_root(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep where the chain of gradients ends: outputs of layers whose inputs need none."""
        if not (self._hooks.hooks_enabled and isinstance(output, Tensor) and output.requires_grad):
            return
        if not any(isinstance(t, Tensor) and t.requires_grad for t in inputs):
            self._roots.append(output)

    @contextmanager
    def watching(self, examples: int) -> Iterator[None]:
        """The forward pass on so many examples and `norms` belong inside; what was noted is gone after it."""
        self._examples = examples
        self._hooks.enable_hooks()
        try:
            with self._explained():
                yield
        finally:
            self._hooks.disable_hooks()
            self._forget()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except NotImplementedError as error:
            raise self.not_followed(error) from error

    def not_followed(self, error: Exception) -> ConfigError:
        """The error of a model that Opacus fails on."""
        return ConfigError(
            f"silo {self._silo}: Opacus cannot follow the task's model under "
            f"privacy.clipping = {self._clipping!r} ({type(error).__name__}: {error}); set privacy.clipping "
            "to another of 'ghost', 'hooks' and 'functorch', or change the layer",
            rank=self._silo,
        )

    def norms(self, losses: Tensor) -> Tensor:
        """L2 norms of the examples' gradients, parameter by parameter, (parameters, batch).

        Args:
            losses: of the model's last forward pass: (batch,), or, where gradients are kept, their mean ().

        Raises:
            ConfigError: a parameter takes part that no layer of Opacus' has followed.
        """
        # Gradients of parameters would be thrown away: the pass ends at the first layers' outputs.
        if self._roots:
            torch.autograd.grad(
                losses, self._roots, torch.ones_like(losses), retain_graph=self._ghost, allow_unused=True
            )
        self._hooks.disable_hooks()
        return torch.stack([self._norm(name, p) for name, p in self._names.items()])

    @property
    def _ghost(self) -> bool:
        return self._clipping == "ghost"

    def _norm(self, name: str, parameter: Any) -> Tensor:
        found = getattr(parameter, "_norm_sample" if self._ghost else "grad_sample", None)
        if found is None or isinstance(found, list):
            raise ConfigError(
                f"silo {self._silo}: no gradients of single examples were found for parameter {name} under "
                f"privacy.clipping = {self._clipping!r}: its layer is not used, used outside of its own "
                "forward(), or on inputs of too many dimensions; set requires_grad = False where it is not "
                "used, else privacy.clipping to 'hooks' or 'functorch'",
                rank=self._silo,
            )
        norm: Tensor = found if self._ghost else found.flatten(1).norm(dim=1)
        if len(norm) != self._examples:
            raise ConfigError(
                f"silo {self._silo}: [privacy] clips single examples: the layer of parameter {name} was "
                f"called with {len(norm)} rows for {self._examples} examples: give it an input whose first "
                "dimension is the batch, or freeze it (requires_grad_(False) in model())",
                rank=self._silo,
            )
        return norm

    def add_scaled(self, scale: Tensor, out: list[Tensor]) -> None:
        """Add each kept gradient times its entry of `scale` (batch,) to `out`, one tensor a parameter."""
        for parameter, total in zip(self._names.values(), out, strict=True):
            kept: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
            total.view(-1).addmv_(kept.flatten(1).t(), scale)

    @property
    def names(self) -> list[str]:
        """Of the parameters that are trained, in the model's order."""
        return list(self._names)

    def _forget(self) -> None:
        """Nothing of one batch may be found in the next, whatever became of it."""
        self._roots.clear()
        for module in self._modules:
            for attribute in _ON_MODULES:
                module.__dict__.pop(attribute, None)
        for parameter in self._names.values():
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter._forward_counter = 0  # type: ignore[attr-defined]
            for attribute in _ON_PARAMETERS:
                parameter.__dict__.pop(attribute, None)

    def close(self) -> None:
        """Take everything off the model; it is as it was before."""
        for handle in self._handles:
            handle.remove()
        self._hooks.cleanup()


def _attach(module: nn.Module, clipping: Clipping) -> Any:
    """Opacus' own hooks. Ghost clipping takes losses one by one, the others their mean."""
    kinds = _opacus()
    if clipping == "ghost":
        ghost = kinds.GradSampleHooksFastGradientClipping
        rules = {**ghost.NORM_SAMPLERS, nn.Linear: linear_norms}
        return type("GhostHooks", (ghost,), {"NORM_SAMPLERS": rules})(module, loss_reduction="sum")
    return kinds.GradSampleHooks(module, loss_reduction="mean", force_functorch=clipping == "functorch")


def _opacus() -> Any:
    before = list(logging.root.handlers)
    try:
        from opacus import grad_sample
    except ImportError:
        raise ConfigError(
            "[privacy] that clips single examples needs opacus: pip install 'silofl[privacy]'"
        ) from None
    logging.root.handlers[:] = before  # it sets up the whole program's logging when it is imported
    # That inputs need no gradients is what one would expect of data.
    warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed")
    return grad_sample


def refuse_unsupported(module: nn.Module, clipping: Clipping, silo: int, *, constant: bool) -> None:
    """Refuse models in which examples meet, that rewrite themselves, or that Opacus cannot follow.

    `constant`: buffers are not shared, and held to be what they were.

    Raises:
        ConfigError: the layer, the silo and the remedy.
    """
    for name, layer in module.named_modules():
        for kind, why in _UNSUPPORTED.items():
            if isinstance(layer, kind):
                raise _refusal(name, layer, why, silo)
        if getattr(layer, "max_norm", None) is not None:
            why = "its max_norm rewrites, without noise, what a batch looks up: leave max_norm out"
            raise _refusal(name, layer, why, silo)
        if clipping != "functorch" and getattr(layer, "padding_mode", "zeros") != "zeros":
            why = (
                f"with padding_mode = {layer.padding_mode!r} Opacus finds norms that are too small: set "
                "privacy.clipping = 'functorch', or pad in a layer before it, such as torch.nn.CircularPad2d"
            )
            raise _refusal(name, layer, why, silo)
        if getattr(layer, "inplace", False):
            raise _refusal(name, layer, "it changes its input in place: set inplace=False", silo)
        shared = dict(layer.named_buffers(recurse=False)).keys() - layer._non_persistent_buffers_set
        floating = [key for key in sorted(shared) if is_number(layer.get_buffer(key))]
        if floating and not constant:
            why = (
                f"its buffer {floating[0]} would be shared without noise: make it a parameter with "
                "requires_grad=False if it is constant, else use a layer without statistics, such as "
                "torch.nn.GroupNorm"
            )
            raise _refusal(name, layer, why, silo)


def _refusal(name: str, layer: nn.Module, why: str, silo: int) -> ConfigError:
    return ConfigError(
        f"silo {silo}: [privacy] clips single examples and cannot train layer {name or '(the model)'} "
        f"({type(layer).__name__}): {why}",
        rank=silo,
    )


_UNSUPPORTED: dict[type[nn.Module], str] = {
    nn.modules.batchnorm._BatchNorm: (
        "its statistics mix the examples of a batch: use torch.nn.GroupNorm instead, or "
        "opacus.validators.ModuleValidator.fix(model)"
    ),
    nn.RNNBase: "Opacus cannot look into it: use DPRNN, DPGRU or DPLSTM of opacus.layers",
    nn.MultiheadAttention: "Opacus cannot look into it: use opacus.layers.DPMultiheadAttention",
}
