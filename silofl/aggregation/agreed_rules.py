"""From [secure] to the protocol's rules, agreed once for a run."""

from __future__ import annotations

import numpy as np

from silofl.comm.protocol import Communicator
from silofl.config import SecureConfig
from silofl.crypto.masks import Prg
from silofl.crypto.secagg import Rules
from silofl_kernels import cpu


def rules_for(comm: Communicator, config: SecureConfig, silos: int) -> Rules:
    """The rules that [secure] names; `prg = "auto"` is settled between the ranks. Collective.

    The threshold is that of the run's `silos`, and falls with none that are lost: as few could open a secret.
    """
    prg = common_prg(comm) if config.prg == "auto" else config.prg
    return Rules(prg, config.bits, config.threshold or silos // 2 + 1, config.allow_two)


def common_prg(comm: Communicator) -> Prg:
    """AES-128 where every rank's processor has AES units, ChaCha20 otherwise; collective."""
    fast = cpu.path("aes") != "portable"
    everywhere = comm.allreduce(np.array([fast], np.int64), "min")[0]
    return "aes-128-ctr" if everywhere else "chacha20"
