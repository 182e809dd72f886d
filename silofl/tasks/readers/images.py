"""A folder of images, one folder for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from silofl.config import TaskConfig
from silofl.errors import DataError, MissingDependencyError
from silofl.tasks.readers.folders import files_below, kinds_of
from silofl.tasks.readers.labels import encode, expected, remedy
from silofl.tasks.readers.pixels import (
    AS_THEY_ARE,
    COLOURS,
    MOST_PIXELS,
    SCALED,
    Picture,
    TooManyPixelsError,
    read_picture,
)
from silofl.tasks.readers.rows import listed, places
from silofl.tasks.readers.source import Options, Samples, Source, optional, reading, refuse_huge

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_SHOWN = 100
"""Names that a silo is told of its own images."""


def read_images(source: Source, options: Options) -> Samples:
    """Read `class/name.png` (or JPEG, BMP, TIFF) of every class folder, in the order of their names.

    Images become greys or colours, as `channels` says or as all are stored, and are resized to `image_size`;
    those of 8 and 16 bits are scaled to 0..1, float and 32-bit ones and those with a sign stay as they are.
    The label is the name of the folder at the top; images in folders below it are of the same class. What
    else is there is passed over, with a notice unless it is hidden.

    Raises:
        DataError: no image at all.
        MissingDependencyError: pillow is not installed.
    """
    optional("PIL.Image", f"reading the images of {source}")
    with reading(source, "a folder"):
        every = files_below(source.path)
    images = [path for path in every if path.suffix.lower() in SUFFIXES]
    files = [path for path in images if path.parent != source.path]
    notices = _notices(source.path, every, images, files)
    if not files:
        there = f"; {'; '.join(notices)}" if notices else ""
        raise DataError(
            f"silo {source.silo} has no samples: {source.path} has no images in folders "
            f"that are named after the classes{there}"
        )
    calls = _Names(source.path, files)
    pictures, problems = _pictures(source, files, options.task, calls)
    unfit = _unfit(calls, pictures)
    if mixed := len({picture.values.shape for picture in pictures.values()}) > 1:
        colour = [path for path, picture in pictures.items() if picture.colour]
        unfit.append(
            f"{calls.told(colour)} are stored in colour and others in grey: set task.channels = 1 to "
            "read all as grey, or 3 to read all in colour, at every silo"
        )
    values = [picture.values for picture in pictures.values()]
    return Samples(
        np.stack(values) if values and not mixed else np.empty((len(values), 1, *options.task.image_size)),
        _labels(source, list(pictures), options, problems),
        (("image", _kind(pictures)),),
        (*problems, *unfit),
        (*notices, *_passed_over(pictures)),
        tuple(calls.own),
    )


class _Names:
    """How images are called: by number in sentences, and by name, which may be a patient's, to their silo."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self._folder, self._number = folder, {path: number for number, path in enumerate(files, start=1)}
        self.own: list[str] = []

    def told(self, paths: Sequence[Path]) -> str:
        """`2 image(s) (numbers 3 and 7 by name)`."""
        numbers = [self._number[path] for path in paths]
        names = [str(path.relative_to(self._folder)) for path in paths[:_SHOWN]]
        called = places("number", numbers)
        self.own.append(f"{called}: {listed(names, max(0, len(paths) - _SHOWN))}")
        return f"{len(paths)} image(s) ({called} by name)"


def _kind(pictures: dict[Path, Picture]) -> str:
    if pictures and all(picture.measured for picture in pictures.values()):
        return AS_THEY_ARE
    return COLOURS if any(len(picture.values) == 3 for picture in pictures.values()) else SCALED


def _notices(folder: Path, every: list[Path], images: list[Path], files: list[Path]) -> list[str]:
    other = [path for path in every if path.suffix.lower() not in SUFFIXES]
    found = [f"{len(other)} file(s) of other kinds ({kinds_of(other)}) are passed over"] if other else []
    loose = len(images) - len(files)
    if loose:
        found.append(f"{loose} image(s) outside of the classes' folders are passed over")
    deep = sum(path.parent.parent != folder for path in files)
    if deep:
        found.append(f"{deep} image(s) in folders below those of the classes are read as of the same class")
    return found


def _pictures(
    source: Source, files: Sequence[Path], task: TaskConfig, calls: _Names
) -> tuple[dict[Path, Picture], list[str]]:
    """The images that can be read, and what is wrong with the others."""
    height, width = task.image_size
    refuse_huge(source, len(files) * height * width * (task.channels or 1), "the images")
    pictures: dict[Path, Picture] = {}
    large, damaged = [], []
    for path in files:
        try:
            pictures[path] = read_picture(Source(path, source.silo), (height, width), task.channels)
        except TooManyPixelsError:
            large.append(path)
        except (MemoryError, MissingDependencyError):
            raise
        except Exception:
            damaged.append(path)
    problems = []
    if damaged:
        problems.append(
            f"{calls.told(damaged)} cannot be read as an image, damaged or of a kind that is not known, "
            "such as float of 64 bits: replace or remove them"
        )
    if large:
        problems.append(
            f"{calls.told(large)} would unpack to more than {MOST_PIXELS} pixels, as a decompression "
            "bomb does: reduce or remove them"
        )
    return pictures, problems


def _labels(source: Source, paths: list[Path], options: Options, problems: list[str]) -> NDArray[np.int64]:
    labels = [path.relative_to(source.path).parts[0] for path in paths]
    classes, _ = encode(labels, options.task, "", "", range(len(paths)))
    strange = {label for label, number in zip(labels, classes.tolist(), strict=True) if number < 0}
    if strange:
        problems.append(
            f"{len(strange)} folder(s) with {np.count_nonzero(classes < 0)} image(s) have names that are not "
            f"{expected(options.task)}: rename or remove them, or {remedy(options.task)}"
        )
    return classes


def _unfit(calls: _Names, pictures: dict[Path, Picture]) -> list[str]:
    """What is wrong with images that can be read."""
    measured = [path for path, picture in pictures.items() if picture.measured]
    infinite = [path for path in measured if not np.isfinite(pictures[path].values).all()]
    found = []
    if measured and len(measured) < len(pictures):
        found.append(
            f"{calls.told(measured)} of float, 32-bit or signed values stay as they are, and others are "
            "scaled from 0 to 1: write all of one type"
        )
    if infinite:
        found.append(f"{calls.told(infinite)} with values that are missing or infinite: correct them")
    return found


def _passed_over(pictures: dict[Path, Picture]) -> list[str]:
    colour = sum(picture.colour and len(picture.values) == 1 for picture in pictures.values())
    counts = Counter(part for picture in pictures.values() for part in picture.passed_over)
    found = [f"{colour} image(s) stored in colour are read as grey"] if colour else []
    return [*found, *(f"of {count} image(s) {part} is passed over" for part, count in counts.items())]
