"""The mask of [prune]: which parameters are left, in all silos the same ones, as a part of the run.

Whenever a round has left every rank the same global model, each makes the next mask from it and from the
mask before: nothing travels for it. A silo that comes back is told the mask, and so is one that a resume
finds in an older round.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from itertools import pairwise
from typing import final

import numpy as np

from silofl.aggregation.compressed import Compression
from silofl.aggregation.pruned_sum import shortened
from silofl.aggregation.residuals import Residuals
from silofl.aggregation.spec import VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.errors import ConfigError
from silofl.federation.stateful import Json, Part, State
from silofl.federation.sum_spec import unfit
from silofl.pruning.base import ScheduledRule
from silofl.training.flat import FlatModel, as_array
from silofl.training.pruned_weights import weights_of
from silofl.types import Mask, Vector


@final
class GlobalMask(Part):
    """One rank's mask; all ranks have the same.

    Args:
        group: the ranks.
        rule: by which weights are pruned.
        model: this silo's.
        residuals: this silo's, of error feedback, which lose what is pruned.

    Attributes:
        kept: which parameters are left (P,); another array whenever it changes.

    Raises ConfigError, with the numbers, where the rule would leave a tensor nothing.
    """

    name = "prune"

    def __init__(
        self, group: ElasticGroup, rule: ScheduledRule, model: FlatModel, residuals: Residuals
    ) -> None:
        self._group, self._rule, self._residuals = group, rule, residuals
        self._weights = weights_of(model)
        refusal = rule.refusal(self._weights)
        if refusal is not None:
            raise ConfigError(refusal)
        bounds = pairwise([0, *model.tensor_ends.tolist()])
        self._places = {name: slice(*pair) for name, pair in zip(model.tensor_names, bounds, strict=True)}
        self.kept: Mask = np.ones(model.trainable, np.bool_)

    @classmethod
    def of(
        cls, group: ElasticGroup, config: Config, model: FlatModel, residuals: Residuals
    ) -> GlobalMask | None:
        """That of a configuration; None where nothing is pruned."""
        rule = config.prune.rule
        if rule is None:
            return None
        made = cls(group, rule, model, residuals)
        way = Compression.of(config.compress)
        refusal = None if way is None else unfit([made._left_at_end(model)], way.codec)
        if refusal is not None:
            raise ConfigError(f"with what [prune] leaves at the end, {refusal}")
        return made

    def _left_at_end(self, model: FlatModel) -> VectorSpec:
        """An update of as many values as are left at the end."""
        values = as_array(model.parameters)
        left = self._rule.kept(values, self.kept, self._weights, self._rule.end)
        names, shapes = tuple(model.tensor_names), tuple(model.tensor_shapes)
        whole = VectorSpec("update", model.trainable, tensors=names, ends=model.tensor_ends, shapes=shapes)
        return shortened(whole, left)

    @property
    def density(self) -> float:
        """Which part of the weights that may be pruned is left."""
        chosen = self._rule.prunable(self._weights)
        left = sum(int(self.kept[one.place].sum()) for one in chosen)
        return left / sum(one.size for one in chosen)

    def digest(self) -> str:
        """SHA-256 (hex) of the mask."""
        return hashlib.sha256(self._packed()).hexdigest()

    def follow(self, round_number: int, shared: Mapping[str, Vector]) -> None:
        """Prune after a round, where that is due, and zero what is pruned of all `shared` vectors (P,)."""
        if self._rule.due(round_number):
            before, self.kept = self.kept, self.mask_after(round_number, shared["model"])
            self._residuals.common.clear()  # of other matrices, or other places
            self._cut(before)
        pruned = ~self.kept
        for vector in shared.values():
            vector[pruned] = 0

    def mask_after(self, round_number: int, values: Vector) -> Mask:
        """The mask (P,) after a round that left the parameters `values` (P,)."""
        return self._rule.kept(values, self.kept, self._weights, round_number)

    def _cut(self, before: Mask) -> None:
        """Let residuals, which have the places of the mask `before`, have those of the one that there is."""
        left = self._residuals.values
        for key, values in list(left.items()):
            place = self._places.get(key.partition("/")[2])
            if place is None:  # of a sketch, which has no places and another length now
                del left[key]
                continue
            whole = np.zeros(place.stop - place.start, values.dtype)
            whole[before[place]] = values
            left[key] = whole[self.kept[place]]

    def _packed(self) -> bytes:
        return np.packbits(self.kept).tobytes()

    def _unpacked(self, packed: bytes) -> Mask:
        return np.unpackbits(np.frombuffer(packed, np.uint8), count=len(self.kept)).astype(np.bool_)

    def state(self) -> State:
        """See `Stateful`."""
        return {"kept": np.frombuffer(self._packed(), np.uint8)}

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`. Ranks that have not committed the round take its mask from the first that has."""
        own = self.kept if state is None else self._unpacked(state["kept"].tobytes())
        group = self._group

        def spread() -> bytes:
            first = next(silo for silo in group.members if silo in committed_by)
            mine = np.packbits(own).tobytes() if group.silo_id == first else b""
            return group.comm.allgather_bytes(mine)[group.members.index(first)]

        self.kept = self._unpacked(group.step(spread))
        self._cut(own)

    def rejoin_state(self) -> Json:
        """See `Stateful`."""
        return {"kept": base64.b64encode(self._packed()).decode()}

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`; what this silo had not sent of weights that were pruned since is dropped."""
        before = self.kept if own is None else self._unpacked(own["kept"].tobytes())
        self.kept = self._unpacked(base64.b64decode(told["kept"]))
        self._cut(before)


def kept_of(mask: GlobalMask | None) -> Mask | None:
    """Which parameters are left, (P,); None where nothing is pruned."""
    return None if mask is None else mask.kept
