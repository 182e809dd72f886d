"""One model for all silos."""

from dataclasses import dataclass
from typing import final

from silofl.personal.base import Personal


@final
@dataclass(frozen=True)
class SharedOnly(Personal):
    """No model of a silo's own, but for what the task's attribute `private` names."""
