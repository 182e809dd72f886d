"""Muon for a model's hidden matrices, and AdamW for all else that is trained, as one optimizer."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, final

import torch
from torch import Tensor, nn

from silofl.config import TrainConfig
from silofl.training.flat import FlatModel
from silofl.training.unmarked import step_unmarked

MATRICES, ADAMW = "matrices", "adamw"
"""Keys of train.options that are not torch.optim.Muon's own: patterns of names, and AdamW's arguments."""


@final
class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) on matrices, as torch.optim.Muon has it, and AdamW on the others.

    Both have one learning rate, so that Muon's step is scaled to the root mean square of AdamW's (Liu et al.
    2025, "Muon is Scalable for LLM Training"), unless the options give another `adjust_lr_fn`.

    Args:
        matrices: parameters with two dimensions; there may be none.
        others: likewise.
        lr: of both.
        muon: further arguments of torch.optim.Muon.
        adamw: of torch.optim.AdamW.
    """

    def __init__(
        self,
        matrices: list[Tensor],
        others: list[Tensor],
        lr: float,
        muon: dict[str, Any],
        adamw: dict[str, Any],
    ) -> None:
        super().__init__([*matrices, *others], {"lr": lr})
        kind: Any = torch.optim.Muon
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if matrices:
            self._parts["muon"] = kind(matrices, **{"lr": lr, "adjust_lr_fn": "match_rms_adamw"} | muon)
        if others:
            self._parts["adamw"] = torch.optim.AdamW(others, **{"lr": lr} | adamw)
        for part in self.parts:
            step_unmarked(part)

    @property
    def parts(self) -> tuple[torch.optim.Optimizer, ...]:
        """Both, or the one that there is."""
        return tuple(self._parts.values())

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step of both."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Of both, by name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up an earlier `state_dict()`."""
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])


def muon(model: FlatModel, config: TrainConfig, parameters: list[Tensor]) -> MuonWithAdamW:
    """That optimizer over some of a model's trained parameters, as [train] has it.

    Raises ValueError where the model has no hidden matrix, or one that is named has not two dimensions.
    """
    options = dict(config.options)
    patterns, given = options.pop(MATRICES, None), options.pop(ADAMW, {})
    decay = {} if config.weight_decay is None else {"weight_decay": config.weight_decay}
    momentum = {} if config.momentum is None else {"momentum": config.momentum}
    names = hidden_matrices(model) if patterns is None else _matching(model, patterns)
    if not names:
        raise ValueError(
            "the model has no hidden matrix for Muon, as embeddings, the last layer and what is no matrix "
            "are AdamW's: set train.optimizer = 'AdamW', or name matrices in train.options.matrices"
        )
    hidden = {id(p) for name, p in model.trained.items() if name in names}
    matrices, others = ([p for p in parameters if (id(p) in hidden) == wanted] for wanted in (True, False))
    return MuonWithAdamW(matrices, others, config.lr, decay | momentum | options, decay | given)


def hidden_matrices(model: FlatModel) -> set[str]:
    """Names of the trained matrices but those of embeddings and of the last layer, by order of registration.

    Where the last layer shares its matrix with an embedding, that is AdamW's alone.
    """
    matrices = {id(p): name for name, p in model.trained.items() if p.ndim == 2 and not p.is_complex()}
    embeddings, last = set[int](), 0
    for module in model.module.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                embeddings.add(id(parameter))
            if id(parameter) in matrices:
                last = id(parameter)
    return {name for key, name in matrices.items() if key not in {*embeddings, last}}


def _matching(model: FlatModel, patterns: Any) -> set[str]:
    if not (isinstance(patterns, list) and all(isinstance(one, str) for one in patterns)):
        raise ValueError(f"train.options.{MATRICES} = {patterns!r} has to be a list of names or patterns")
    return {name for name in model.trained if any(fnmatchcase(name, one) for one in patterns)}
