"""The recipe of columns as a torch module: the first layer of a model that takes raw features."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from silofl.tasks.preprocessing import Preprocessing


@final
class PreprocessingLayer(nn.Module):
    """Raw columns (batch, columns) -> features float32 (batch, features), bit for bit as `Preprocessing`.

    A missing number is NaN, which stays NaN where the recipe has no value for it. Of a column of categories
    the input is the place of the value's category in the recipe. Images pass through with their scaling.
    """

    source: Tensor
    category: Tensor
    flag: Tensor
    impute: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, recipe: Preprocessing) -> None:
        super().__init__()
        self.images = recipe.of_images
        features = [(place, column) for place, column in enumerate(recipe.columns) for _ in column.features]
        places = [k for column in recipe.columns for k in range(len(column.features))]
        categories, flags = [], []
        for (_, column), k in zip(features, places, strict=True):
            categories.append(k if column.kind == "categorical" else -1)
            flags.append(column.kind != "categorical" and k == 1)
        columns = [column for _, column in features]
        missing = [torch.nan if column.impute is None else column.impute for column in columns]
        tables = {
            "source": torch.tensor([place for place, _ in features]),
            "category": torch.tensor(categories),
            "flag": torch.tensor(flags),
            "impute": torch.tensor(missing, dtype=torch.float64),
            "center": torch.tensor([column.center for column in columns], dtype=torch.float64),
            "scale": torch.tensor([column.scale for column in columns], dtype=torch.float64),
        }
        for name, values in tables.items():
            self.register_buffer(name, values, persistent=False)
        self.simple = not any(flags) and max(categories, default=-1) < 0
        self.imputes = bool((~self.impute.isnan()).any())

    def forward(self, raw: Tensor) -> Tensor:
        """See above; `raw` is of any real type, and is computed with in float64."""
        raw = raw.to(torch.float64)
        if self.images:
            return ((raw - self.center[0]) / self.scale[0]).to(torch.float32)
        raw = raw[:, self.source]
        missing = raw.isnan()
        filled = torch.where(missing, self.impute, raw) if self.imputes else raw
        scaled = ((filled - self.center) / self.scale).to(torch.float32)
        if self.simple:
            return scaled
        found = torch.where(self.flag, missing.to(torch.float32), scaled)
        chosen = (raw == self.category.to(torch.float64)).to(torch.float32)
        return torch.where(self.category >= 0, chosen, found)
