"""FedBN: batch normalization stays with its silo."""

from dataclasses import dataclass
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
    paper = "Li et al. 2021"

    def private(self, module: Any) -> tuple[str, ...]:
        """See `Personal`."""
        from torch.nn.modules.batchnorm import _BatchNorm

        found = [name for name, one in module.named_modules() if isinstance(one, _BatchNorm)]
        patterns = [
            f"{name}.{tensor}" if name else tensor
            for name in found
            for tensor, value in (*_direct(module, name, "_parameters"), *_direct(module, name, "_buffers"))
            if value is not None and tensor != "num_batches_tracked"
        ]
        if not patterns:
            raise ConfigError(
                'personal.name = "fedbn" keeps batch normalization with each silo, and the model has none '
                'with values: set personal.name = "fedper" and personal.layers, or remove [personal]'
            )
        return tuple(patterns)


def _direct(module: Any, path: str, table: str) -> list[tuple[str, Any]]:
    return list(getattr(module.get_submodule(path), table).items())
