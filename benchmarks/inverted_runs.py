"""Gradient inversion and trap weights on federations of digits: what is recovered from what others see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from attacked_runs import CLASSES, SHAPE, Dealt, Seen, digits, federate
from numpy.typing import NDArray
from torch import Tensor

from silofl.federation.first_models import drawn
from silofl.privacy_attacks.inversion.base import GradientInversion, Public
from silofl.privacy_attacks.inversion.candidate_matching import CandidateMatching
from silofl.privacy_attacks.inversion.cosine_matching import CosineMatching
from silofl.privacy_attacks.inversion.deep_leakage import DeepLeakage
from silofl.privacy_attacks.inversion.first_layer import FirstLayer
from silofl.privacy_attacks.reconstruction_quality import psnr, rank_in, ssim
from silofl.privacy_attacks.traps.registry import TRAPS
from silofl.tasks.user_code import UserCode

SILOS, LR, DELTA, CLIP = 10, 1.0, 1e-5, 1.0
RECOVERED_DB = 20.0
"""Peak signal-to-noise ratio from which on a digit counts as recovered."""
MOST_TO_SEARCH = 10
Images = NDArray[np.float64]


def attacks(model: str, examples: int) -> dict[str, GradientInversion]:
    """The inversions that can attack a model: `deep_leakage` needs one without ReLU. Of many examples, or
    for many to be searched at once, there are fewer steps and starts than by default."""
    many = examples > MOST_TO_SEARCH
    every: dict[str, GradientInversion] = {
        "first_layer": FirstLayer(),
        "deep_leakage": DeepLeakage() if examples == 1 else DeepLeakage(restarts=1),
        "cosine_matching": CosineMatching(steps=400, restarts=1) if many else CosineMatching(),
        "candidate_matching": CandidateMatching(),
    }
    without = {"cnn": ("first_layer", "deep_leakage"), "mlp": ("deep_leakage",), "tanh": ()}[model]
    return {name: attack for name, attack in every.items() if name not in without}


@dataclass(frozen=True)
class View:
    """A run, and what of it is attacked.

    Attributes:
        name: for tables.
        per_silo: how many digits each of the ten silos has.
        own: what silo 0 gives away is attacked, else the sum that is opened.
        secure: whether sums are secret-shared (`secagg`).
        epsilon: of `[privacy]`, by example; None without.
    """

    name: str
    per_silo: int
    own: bool
    secure: bool
    epsilon: float | None = None

    @property
    def examples(self) -> int:
        """How many are in what is attacked."""
        return self.per_silo if self.own else SILOS * self.per_silo

    @property
    def masked(self) -> bool:
        """Whether what is attacked is words under masks."""
        return self.own and self.secure

    def tables(self) -> Mapping[str, Any]:
        """The configuration: one round of FedSGD on all of a silo's digits."""
        secure = {"protocol": "secagg"} if self.secure else {"protocol": "plain"}
        found: dict[str, Any] = {"run": {"rounds": 1}, "secure": secure}
        if self.epsilon is None:
            return found | {"strategy": {"name": "fedsgd", "lr": LR}, "train": {"full_batch": True}}
        privacy = {"unit": "example", "target_epsilon": self.epsilon, "delta": DELTA, "sample_rate": 1.0}
        privacy["clip_norm"] = CLIP
        if self.own:  # noise of the silo's own, on its own gradient: one local step
            found |= {"train": {"steps": 1, "lr": LR}, "privacy": privacy | {"place": "local"}}
        else:
            found |= {"strategy": {"name": "fedsgd", "lr": LR}}
            found |= {"secure": secure | {"bits": 32}, "privacy": privacy | {"place": "distributed"}}
        return found

    def gradient(self, seen: Seen, silo: int = 0) -> dict[str, Tensor]:
        """What is attacked, as a mean gradient; of a silo, where it is a silo's."""
        if not self.own:
            return seen.step(LR)
        if self.secure:
            return seen.sent_by(silo, 2.0**-31)
        return seen.sent_by(silo, SILOS if self.epsilon is None else -SILOS / LR)

    def public(self, seen: Seen) -> Public:
        """What the attacker knows: the model, all digits with their labels, and noise and clipping."""
        # Shares of noise are made for all silos but one.
        share = 1.0 if self.own else math.sqrt(SILOS / (SILOS - 1)) / self.examples
        noise = {} if self.epsilon is None else {"noise": share * seen.noise_multiplier, "clip": CLIP}
        return Public(seen.before, SHAPE, CLASSES, self.examples, candidates=digits(), **noise)


VIEWS = (
    View("plain: what a silo sends, 1 digit", 1, own=True, secure=False),
    View("secagg: what a silo sends, 1 digit", 1, own=True, secure=True),
    View("secagg: the sum, 10 silos with 1 digit", 1, own=False, secure=True),
    View("secagg: the sum, 10 silos with 8 digits", 8, own=False, secure=True),
    View("secagg: the sum, 10 silos with 32 digits", 32, own=False, secure=True),
    View("DP, local: what a silo sends, 1 digit", 1, own=True, secure=False, epsilon=8.0),
    View("DP and secagg: the sum, 10 silos with 1 digit", 1, own=False, secure=True, epsilon=8.0),
)
NOISY = VIEWS[5]
PICTURED = (0, 1, 2, 4, 5, 6)


@dataclass(frozen=True)
class Inverted:
    """What one attack recovered of silo 0's digits in one run.

    Attributes:
        identified: how many are, of all digits, the nearest to some image that was recovered.
        recovered: how many have such an image at `RECOVERED_DB` or more.
        of: how many digits silo 0 has.
        psnr, ssim: of the best image of each, the median.
        epsilon: the accountant's.
        best: the image that is nearest to the first digit, and the digit.
    """

    view: str
    model: str
    attack: str
    seed: int
    identified: int
    recovered: int
    of: int
    psnr: float
    ssim: float
    epsilon: float | None
    best: tuple[Images, Images]


def dealt_to_silos(per_silo: int, seed: int) -> list[NDArray[np.int64]]:
    """Numbers of the digits of each silo."""
    drawn_numbers = np.random.default_rng([seed, 0]).permutation(len(digits()[0]))
    return list(drawn_numbers[: SILOS * per_silo].reshape(SILOS, per_silo))


def invert(view: View, model: str, seed: int) -> list[Inverted]:
    """One run, and every attack that its model allows."""
    dealt = dealt_to_silos(view.per_silo, seed)
    seen = federate(Dealt(model, dealt), SILOS, seed, view.tables())
    public, found = view.public(seen), []
    for name, attack in attacks(model, view.examples).items():
        rng = torch.Generator().manual_seed(seed)
        images = attack.examples(view.gradient(seen), public, rng).examples
        epsilon, best = seen.summary["epsilon"], pair(images, dealt[0][0])
        quality = compared(images, dealt[0])
        found.append(Inverted(view.name, model, name, seed, *quality, epsilon, best))
    return found


def compared(images: Images, truth: NDArray[np.int64]) -> tuple[int, int, int, float, float]:
    """See `Inverted`: identified, recovered, of, psnr, ssim."""
    pool, _ = digits()
    hits = {one for image in images for one in _most_alike(image) if rank_in(pool, one, image) == 0}
    ratios = [max((psnr(pool[one], image) for image in images), default=-math.inf) for one in truth]
    alike = [max((ssim(pool[one], image) for image in images), default=-1.0) for one in truth]
    recovered = sum(one >= RECOVERED_DB for one in ratios)
    identified = len(hits.intersection(truth.tolist()))
    return identified, recovered, len(truth), float(np.median(ratios)), float(np.median(alike))


def _most_alike(image: Images) -> list[int]:
    """The number of the digit that correlates most with an image; none where that is not defined."""
    pool = digits()[0].reshape(-1, image.size)
    pool = pool - pool.mean(axis=1, keepdims=True)
    alike = pool @ (image.ravel() - image.mean()) / np.linalg.norm(pool, axis=1)
    return [int(alike.argmax())] if np.isfinite(alike).all() else []


def pair(images: Images, truth: int) -> tuple[Images, Images]:
    """The image that is nearest to a digit, and the digit, (8, 8) each."""
    digit = digits()[0][truth]
    return max(images, key=lambda image: psnr(digit, image))[0], digit[0]


@dataclass(frozen=True)
class Trapped:
    """How many digits a trap recovered from the sum of all silos."""

    trap: str
    epsilon: float | None
    seed: int
    shown: int
    """How many images it takes for digits."""
    recovered: int
    """How many digits have one of these at `RECOVERED_DB` or more."""
    identified: int
    """How many digits have an image that no other of all digits is as similar to."""
    of: int


TRAPPED = replace(VIEWS[3], name="trapped")
"""The sum of ten silos with eight digits."""


def spring(trap: str, epsilon: float | None, seed: int) -> Trapped:
    """Silo 0 has the run begin with weights of its own, and looks at the sum of the first round."""
    dealt = dealt_to_silos(TRAPPED.per_silo, seed)
    every, pool = np.concatenate(dealt), digits()[0]
    task, kind = Dealt("mlp", dealt), TRAPS[trap]()
    others = np.setdiff1d(np.arange(len(pool)), every)
    public = Public(drawn(task, seed, UserCode(0), 0), SHAPE, CLASSES, len(every))
    like = pool[np.random.default_rng([seed, 3]).choice(others, 500, replace=False)].reshape(500, -1)
    planted = kind.weights(public, like, torch.Generator().manual_seed(seed))
    view = replace(TRAPPED, epsilon=epsilon)
    seen = federate(task, SILOS, seed, view.tables(), first=Dealt("mlp", dealt, planted))
    images = kind.examples(view.gradient(seen), view.public(seen)).examples
    identified, recovered, of, *_ = compared(images, every)
    return Trapped(trap, seen.summary["epsilon"], seed, len(images), recovered, identified, of)


@dataclass(frozen=True)
class Ranked:
    """Where each silo's only digit is among all digits by the likelihood of what that silo sends.

    Attributes:
        ranks: (silos,), how many of all digits are likelier.
        epsilon: the accountant's.
        noise: standard deviation of each value, in clipping norms.
    """

    ranks: list[int]
    epsilon: float
    noise: float


def rank(seed: int) -> Ranked:
    """One run of silos with a digit each and noise of their own, each silo's update attacked."""
    view, dealt = NOISY, dealt_to_silos(1, seed)
    seen = federate(Dealt("mlp", dealt), SILOS, seed, view.tables())
    public, ranks = view.public(seen), []
    for silo, [digit] in enumerate(dealt):
        scores = CandidateMatching().scores(view.gradient(seen, silo), public)
        ranks.append(int(np.count_nonzero(scores >= scores[digit])) - 1)
    return Ranked(ranks, seen.summary["epsilon"], seen.noise_multiplier)
