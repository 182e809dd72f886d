"""FedBN: batch normalization stays with its silo."""

from dataclasses import dataclass
from glob import escape
from typing import Any, final

from silofl.errors import ConfigError
from silofl.personal.base import Personal


@final
@dataclass(frozen=True)
class FedBN(Personal):
    """FedBN (Li et al. 2021, "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization").

    Weights, biases and running statistics of every batch normalization never leave their silo.
    """

    effect = "part"
    keeps_norms = True
    paper = "Li et al. 2021"

    def private(self, module: Any) -> tuple[str, ...]:
        """See `Personal`."""
        patterns = [
            escape(f"{name}.{tensor}" if name else tensor)
            for name, one in module.named_modules(remove_duplicate=False)
            if _is_batch_norm(one)
            for tensor, value in (*one._parameters.items(), *one._buffers.items())
            if value is not None and tensor != "num_batches_tracked"
        ]
        if not patterns:
            raise ConfigError(
                'personal.name = "fedbn" keeps batch normalization with each silo, and the model has none '
                'with values: set personal.name = "fedper" and personal.layers, or remove [personal]'
            )
        return tuple(patterns)


def _is_batch_norm(module: Any) -> bool:
    """Whether a class of torch's batch normalization is among its own: torch is not known on this floor."""
    return any(kind.__name__ == "_BatchNorm" for kind in type(module).__mro__)
