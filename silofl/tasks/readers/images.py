"""A folder of images, one folder for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl.tasks.readers.source import Options, Samples, Source, optional, reading

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
"""No others, whatever a file is called: pillow knows some that start programs, as EPS does Ghostscript."""
_MOST_PIXELS = 1 << 26
"""Of one image: a file of some kilobytes may stand for gigabytes."""


def read_images(source: Source, options: Options) -> Samples:
    """Read `class/name.png` (or JPEG, BMP, TIFF) of every class folder, in the order of their names.

    Images become grey, are resized to `image_size` and scaled to 0..1; 16-bit images keep their depth.
    The label is the folder's name. Hidden files and files of other kinds are passed over.

    Raises:
        DataError: no image at all, or a damaged one, which is named.
        MissingDependencyError: pillow is not installed.
    """
    pillow = optional("PIL.Image", f"reading the images of {source}")
    with reading(source, "a folder"):
        files = sorted(path for path in source.path.glob("[!.]*/[!.]*") if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise DataError(
            f"silo {source.silo} has no samples: {source.path} has no images in folders "
            "that are named after the classes"
        )
    images = [_read(pillow, Source(path, source.silo), options.image_size) for path in files]
    return Samples(np.stack(images)[:, None], np.array([path.parent.name for path in files]))


def _read(pillow: Any, image: Source, size: tuple[int, int]) -> NDArray[np.float32]:
    with reading(image, "an image"), _opened(pillow, image) as opened:
        if opened.width * opened.height > _MOST_PIXELS:
            raise _too_large(image)
        deep = opened.mode.startswith("I")
        grey = np.asarray(opened if deep else opened.convert("L"), dtype=np.float32)
        resized = pillow.fromarray(grey).resize((size[1], size[0]), pillow.Resampling.BILINEAR)
        return np.asarray(resized, dtype=np.float32) / np.float32(65535 if deep else 255)


def _opened(pillow: Any, image: Source) -> Any:
    """The image, of which only the header is read yet."""
    try:
        return pillow.open(Path(image.path), formats=_FORMATS)
    except pillow.DecompressionBombError:  # beyond pillow's own limit
        raise _too_large(image) from None


def _too_large(image: Source) -> DataError:
    return DataError(
        f"{image} unpacks to more than {_MOST_PIXELS} pixels, as a decompression bomb does: "
        "reduce the image or take it out"
    )
