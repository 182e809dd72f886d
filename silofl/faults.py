"""Faults to inject, in the syntax of [failure] inject: `kill silo 2 round 5 at collect`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

ACTIONS = {
    "kill": "SIGKILL to its process",
    "stop": "SIGSTOP to its process",
    "hang": "it does nothing more",
    "slow": "the step takes xN times as long",
    "corrupt": "a bit of what it sends next is flipped",
}
STEPS = (
    "train",
    "advertise",
    "share",
    "mask",
    "collect first",
    "collect middle",
    "collect last",
    "agree",
    "reveal",
    "unmask",
    "step",
    "allgather",
    "evaluate",
    "checkpoint write",
    "checkpoint agree",
    "checkpoint rename",
    "between rounds",
)
"""In the order of a round; `collect` alone is its first piece."""
SENDING = ("advertise", "share", "agree", "reveal")
"""Steps that send a protocol's messages: only there is a flipped bit detected."""
OPEN_ENDED = ("mask", "checkpoint write", "checkpoint rename", "between rounds")
"""Steps without a duration: the last of a thread's work, or an instant. `slow` is refused there."""

_PATTERN = re.compile(r"(\w+) silo (\d+) round (\d+) at ([a-z]+(?: [a-z]+)?)(?: x(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Fault:
    """Fault of one silo, injected once, when it reaches a step of a round."""

    action: str
    silo: int
    round: int
    step: str
    factor: float = 1.0
    """`slow`: how many times as long the step takes."""


def parse(text: str) -> Fault:
    """Parse a line; ValueError in one sentence if it names no fault."""
    match = _PATTERN.fullmatch(" ".join(text.split()))
    if match is None:
        raise ValueError(
            f'failure.inject has {text!r}; write it like "kill silo 2 round 5 at collect" or '
            '"slow silo 2 round 5 at train x5"'
        )
    action, silo, number, step, factor = match.groups()
    step = "collect first" if step == "collect" else step
    for what, word, known in (("action", action, tuple(ACTIONS)), ("step", step, (*STEPS, "collect"))):
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
            raise ValueError(
                f"failure.inject has {text!r}: unknown {what} {word!r}, did you mean {near[0]!r}?"
            )
    if (action == "slow") != (factor is not None):
        raise ValueError(
            f"failure.inject has {text!r}: `slow`, and nothing else, ends with a factor such as x5"
        )
    if int(number) < 1:
        raise ValueError(f"failure.inject has {text!r}: rounds are counted from 1")
    if factor is not None and float(factor) < 1:
        raise ValueError(f"failure.inject has {text!r}: a step cannot be made faster; give x1 or more")
    if action == "slow" and step in OPEN_ENDED:
        lasting = ", ".join(one for one in STEPS if one not in OPEN_ENDED)
        raise ValueError(f"failure.inject has {text!r}: `slow` is for the steps {lasting}")
    if action == "corrupt" and step not in SENDING:
        raise ValueError(f"failure.inject has {text!r}: `corrupt` is for the steps {', '.join(SENDING)}")
    return Fault(action, int(silo), int(number), step, float(factor or 1.0))
