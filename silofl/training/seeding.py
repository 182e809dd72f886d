"""Every random choice of a round is a function of (seed, silo, round): a resume repeats it bit for bit."""

from __future__ import annotations

import random

import numpy as np
import torch

INITIAL_MODEL = 2**32 - 1
"""Stands for the silo's number where a choice is common to all silos."""


def derive(seed: int, silo: int, round_number: int) -> int:
    """A 63-bit seed for one silo's round."""
    words = np.random.SeedSequence([seed, silo, round_number]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def seed_everything(seed: int) -> torch.Generator:
    """Seed Python's, NumPy's and torch's global generators; returns one more, for the order of the data."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed prepares for CUDA where there is none
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    return torch.Generator().manual_seed(seed)
