"""[clients]: many clients within each silo, as of devices whose data the silo holds for them."""

from __future__ import annotations

from typing import Literal

from silofl.config.section import Section
from silofl.constrained import PositiveFloat, PositiveInt


class ClientsConfig(Section):
    """[clients]: many clients in each silo, each of which trains by itself on its part of the silo's data."""

    per_silo: PositiveInt | None = None
    """How many clients each silo has. Their updates are added up in the silo, which holds their data, and the
    mean is what the silo brings to the sum; memory does not grow with their number."""
    per_round: PositiveInt | None = None
    """How many of them train in a round in each silo, drawn without replacement by `run.seed`; all when
    unset. Under `privacy.unit = "client"` each is drawn with probability `privacy.sample_rate` instead."""
    split: Literal["iid", "dirichlet", "owner"] = "iid"
    """Which records are whose: about as many for each client and alike (`iid`), unlike in classes
    (`dirichlet`), or by whose a record is (`owner`): each person of `data.owner_column`, or of a task's
    `SiloData.owners`, is a client, and `per_silo` is unset."""
    alpha: PositiveFloat = 0.5
    """`dirichlet`: its concentration; small is skewed."""
    batched: bool = True
    """Train many clients at once by torch.func.vmap where model, task and optimizer allow, which
    `silofl check` tells; `false` trains them one after the other. Both give the same but for rounding. Under
    `privacy.unit = "client"` they always train one after the other."""

    @property
    def active(self) -> bool:
        """Whether silos have clients."""
        return self.per_silo is not None or self.split == "owner"

    @property
    def idle(self) -> tuple[str, ...]:
        """Keys that do nothing as the others are."""
        if not self.active:
            return tuple(type(self).model_fields)
        return () if self.split == "dirichlet" else ("alpha",)
