"""Which of an attacker's own candidates are in a gradient, by linear algebra, whatever the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch

from silofl.privacy_attacks.candidate_weights import Floats, candidate_weights
from silofl.privacy_attacks.inversion.base import (
    Gradient,
    GradientInversion,
    Public,
    Recovered,
    each_gradient,
)


@final
@dataclass(frozen=True)
class CandidateMatching(GradientInversion):
    """Least squares of a gradient over the gradients of candidates, which an attacker computes itself.

    Of one example it is the candidate of the largest likelihood under normal noise, the best that can be
    done; of several those of the largest weights in `candidate_weights`. It finds no example that is not
    among the candidates, and which ones are there is what it tells.
    """

    paper: ClassVar[str] = "none: linear least squares"

    def examples(self, gradient: Gradient, public: Public, rng: torch.Generator) -> Recovered:
        """See `GradientInversion`. Needs `public.candidates`."""
        if public.candidates is None:
            raise ValueError("there are no candidates, among which the gradient's examples are looked for")
        pool, labels = public.candidates
        best = np.argsort(-self.scores(gradient, public), kind="stable")[: public.examples]
        return Recovered(pool[best], labels[best])

    def scores(self, gradient: Gradient, public: Public) -> Floats:
        """Of each candidate (n,), the larger the surer that the gradient is of it."""
        assert public.candidates is not None, "the caller has some"
        pool, labels = public.candidates
        rows = each_gradient(public.module, pool, labels, public.clip)
        seen = np.concatenate([one.numpy().ravel() for one in gradient.values()])
        if public.examples == 1:
            return np.asarray(rows @ seen - np.square(rows).sum(axis=1) / 2)
        count, most = public.examples, len(pool)
        part = min(count / most, 1 - 1 / most)
        return candidate_weights(rows, count * seen, part, count * public.noise)
