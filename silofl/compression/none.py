"""No codec: vectors travel whole, perhaps in fewer bits."""

from dataclasses import dataclass
from typing import final

from silofl.compression.base import Codec


@final
@dataclass(frozen=True)
class NoCodec(Codec):
    """All values are sent. `compress.bits` says in how many bits each."""

    shortens = True
