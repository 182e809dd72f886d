"""Low-rank adapters (LoRA), as PEFT makes them, whose mean over silos is right.

An adapter adds B A to a frozen matrix. The mean of silos' products is not the product of the means of their
factors, unless one factor is the same everywhere. FFA-LoRA freezes A as it was drawn (Sun et al. 2024,
"Improving LoRA in Privacy-preserving Federated Learning", section 3): what is trained and summed is B, in
which the product is linear.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from torch import nn

from silofl.errors import ConfigError

FACTORS = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}
"""PEFT's names of the first factor, and of the second."""
M = TypeVar("M", bound=nn.Module)


def freeze_a(model: M) -> M:
    """Freeze the first factors of a model's adapters, in place; the model.

    They have to be the same at all silos, as `Task.model` builds them, which is called under a common seed.

    Raises ConfigError where the model has no adapter, or its second factors are frozen.
    """
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    pairs = pairs_of(name for name, _ in model.named_parameters())
    if not pairs:
        raise ConfigError(
            f"freeze_a: the {type(model).__name__} has no parameters lora_A and lora_B: give it what "
            "peft.get_peft_model returns for a LoraConfig"
        )
    frozen = [second for _, second in pairs if second not in trained]
    if frozen:
        raise ConfigError(
            f"freeze_a: {frozen[0]} is frozen, too, so that its adapter would stay as it is: let it require "
            "a gradient"
        )
    firsts = {first for first, _ in pairs}
    for name, one in model.named_parameters():
        if name in firsts:
            one.requires_grad_(False)
    return model


def pairs_of(names: Iterable[str]) -> list[tuple[str, str]]:
    """The names of both factors of each adapter, among `names` of parameters."""
    known, found = set(names), []
    for name in sorted(known):
        parts = name.split(".")
        for first, second in FACTORS.items():
            other = ".".join(second if part == first else part for part in parts)
            if first in parts and other in known:
                found.append((name, other))
    return found


def notices(trained: Iterable[str]) -> list[str]:
    """What is not as a user may think of adapters of which both factors are `trained`."""
    return [
        f"{first} and {second} are both trained, and the mean of silos' products is not the product of the "
        "means of these: freeze the first by silofl.tasks.lora.freeze_a(model)"
        for first, second in pairs_of(trained)[:1]
    ]
