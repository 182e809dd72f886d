"""Records of persons who have several: who takes part in a step, and with which records."""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.streams import Stream, keystream

Indices = NDArray[np.int64]


class Sample(NamedTuple):
    """What takes part in a step, by the numbers of training records."""

    single: Indices
    """(any,) records that are all that their person brings."""
    groups: tuple[Indices, ...] = ()
    """Of each other person the records, two or more, that it brings together."""

    @property
    def persons(self) -> int:
        """How many they are."""
        return len(self.single) + len(self.groups)

    @property
    def first(self) -> Indices:
        """One record of each."""
        return np.concatenate([self.single, *(group[:1] for group in self.groups)])


@final
class Persons:
    """Whose each of a silo's training records is; where each is another's it is as if nobody were asked.

    Args:
        owners: (n,) the person of each record, counted from 0 in the order in which they first come.
        most: how many records of a person take part in a step, drawn for each step anew; None: all.
    """

    def __init__(self, owners: Indices, most: int | None = None) -> None:
        self._order = np.argsort(owners, kind="stable")
        self._ends = np.cumsum(np.bincount(owners)) if len(owners) else np.empty(0, np.int64)
        self._records, self._most = len(owners), most
        self._owners = owners

    def __len__(self) -> int:
        """How many persons there are."""
        return len(self._ends)

    def sample(self, persons: Indices, step: int, draws: Stream | None) -> Sample:
        """What these persons bring to a step, in their order; equal for equal steps.

        Of a person with too many records those take part whose 64-bit words of `draws` are the smallest: word
        step * n + k is that of the record at place k, where records stand person by person.
        """
        sizes = np.diff(self._ends, prepend=0)[persons]
        single = self._order[self._ends[persons[sizes == 1]] - 1]
        if len(single) == len(persons):
            return Sample(single)
        brought = [self._brought(person, step, draws) for person in persons[sizes > 1].tolist()]
        if self._most != 1:
            return Sample(single, tuple(brought))
        alone = np.empty(len(persons), np.int64)
        alone[sizes == 1], alone[sizes > 1] = single, np.concatenate(brought)
        return Sample(alone)

    def _brought(self, person: int, step: int, draws: Stream | None) -> Indices:
        end = int(self._ends[person])
        start = int(self._ends[person - 1]) if person else 0
        records = self._order[start:end]
        if self._most is None or draws is None or len(records) <= self._most:
            return records
        words = np.empty(8 * len(records), np.uint8)
        keystream(draws, words, position=8 * (step * self._records + start))
        chosen = np.argsort(words.view("<u8"), kind="stable")[: self._most]
        return records[np.sort(chosen)]
