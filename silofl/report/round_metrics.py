"""The line that a round leaves in `metrics.jsonl`: its one schema, and what people should read beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from silofl.types import MetricValue

Json = dict[str, Any]
METRICS = "metrics"
"""Key of all metrics in a line."""
FIRST = ("loss", "accuracy")
"""What is shown before other metrics."""
_TUPLES = (
    *("began", "survivors", "rejected", "suspicious", "left_out", "failed", "rejoined", "withheld_metrics"),
)
BESIDE = ("epsilon", "density")
"""What is shown after them."""


@dataclass(frozen=True)
class RoundMetrics:
    """One round. The fields are the keys of its line, `means` as "metrics".

    A metric has a key of its own beside, unless a field has that name: "loss" and "accuracy" do.

    Attributes:
        round: from 1.
        means: the federation's metrics over held-out samples, such as "loss" and "accuracy"; None for one
            that is no number.
        undefined_metrics: metrics that are no number on some samples, which are left out, and at how many
            silos.
        withheld_metrics: metrics of so few silos that they would be those silos' own.
        epsilon: spent so far; None without privacy, or where nothing bounds it.
        clip_norm: of the next round, where it changes from round to round.
        per_silo: what silos show of their own, in the order of their numbers.
        began: silos that the round's sum was made for.
        drawn: silos that were drawn to take part, or had trained, where silos do so at their own pace; None
            where all take part, or where nobody knows.
        staleness: of the updates that are in it, by silo, how many rounds older than the newest the model was
            that each was trained from; None where all were trained from the newest.
        survivors: silos whose updates are in the model.
        rejected: silos whose updates had values that are not finite, which were left out.
        scores: of every silo's update, by silo, where [detection] scores them: "norm", "cosine", "distance",
            "rank" and "deviation" of `detection.update_scores.Score`, rounded; empty without.
        suspicious: silos whose updates are beyond `detection.threshold`.
        left_out: silos whose updates [detection] left out of this round.
        excluded: by silo that is left out from the next round on, why.
        reinstated: by silo that is in the sum again from the next round on, why.
        failed: silos that failed since the line before.
        rejoined: silos that came back since the line before.
        recovery_seconds: from the first error until the survivors had met again.
        clipped_silos: silos with values beyond `secure.range`; 0 where ranges are agreed.
        encoding_error: relative L2 error that rounding for the secure sum made, mean over silos.
        coarse_tensors: tensors of which rounding took more than 1 % at some silo, and at how many.
        lost_tensors: tensors of which rounding took more than half at some silo, whose values are far too
            small for the range, and at how many.
        faint_tensors: tensors of buffers so small at some silo that sums in units of 2^-96 may lose more than
            1 % of them, and at how many.
        widest: by tensor, the silos that asked for that range, where most others lost theirs.
        density: which part of the weights that may be pruned is left; None where none are pruned.
        bytes_sent: payload bytes that rank 0 handed to other ranks for sum, keys and new shared vectors.
        messages_sent: in how many payloads, each for one rank.
        bytes_between_groups: what of such payload all ranks together sent to other groups; None without
            groups.
        seconds: wall clock, the commit of the round before included.
        seconds_by_phase: means over the silos that were in a phase.
        train_seconds: how long each silo has trained for its update in this round, in the order of their
            numbers; None for one without, and empty where silos do not show what is their own.
    """

    round: int
    means: Mapping[str, MetricValue] = field(default_factory=dict)
    undefined_metrics: Mapping[str, int] = field(default_factory=dict)
    withheld_metrics: tuple[str, ...] = ()
    epsilon: float | None = None
    clip_norm: float | None = None
    per_silo: list[Mapping[str, float | None]] = field(default_factory=list)
    began: tuple[int, ...] = ()
    drawn: tuple[int, ...] | None = None
    staleness: Mapping[str, int] | None = None
    survivors: tuple[int, ...] = ()
    rejected: tuple[int, ...] = ()
    scores: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    suspicious: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)
    reinstated: Mapping[str, str] = field(default_factory=dict)
    failed: tuple[int, ...] = ()
    rejoined: tuple[int, ...] = ()
    recovery_seconds: float = 0.0
    clipped_silos: int = 0
    encoding_error: float = 0.0
    coarse_tensors: Mapping[str, int] = field(default_factory=dict)
    lost_tensors: Mapping[str, int] = field(default_factory=dict)
    faint_tensors: Mapping[str, int] = field(default_factory=dict)
    widest: Mapping[str, list[int]] = field(default_factory=dict)
    density: float | None = None
    bytes_sent: int = 0
    messages_sent: int = 0
    bytes_between_groups: int | None = None
    seconds: float = 0.0
    seconds_by_phase: Mapping[str, float] = field(default_factory=dict)
    train_seconds: list[float | None] = field(default_factory=list)

    def to_json(self) -> Json:
        """The line; what is None is left out, and a metric that is no number is null."""
        line: Json = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "means"}
        own_keys = {name: value for name, value in self.means.items() if name not in {*line, METRICS}}
        head = {"round": line.pop("round"), **own_keys, METRICS: dict(self.means)}
        found: Json = plain(head | {name: value for name, value in line.items() if value is not None})
        return found

    @classmethod
    def from_json(cls, line: Json) -> RoundMetrics:
        """The round again."""
        known = {one.name for one in fields(cls)} - {"means"}
        given = {name: value for name, value in line.items() if name in known}
        for name in _TUPLES:
            given[name] = tuple(given.get(name, ()))
        if "drawn" in given:
            given["drawn"] = tuple(given["drawn"])
        return cls(means=line.get(METRICS, {}), **given)

    @property
    def shown(self) -> list[tuple[str, MetricValue]]:
        """Names and values for people: loss and accuracy first, then the task's others, then `BESIDE`."""
        first = [name for name in FIRST if name in self.means]
        names = [*first, *(name for name in self.means if name not in FIRST)]
        own = [(name, getattr(self, name)) for name in BESIDE if getattr(self, name) is not None]
        return [(f"metrics/{name}" if name in BESIDE else name, self.means[name]) for name in names] + own

    def notices(self, value_range: float | None) -> list[str]:
        """What people should read beside the line; `value_range` is `secure.range`."""
        notices = self._unusual_metrics()
        if self.failed:
            notices.append(
                f"{silos_text(self.failed)} failed in round {self.round}; "
                f"recovered in {self.recovery_seconds:.2f} s"
            )
        if self.rejected:
            notices.append(
                f"left out of round {self.round}: {silos_text(self.rejected)}, whose update had values that "
                "are not finite"
            )
        for silo, why in self.excluded.items():
            notices.append(f"silo {silo} is excluded after round {self.round}: {why}")
        for silo, why in self.reinstated.items():
            notices.append(f"silo {silo} is reinstated after round {self.round}, on probation: {why}")
        if self.clipped_silos:
            beyond = f"secure.range = {value_range}, which were clipped; raise it, or leave it out"
            if value_range is None:
                beyond = (
                    "4 times those of most buckets, which were clipped: they attack, or are unlike the others"
                )
            notices.append(f"{self.clipped_silos} silos had values beyond {beyond}")
        wide = {} if value_range is not None else self._wide()
        notices += wide.values()
        for tensor, silos in self.coarse_tensors.items():
            if tensor in wide:
                continue
            notices.append(
                f"rounding for the secure sum took more than 1 % of {tensor} at {silos} silos; "
                'raise secure.bits, or set secure.rounding = "stochastic"'
            )
        notices += [
            f"{tensor} changed so little at {silos} silos that the secure sum of buffers, in units of 2^-96, "
            "may lose more than 1 % of it; keep it in another unit, in which it is larger"
            for tensor, silos in self.faint_tensors.items()
        ]
        return notices

    def _unusual_metrics(self) -> list[str]:
        """A sentence on each metric that leaves samples out, or is not shown."""
        present = len(self.survivors if self.drawn is None else self.began)
        notices = [
            f"the metric {name} is no number (or beyond 2^128) on some held-out samples of {silos} of "
            f"{present} silos, which are left out of it"
            for name, silos in self.undefined_metrics.items()
        ]
        notices += [
            f"the metric {name} is of so few silos that it would be their own, and silos do not share "
            "theirs (run.share_silo_metrics): it is not added up"
            for name in self.withheld_metrics
        ]
        return notices

    def _wide(self) -> dict[str, str]:
        """A sentence on each tensor whose range is so wide that most silos' values of it were lost."""
        notices = {}
        for tensor, lost in self.lost_tensors.items():
            asked, present = tuple(self.widest.get(tensor, ())), len(self.survivors)
            much = f"rounding for the secure sum took more than half of {tensor} at {lost} of {present} silos"
            if asked:
                notices[tensor] = (
                    f"{much}, for {silos_text(asked)} asked for so wide a range: look at the data and the "
                    "learning rate there, or set secure.range"
                )
            elif 2 * lost > present:
                notices[tensor] = (
                    f"{much}, and no silo says that its values need so wide a range: one stated a false one, "
                    "or failed since; set secure.range"
                )
        return notices


def silos_text(silos: tuple[int, ...]) -> str:
    """`silo 2` or `silos 1 and 2`."""
    if len(silos) == 1:
        return f"silo {silos[0]}"
    return f"silos {', '.join(map(str, silos[:-1]))} and {silos[-1]}"


def plain(value: Any) -> Any:
    """A tree as JSON has it: lists for tuples, null for numbers that JSON has no word for."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
