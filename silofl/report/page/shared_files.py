"""What a run directory tells to all: the files that `silofl report` reads, and none of a silo's own."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from silofl.errors import DataError
from silofl.report.evaluation_table import CROSS_SITE
from silofl.report.round_metrics import METRICS as MEANS
from silofl.report.round_metrics import RoundMetrics
from silofl.report.software import ENVIRONMENT
from silofl.types import MetricValue

CONFIG, METRICS, SUMMARY = "config.toml", "metrics.jsonl", "summary.json"
FILES = (CONFIG, METRICS, SUMMARY, ENVIRONMENT, CROSS_SITE)
"""All that is read of a run directory."""
MOST_BYTES = 1 << 28
"""Of a file: more than a run leaves, and less than fills a machine's memory."""
MOST_SILOS = 10_000
MOST_ROUNDS = 1 << 32
MOST_SECONDS = 1e10

Json = dict[str, Any]


def _checked(value: Any) -> Any:
    if not _is_number(value):
        raise ValueError
    return value


def _is_number(value: Any) -> bool:
    """Whether a metric is one that silofl writes: a finite number, None, or lists of them."""
    if isinstance(value, list):
        return all(map(_is_number, value))
    return value is None or (isinstance(value, int | float) and abs(value) < float("inf"))


Metric = Annotated[MetricValue, AfterValidator(_checked)]
"""A metric as silofl writes it."""


class Summary(BaseModel):
    """What of `summary.json` is shown; keys that an older run lacks are as of none."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    silofl: str = ""
    rounds: int = Field(default=0, ge=0, le=MOST_ROUNDS)
    silos: int = Field(default=0, ge=0, le=MOST_SILOS)
    parameters: int | None = Field(default=None, ge=0, le=1 << 62)
    keys: str = ""
    personal: str = ""
    privacy: str = ""
    outside: str = ""
    epsilon: float | None = None
    epsilon_per_silo: list[float | None] | None = None
    delta: float | None = None
    models_sha256: dict[str, str] = {}


class CrossSite(BaseModel):
    """One model on one data set, as `silofl evaluate --cross-site` leaves it."""

    model_config = ConfigDict(frozen=True)

    model: str
    data: str
    samples: int = 0
    metrics: dict[str, Metric] = {}


@dataclass(frozen=True)
class SharedFiles:
    """A run, as far as it has come.

    Attributes:
        folder: the name of its directory, without the folders above.
        config: the tables of its configuration; empty where there is none.
        rounds: those that are over, in order.
        summary: None for a run that has not ended.
        environment: what it ran on; empty of a run of an older version.
        cross_site: each model on each data set; empty where that was not evaluated.
        remarks: sentences on what is not there.
    """

    folder: str
    config: Mapping[str, Json]
    rounds: Sequence[RoundMetrics]
    summary: Summary | None
    environment: Mapping[str, Json]
    cross_site: Sequence[CrossSite]
    remarks: Sequence[str]

    @property
    def name(self) -> str:
        """What the run is called: as its configuration says, else as its directory."""
        return str(self.config.get("run", {}).get("name") or self.folder)

    @property
    def silos(self) -> int:
        """How many silos it has, those included that no round was made for."""
        told = [silo for one in self.rounds for silo in (*one.began, *one.failed, *one.rejoined)]
        return max(
            0 if self.summary is None else self.summary.silos,
            *(len(one.per_silo) for one in self.rounds),
            *(silo + 1 for silo in told),
            0,
        )

    @property
    def private(self) -> bool:
        """Whether its configuration has [privacy]."""
        return bool(self.config.get("privacy", {}).get("unit", "none") != "none")


def read_run(path: Path) -> SharedFiles:
    """Read what a run directory tells to all. No code of it is run, and no link in it is followed.

    Raises DataError, one sentence, where there is no run, or a file is none that silofl writes.
    """
    if not path.is_dir():
        raise DataError(f"{path} is no directory of a run: give one, such as runs/digits")
    lines, text = _read(path / METRICS), _read(path / CONFIG)
    if lines is None and text is None:
        raise DataError(f"{path} holds no run: it has neither {CONFIG} nor {METRICS}")
    rounds, torn = _rounds(lines or b"", path / METRICS)
    config = {} if text is None else _tables(text, path / CONFIG)
    summary = _json(path / SUMMARY, TypeAdapter(Summary))
    planned = config.get("run", {}).get("rounds")
    remarks = [] if text is not None else [f"{CONFIG} is missing: what was configured is not known."]
    if summary is None:
        told = f"{len(rounds)} of {planned}" if isinstance(planned, int) else str(len(rounds))
        remarks.append(
            f"This run has not ended: {told} rounds are told of. It is going on, or was stopped before."
        )
    elif rounds and summary.rounds != rounds[-1].round:
        remarks.append(
            f"{SUMMARY} is of {summary.rounds} rounds and {METRICS} of {rounds[-1].round}: the run went on "
            "after its end, and has not ended again."
        )
        summary = None
    remarks += ["The last line was being written when it was read, and is left out."] * torn
    environment = _json(path / ENVIRONMENT, TypeAdapter(dict[str, dict[str, str | int | None]]))
    cross_site = _json(path / CROSS_SITE, TypeAdapter(list[CrossSite]))
    folder = path.resolve().name
    return SharedFiles(folder, config, rounds, summary, environment or {}, cross_site or [], remarks)


def _read(path: Path) -> bytes | None:
    """The bytes of a plain file; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"{path} is no plain file, as silofl writes it")
            if found.st_size > MOST_BYTES:
                raise DataError(f"{path} has {found.st_size} bytes: it is none that silofl writes")
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:  # a link, too: what it leads to may be nothing to show
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _tables(text: bytes, path: Path) -> dict[str, Json]:
    try:
        tables = tomllib.loads(text.decode())
    except (ValueError, RecursionError):
        raise DataError(f"{path} is no TOML, as silofl writes it: it is damaged, or half written") from None
    if not all(isinstance(table, dict) for table in tables.values()):
        raise DataError(f"{path} has keys outside of sections: it is none that silofl writes")
    return tables


def _json(path: Path, kind: TypeAdapter[Any]) -> Any:
    text = _read(path)
    if text is None:
        return None
    try:
        return kind.validate_python(_parsed(text))
    except (ValidationError, ValueError, RecursionError):
        raise DataError(f"{path} is none that silofl writes: it is damaged, or half written") from None


def _parsed(text: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(constant)  # NaN and Infinity, which no file of silofl has

    return json.loads(text, parse_constant=refuse)


def _rounds(text: bytes, path: Path) -> tuple[list[RoundMetrics], bool]:
    """Every round, and whether the last line is torn."""
    *lines, rest = text.split(b"\n")
    kind, found = TypeAdapter(RoundMetrics), list[RoundMetrics]()
    for number, line in enumerate(lines, 1):
        try:
            parsed = _parsed(line)
            one = kind.validate_python(
                {
                    **{name: value for name, value in parsed.items() if name in _FIELDS},
                    "means": parsed.get(MEANS, {}),
                }
            )
        except (ValidationError, ValueError, RecursionError, AttributeError):
            raise DataError(f"{path} is damaged: line {number} is no round's, as silofl writes it") from None
        if not (found[-1].round if found else 0) < one.round < MOST_ROUNDS or not _in_bounds(one):
            raise DataError(f"{path} is damaged: line {number} is of no round that could follow")
        found.append(one)
    return found, bool(rest)


_FIELDS = {*RoundMetrics.__dataclass_fields__} - {"means"}


def _in_bounds(one: RoundMetrics) -> bool:
    silos = (*one.began, *one.survivors, *one.failed, *one.rejoined, *(one.drawn or ()))
    known = all(0 <= silo < MOST_SILOS for silo in silos) and len(one.per_silo) <= MOST_SILOS
    seconds = (one.seconds, one.recovery_seconds, *one.seconds_by_phase.values())
    numbers = [*one.means.values(), *(value for own in one.per_silo for value in own.values())]
    numbers += [value for score in one.scores.values() for value in score.values()]
    measured = all(0 <= value < MOST_SECONDS for value in seconds) and all(map(_is_number, numbers))
    return known and measured and 0 <= one.bytes_sent < 1 << 62
