"""The line that a round leaves in `metrics.jsonl`: its one schema, and what people should read beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class RoundMetrics:
    """One round. The fields are the keys of its line; `means` are keys of their own.

    Attributes:
        round: from 1.
        means: the federation's means over held-out samples, such as "loss" and "accuracy".
        epsilon: spent so far; None without privacy, or where nothing bounds it.
        clip_norm: of the next round, where it changes from round to round.
        per_silo: what silos show of their own, in the order of their numbers.
        began: silos that the round's sum was made for.
        survivors: silos whose updates are in the model.
        failed: silos that failed since the line before.
        rejoined: silos that came back since the line before.
        recovery_seconds: from the first error until the survivors had met again.
        clipped_silos: silos with values beyond `secure.range`; 0 where ranges are agreed.
        encoding_error: relative L2 error that rounding for the secure sum made, mean over silos.
        coarse_tensors: tensors of which rounding took more than 1 % at some silo, and at how many.
        lost_tensors: tensors of which rounding took more than half at some silo, whose values are far too
            small for the range, and at how many.
        widest: by tensor, the silos whose values asked for that range, where most others lost theirs.
        bytes_sent: payload bytes that rank 0 handed to other ranks for sum, keys and new shared vectors.
        seconds: wall clock, the commit of the round before included.
        seconds_by_phase: means over the silos that were in a phase.
    """

    round: int
    means: Mapping[str, float] = field(default_factory=dict)
    epsilon: float | None = None
    clip_norm: float | None = None
    per_silo: list[Mapping[str, float]] = field(default_factory=list)
    began: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    rejoined: tuple[int, ...] = ()
    recovery_seconds: float = 0.0
    clipped_silos: int = 0
    encoding_error: float = 0.0
    coarse_tensors: Mapping[str, int] = field(default_factory=dict)
    lost_tensors: Mapping[str, int] = field(default_factory=dict)
    widest: Mapping[str, list[int]] = field(default_factory=dict)
    bytes_sent: int = 0
    seconds: float = 0.0
    seconds_by_phase: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> Json:
        """The line; what is None is left out."""
        line: Json = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "means"}
        head = {"round": line.pop("round"), **self.means}
        return head | {name: _plain(value) for name, value in line.items() if value is not None}

    @classmethod
    def from_json(cls, line: Json) -> RoundMetrics:
        """The round again."""
        known = {one.name for one in fields(cls)} - {"means"}
        given = {name: value for name, value in line.items() if name in known}
        for name in ("began", "survivors", "failed", "rejoined"):
            given[name] = tuple(given.get(name, ()))
        return cls(means={name: value for name, value in line.items() if name not in known}, **given)

    @property
    def shown(self) -> dict[str, float]:
        """The numbers that people look at first."""
        spent = {} if self.epsilon is None else {"epsilon": self.epsilon}
        return {name: self.means[name] for name in ("loss", "accuracy") if name in self.means} | spent

    def notices(self, value_range: float | None) -> list[str]:
        """What people should read beside the line; `value_range` is `secure.range`."""
        notices = []
        if self.failed:
            notices.append(
                f"{silos_text(self.failed)} failed in round {self.round}; "
                f"recovered in {self.recovery_seconds:.2f} s"
            )
        if self.clipped_silos:
            notices.append(
                f"{self.clipped_silos} silos had values beyond secure.range = {value_range}, "
                "which were clipped; raise it, or leave it out"
            )
        wide = {} if value_range is not None else self._wide()
        notices += wide.values()
        for tensor, silos in self.coarse_tensors.items():
            if tensor in wide:
                continue
            notices.append(
                f"rounding for the secure sum took more than 1 % of {tensor} at {silos} silos; "
                'raise secure.bits, or set secure.rounding = "stochastic"'
            )
        return notices

    def _wide(self) -> dict[str, str]:
        """A sentence on each tensor whose range is so wide that most silos' values of it were lost."""
        notices = {}
        for tensor, lost in self.lost_tensors.items():
            asked, present = tuple(self.widest.get(tensor, ())), len(self.survivors)
            much = f"rounding for the secure sum took more than half of {tensor} at {lost} of {present} silos"
            if asked:
                notices[tensor] = (
                    f"{much}, for the values of {silos_text(asked)} are so much larger: look at the data and "
                    "the learning rate there, or set secure.range"
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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
