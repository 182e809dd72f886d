"""Tiny models of Hugging Face's transformers, built from configurations, and tasks that train them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from silofl.tasks.base import SiloData

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing is downloaded
WORDS, CLASSES, PAD, NO_LABEL = 40, 3, 0, -100

TEXT = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Silos that are threads share torch's one generator: no dropout."""
GPT = {
    "vocab_size": WORDS, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "pad_token_id": PAD,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SEEN = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, **STILL}
LABELS = {"num_labels": CLASSES}
DISTIL = {"vocab_size": WORDS, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "dropout": 0.0,
          "attention_dropout": 0.0, "seq_classif_dropout": 0.0, "max_position_embeddings": 32}  # fmt: skip
T5 = {"vocab_size": WORDS, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2,
      "dropout_rate": 0.0, "decoder_start_token_id": PAD}  # fmt: skip
ALBERT = {"embedding_size": 8, "classifier_dropout_prob": 0.0}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
SPEECH = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
          "conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
          "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "layerdrop": 0.0,
          "hidden_dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0,
          "feat_proj_dropout": 0.0, "final_dropout": 0.0, "apply_spec_augment": False,
          "classifier_proj_size": 8}  # fmt: skip
BOXES = {**SEEN, "image_size": [16, 16], "patch_size": 4, "num_detection_tokens": 4}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "class", {**TEXT, **STILL, **LABELS}),
    "bert-masked": ("BertForMaskedLM", "masked", {**TEXT, **STILL}),
    "distilbert": ("DistilBertForSequenceClassification", "class", {**DISTIL, **LABELS}),
    "roberta": ("RobertaForTokenClassification", "tokens", {**TEXT, **STILL, **LABELS}),
    "albert": ("AlbertForSequenceClassification", "class", {**TEXT, **STILL, **LABELS, **ALBERT}),
    "gpt2": ("GPT2LMHeadModel", "causal", GPT),
    "llama": ("LlamaForCausalLM", "causal", TEXT),
    "mistral": ("MistralForCausalLM", "causal", {**TEXT, "num_key_value_heads": 1, "sliding_window": 4}),
    "qwen2": ("Qwen2ForCausalLM", "causal", {**TEXT, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "t5": ("T5ForConditionalGeneration", "causal", T5),
    "mamba": (
        "MambaForCausalLM", "causal",
        {"vocab_size": WORDS, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2},
    ),
    "vit": ("ViTForImageClassification", "image", {**SEEN, **LABELS, "image_size": 16, "patch_size": 4}),
    "resnet": ("ResNetForImageClassification", "image", {**RESNET, **LABELS}),
    "yolos": ("YolosForObjectDetection", "boxes", {**BOXES, **LABELS}),
    "wav2vec2": ("Wav2Vec2ForSequenceClassification", "speech", {**SPEECH, **LABELS}),
}  # fmt: skip
"""Name: class, what its samples are, fields of its configuration."""


def built(name: str, **other: Any) -> nn.Module:
    """An untrained model, with other fields of its configuration."""
    kind, _, fields = MODELS[name]
    chosen = getattr(importlib.import_module("transformers"), kind)
    model: nn.Module = chosen(chosen.config_class(**{**fields, **other}))
    return model


class Rows:
    """A map-style data set of dicts."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class HuggingFace:
    """A task with one of the models; silo k has 6 + 2 k samples of unequal lengths, later ones are longer.

    `change` is called with the model, and gives the one to train.
    """

    def __init__(self, name: str, change: Callable[[nn.Module], nn.Module] = lambda model: model) -> None:
        self.name, self._kind, self._change = name, MODELS[name][1], change

    def model(self) -> nn.Module:
        return self._change(built(self.name))

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(self._rows(silo, 6 + 2 * silo, 5), self._rows(100 + silo, 4, 8))

    def _rows(self, seed: int, count: int, least: int) -> Rows:
        rng = np.random.default_rng(seed)
        return Rows([self._row(rng, number % CLASSES, least) for number in range(count)])

    def _row(self, rng: np.random.Generator, label: int, least: int) -> dict[str, Any]:
        words = rng.integers(3, WORDS, least + int(rng.integers(0, 4))).tolist()
        if self._kind in {"image", "boxes"}:
            image = torch.from_numpy(rng.standard_normal((3, 16, 16)).astype(np.float32)) + label
            box = {"class_labels": torch.tensor([label]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.2]])}
            return {"pixel_values": image, "labels": label if self._kind == "image" else box}
        if self._kind == "speech":
            return {"input_values": rng.standard_normal(160 + 8 * len(words)).tolist(), "labels": label}
        labels: Any = {
            "class": label,
            "causal": words,
            "masked": [word if place % 3 == 0 else NO_LABEL for place, word in enumerate(words)],
            "tokens": [word % CLASSES for word in words],
        }[self._kind]
        return {"input_ids": words, "labels": labels}

    def collate(self, samples: list[dict[str, Any]]) -> Any:
        batch = {key: _together([one[key] for one in samples], key) for key in samples[0]}
        if "input_ids" in batch and self.name != "mamba":
            batch["attention_mask"] = (batch["input_ids"] != PAD).long()
        return importlib.import_module("transformers").BatchEncoding(batch)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = model(**batch).loss
        return loss

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        return {}


class OneByOne(HuggingFace):
    """With the loss of every example, the mean over its words."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        logits, labels = model(**batch).logits, batch["labels"]
        if self._kind in {"class", "image"}:
            return nn.functional.cross_entropy(logits, labels, reduction="none")
        if self.name != "t5":
            logits, labels = logits[:, :-1], labels[:, 1:]
        each = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return each.sum(1) / (labels != NO_LABEL).sum(1)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.losses(model, batch).mean()


def _together(values: list[Any], key: str) -> Any:
    """A column of a batch; lists are made as long as the longest."""
    first = values[0]
    if isinstance(first, dict):
        return values
    if isinstance(first, Tensor):
        return torch.stack(values)
    if isinstance(first, list):
        longest, fill = max(map(len, values)), NO_LABEL if key == "labels" else PAD
        return torch.tensor([one + [fill] * (longest - len(one)) for one in values])
    return torch.tensor(values)


class LoRA(nn.Module):
    """A frozen layer and a low-rank addition that is trained (Hu et al. 2021), written by hand."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


def adapted(model: nn.Module) -> nn.Module:
    """The model frozen but for its last layer, and with adapters for queries."""
    model.requires_grad_(False)
    for name, layer in list(model.named_modules()):
        if name.endswith(("query", "q_proj")) and isinstance(layer, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, LoRA(layer))
    return model
