"""Poisson sampling: which records take part in a step, by a secret keystream."""

from __future__ import annotations

import math
from typing import final

import numpy as np
from numpy.typing import NDArray

from silofl.errors import ConfigError
from silofl_kernels.streams import Stream, keystream

_PIECE = 1 << 20  # words of keystream in memory at a time


class Groups:
    """Groups of records that take turns: each record is in one, and may take part in that one's rounds alone.

    Record i's group is 64-bit word i of a secret stream, modulo how many there are, the same all through a
    run. Groups are independent of each other and of the data, so that a record that is added or removed
    changes nobody else's: where the records behind it stand tells nothing, for their groups are as likely.
    """

    def __init__(self, stream: Stream, records: int, groups: int) -> None:
        words = np.empty(8 * records, np.uint8)
        keystream(stream, words)
        self._of, self.count = (words.view("<u8") % np.uint64(groups)).astype(np.uint16), groups

    def in_turn(self, records: NDArray[np.int64], round_number: int) -> NDArray[np.int64]:
        """Those of `records` (n,) that may take part in a round."""
        mine: NDArray[np.bool_] = self._of[records] == round_number % self.count
        return records[mine]


@final
class PoissonSampler:
    """Each record takes part in each step with the same probability, independently of all else.

    This is the sampling that amplification assumes (Abadi et al. 2016, "Deep Learning with Differential
    Privacy", section 3.1; Mironov et al. 2019, "Renyi Differential Privacy of the Sampled Gaussian
    Mechanism"), and it assumes, too, that nobody knows who took part: choices come from a secret stream, not
    from the run's seed. Record i takes part in step s if 64-bit word s * records + i of the stream is below
    rate * 2^64, so that any step can be drawn again. A batch may be empty.

    Args:
        stream: this silo's own secret stream, used for nothing else. AES has words for 2^59 choices;
            ChaCha20 for 2^35, after which `draw` raises ValueError.
        records: how many there are.
        rate: the probability, above 0 and at most 1; kept to 2^-64, never rounded up.

    Raises:
        ConfigError: a rate that is no probability above 0.
    """

    def __init__(self, stream: Stream, records: int, rate: float) -> None:
        if not 0 < rate <= 1:
            raise ConfigError(f"privacy.sample_rate = {rate} is no probability; set it above 0 and at most 1")
        self._stream, self._records, self._all = stream, records, rate == 1
        self._threshold = np.uint64(0 if self._all else int(math.ldexp(rate, 64)))

    def draw(self, step: int) -> NDArray[np.int64]:
        """The records of a step, ascending, int64 (any number from none to all); equal for equal steps."""
        if self._all:
            return np.arange(self._records)
        pieces = [self._piece(step, start) for start in range(0, self._records, _PIECE)]
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def _piece(self, step: int, start: int) -> NDArray[np.int64]:
        size = min(_PIECE, self._records - start)
        stream = np.empty(8 * size, np.uint8)
        keystream(self._stream, stream, position=8 * (step * self._records + start))
        return np.flatnonzero(stream.view("<u8") < self._threshold) + start
