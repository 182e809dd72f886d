"""A folder of images, one folder for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl.tasks.readers.source import Options, Samples, Source, optional, reading

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


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
    with reading(image, "an image"), pillow.open(Path(image.path)) as opened:
        deep = opened.mode.startswith("I")
        grey = np.asarray(opened if deep else opened.convert("L"), dtype=np.float32)
        resized = pillow.fromarray(grey).resize((size[1], size[0]), pillow.Resampling.BILINEAR)
        return np.asarray(resized, dtype=np.float32) / np.float32(65535 if deep else 255)
