"""FedPer: layers that stay with their silo, trained together with those that are shared."""

from dataclasses import dataclass
from typing import Any, final

from silofl.constrained import Names
from silofl.personal.base import Personal


@final
@dataclass(frozen=True)
class FedPer(Personal):
    """FedPer (Arivazhagan et al. 2019, "Federated Learning with Personalization Layers", algorithm 1).

    The named layers never leave their silo: they are in no sum and not in `model.safetensors`.
    """

    layers: Names = ()
    """Patterns (fnmatch) of the names of the parameters and buffers that stay, such as ["head.*"]."""

    effect = "part"
    needs_layers = True
    paper = "Arivazhagan et al. 2019"

    def private(self, module: Any) -> tuple[str, ...]:
        """See `Personal`."""
        return self.layers
