"""A whole round of n parties in one process; every message is bytes, and any silo may die at any step."""

import functools
import hashlib
import itertools
from dataclasses import dataclass, field

import numpy as np

from silofl.crypto import identity as identity_module
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Roster
from silofl.crypto.secagg import Round, Rules, SumInputs, advertise, agree, bind, mask, reveal, share, unmask
from silofl.errors import ThresholdError
from tests.crypto.naive import DTYPES, mask_words

STEPS = ("advertise", "share", "mask", "agree", "reveal", "never")
"""A silo dies before this step has an effect on others: `mask` is before its masked vector is delivered."""
SESSION = bytes(range(16))
CONFIG = bytes(32)
INPUTS, HEARD = SumInputs(*(bytes([200 + k]) * 32 for k in range(4))), b"h" * 32


@functools.cache
def identities(n):
    return [Identity.from_private_bytes(bytes([k]) * 32) for k in range(n)]


@functools.cache
def roster(n):
    return Roster.ephemeral([one.public for one in identities(n)])


def make_round(n, number=1, session=SESSION, members=None, **rules):
    return Round(session, number, roster(n), CONFIG, members or tuple(range(n)), Rules(**rules))


def remember_verifications(monkeypatch):
    """All parties of one process verify the same signature: do it once (for the exhaustive tests)."""
    remembered = functools.lru_cache(4096)(identity_module.verify)
    monkeypatch.setattr("silofl.crypto.roster.verify_signature", remembered)


def no_tamper(step, sender, receiver, data):
    return data


@dataclass
class Network:
    """Runs a round. `dies[silo]` is the step before which it dies; `tamper` may alter any delivery."""

    context: Round
    vectors: dict
    dies: dict = field(default_factory=dict)
    tamper: object = no_tamper
    stages: dict = field(default_factory=dict)
    masked: dict = field(default_factory=dict)
    survivors: frozenset = frozenset()
    sent: dict = field(default_factory=dict)
    entropy: object = None
    inputs: dict = field(default_factory=dict)
    """What decides the sum, where a silo was given something else than the others."""

    def alive(self, step):
        order = STEPS.index(step)
        return [k for k in self.context.members if STEPS.index(self.dies.get(k, "never")) > order]

    def deliver(self, step, sent, receiver):
        """A broadcast, as `receiver` gets it."""
        return {s: self.tamper(step, s, receiver, data) for s, data in sent.items() if s != receiver}

    def run(self, stop=None):
        """The sum of survivors' vectors as each living silo computes it; None if stopped before a step."""
        for name in STEPS[:5]:
            if name == stop:
                return None
            self.sent[name] = self.step(name, getattr(self, name))
            if name == "mask":
                self.survivors = frozenset(self.sent[name])
        if stop == "unmask":
            return None
        zeros = np.zeros(self.length, DTYPES[self.context.rules.bits])
        total = sum((self.masked[k] for k in self.survivors), zeros)
        return self.step("reveal", lambda k: (self.stages[k], self.unmask(k, total)))

    @property
    def length(self):
        return len(next(iter(self.vectors.values())))

    def advertise(self, k):
        entropy = {"entropy": self.entropy(k)} if self.entropy else {}
        return advertise(self.context, k, identities(len(self.context.roster))[k], **entropy)

    def share(self, k):
        return share(self.stages[k], self.deliver("advertise", self.sent["advertise"], k))

    def agree(self, k):
        return agree(self.stages[k], self.survivors, HEARD)

    def reveal(self, k):
        return reveal(self.stages[k], self.deliver("agree", self.sent["agree"], k))

    def step(self, name, action):
        """Let all who live take a step; what they send. Too few silos: everybody is told, or nobody."""
        sent, refusals = {}, []
        for k in self.alive(name):
            try:
                self.stages[k], sent[k] = action(k)
            except ThresholdError as refusal:
                refusals.append(refusal)
        if refusals:
            assert not sent
            raise refusals[0]
        return sent

    def mask(self, k):
        packets, length = self.sent["share"], self.length
        inbox = {s: self.tamper("share", s, k, p[k]) for s, p in packets.items() if s != k}
        stage = mask(self.stages[k], inbox, frozenset(packets), length)
        masks = bind(stage, self.inputs.get(k, INPUTS))
        self.masked[k] = self.vectors[k] + mask_words(masks, self.context.rules.bits, length)
        return stage, self.masked[k]

    def unmask(self, k, total):
        left = unmask(self.stages[k], self.deliver("reveal", self.sent["reveal"], k))
        return total + mask_words(left, self.context.rules.bits, len(total))


def random_vectors(n, length, bits, seed=0):
    rng = np.random.default_rng(seed)
    return {k: rng.integers(0, 1 << bits, length, dtype=DTYPES[bits]) for k in range(n)}


def plain_sum(vectors, silos):
    return sum((vectors[k] for k in silos), np.zeros_like(vectors[0]))


def repeatable(k):
    """Entropy that is the same in every run: two networks with it send the same messages."""
    counter = itertools.count()

    def entropy(count):
        return hashlib.shake_256(b"%d %d" % (k, next(counter))).digest(count)

    return entropy
