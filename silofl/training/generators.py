"""Random generators of torch, NumPy and Python as arrays, and back."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def encoded(generator: Any) -> NDArray[np.uint8]:
    """The state of one of KINDS as bytes, uint8 (any,)."""
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().copy()
    state: Any = (
        generator.getstate()
        if isinstance(generator, random.Random)
        else generator.get_state(legacy=False)
        if isinstance(generator, np.random.RandomState)
        else generator.bit_generator.state
    )
    text = json.dumps(state, default=lambda array: array.tolist(), sort_keys=True)
    return np.frombuffer(text.encode(), np.uint8).copy()


def decoded(value: NDArray[np.uint8], now: Any) -> Any:
    """The generator that is there now, in the state `value`; one that is not there yet is made."""
    try:
        state = json.loads(value.tobytes())
    except (UnicodeDecodeError, json.JSONDecodeError):  # torch's are bytes
        generator = now if isinstance(now, torch.Generator) else torch.Generator()
        generator.set_state(torch.from_numpy(value.copy()))
        return generator
    if not isinstance(now, KINDS):
        now = _made(state)
    if isinstance(now, random.Random):
        version, words, gauss = state
        now.setstate((version, tuple(words), gauss))
    elif isinstance(now, np.random.RandomState):
        now.set_state(state)
    elif isinstance(now, np.random.Generator):
        now.bit_generator.state = state
    return now


def _made(state: Any) -> random.Random | np.random.RandomState | np.random.Generator:
    """A generator of the kind that has such a state."""
    if not isinstance(state, dict):
        return random.Random()
    if "has_gauss" in state:
        return np.random.RandomState()
    return np.random.Generator(getattr(np.random, state["bit_generator"])())
