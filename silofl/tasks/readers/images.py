"""A folder of images, one folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError, MissingDependencyError
from silofl.tasks.readers.folders import files_below, kinds_of
from silofl.tasks.readers.labels import encode, expected
from silofl.tasks.readers.pixels import (
    AS_THEY_ARE,
    MOST_PIXELS,
    SCALED,
    Picture,
    TooManyPixelsError,
    read_picture,
)
from silofl.tasks.readers.rows import listed
from silofl.tasks.readers.source import Options, Samples, Source, optional, reading

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_SHOWN = 5


def read_images(source: Source, options: Options) -> Samples:
    """Read `class/name.png` (or JPEG, BMP, TIFF) of every class folder, in the order of their names.

    Images become grey and are resized to `image_size`; those of 8 and 16 bits are scaled to 0..1, float and
    32-bit ones stay as they are. The label is the name of the folder at the top; images in folders below it
    are of the same class. What else is there is passed over, with a notice unless it is hidden.

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
    height, width = options.task.image_size
    pictures, problems = _pictures(source, files, (height, width))
    kinds = {picture.kind for picture in pictures.values()}
    return Samples(
        np.stack([picture.greys for picture in pictures.values()])[:, None]
        if pictures
        else np.empty((0, 1, height, width)),
        _labels(source, list(pictures), options, problems),
        (("image", AS_THEY_ARE if kinds == {AS_THEY_ARE} else SCALED),),
        (*problems, *_unfit(source, pictures)),
        (*notices, *_stored(pictures)),
    )


def _notices(folder: Path, every: list[Path], images: list[Path], files: list[Path]) -> list[str]:
    other = [path for path in every if path.suffix.lower() not in SUFFIXES]
    found = [f"{len(other)} file(s) that are no images ({kinds_of(other)}) are passed over"] if other else []
    loose = len(images) - len(files)
    if loose:
        found.append(f"{loose} image(s) outside of the classes' folders are passed over")
    deep = sum(path.parent.parent != folder for path in files)
    if deep:
        found.append(f"{deep} image(s) in folders below those of the classes are read as of the same class")
    return found


def _pictures(
    source: Source, files: Sequence[Path], size: tuple[int, int]
) -> tuple[dict[Path, Picture], list[str]]:
    """The images that can be read, and what is wrong with the others."""
    pictures: dict[Path, Picture] = {}
    large, damaged = [], []
    for path in files:
        try:
            pictures[path] = read_picture(Source(path, source.silo), size)
        except TooManyPixelsError:
            large.append(path)
        except (MemoryError, MissingDependencyError):
            raise
        except Exception:
            damaged.append(path)
    problems = []
    if damaged:
        problems.append(
            f"{_named(source, damaged)} cannot be read as an image, damaged or something else: replace or "
            "remove them"
        )
    if large:
        problems.append(
            f"{_named(source, large)} would unpack to more than {MOST_PIXELS} pixels, as a decompression "
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
            f"{expected(options.task)}: rename or remove them, or correct task.labels at every silo"
        )
    return classes


def _unfit(source: Source, pictures: dict[Path, Picture]) -> list[str]:
    """What is wrong with images that can be read."""
    measured = [path for path, picture in pictures.items() if picture.kind == AS_THEY_ARE]
    infinite = [path for path in measured if not np.isfinite(pictures[path].greys).all()]
    found = []
    if measured and len(measured) < len(pictures):
        found.append(
            f"{_named(source, measured)} of float or 32-bit values stay as they are, and others are scaled "
            "from 0 to 1: write all of one type"
        )
    if infinite:
        found.append(f"{_named(source, infinite)} with values that are missing or infinite: correct them")
    return found


def _stored(pictures: dict[Path, Picture]) -> list[str]:
    colour = sum(picture.colour for picture in pictures.values())
    paged = sum(picture.pages > 1 for picture in pictures.values())
    found = [f"{colour} image(s) stored in colour are read as grey"] if colour else []
    return [*found, *([f"of {paged} image(s) all pages but the first are passed over"] if paged else [])]


def _named(source: Source, paths: Sequence[Path]) -> str:
    shown = [str(path.relative_to(source.path)) for path in paths[:_SHOWN]]
    return f"{len(paths)} image(s) ({listed(shown, max(0, len(paths) - _SHOWN))})"
