"""From one image file to an array of greys."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from silofl.tasks.readers.source import Source, optional

SCALED, AS_THEY_ARE = "greys from 0 to 1", "values as they are"
"""Kinds of images: integers of 8 and 16 bits are divided by their largest, others have no largest."""
MOST_PIXELS = 1 << 26
"""Of one image: a file of some kilobytes may stand for gigabytes."""
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
"""No others, whatever a file is called: pillow knows some that start programs, as EPS does Ghostscript."""
_GREY = ("1", "L", "LA", "I", "F")
_WHITE_IS_ZERO, _PHOTOMETRIC = 0, 262
"""Of TIFF 6.0, section 8; pillow inverts such images of 8 bits by itself."""


class TooManyPixelsError(Exception):
    """An image that unpacks to more than `MOST_PIXELS`."""


class Picture(NamedTuple):
    """One image."""

    greys: NDArray[np.float32]
    """(height, width)."""
    kind: str
    """`SCALED` or `AS_THEY_ARE`."""
    colour: bool
    """Whether it was stored in colour."""
    pages: int
    """How many the file has; the first is read."""


def read_picture(image: Source, size: tuple[int, int]) -> Picture:
    """Read an image as its camera was held (EXIF), grey, and resized to (height, width).

    Raises:
        TooManyPixelsError: it is larger than any image may be.
        Exception: whatever pillow raises of a file that it cannot read.
    """
    pillow = optional("PIL.Image", f"reading {image}")
    operations = optional("PIL.ImageOps", f"reading {image}")
    with _opened(pillow, image) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise TooManyPixelsError
        pages, inverted = getattr(opened, "n_frames", 1), _inverted(opened)
        opened.seek(0)
        upright = operations.exif_transpose(opened)
        deep = upright.mode.startswith("I;16") or (upright.mode == "I" and opened.format == "PNG")
        measured = upright.mode in ("I", "F") and not deep
        grey = np.asarray(upright if deep or measured else _to_grey(upright), dtype=np.float32)
    if not measured:
        grey = grey / np.float32(65535 if deep else 255)
    if inverted and deep:
        grey = 1 - grey
    resized = pillow.fromarray(grey).resize((size[1], size[0]), pillow.Resampling.BILINEAR)
    colour = not upright.mode.startswith(_GREY)
    kind = AS_THEY_ARE if measured else SCALED
    return Picture(np.asarray(resized, dtype=np.float32), kind, colour, pages)


def _opened(pillow: Any, image: Source) -> Any:
    """The image, of which only the header is read yet."""
    try:
        return pillow.open(image.path, formats=_FORMATS)
    except pillow.DecompressionBombError:  # beyond pillow's own limit
        raise TooManyPixelsError from None


def _to_grey(image: Any) -> Any:
    """As ITU-R 601-2 weighs colours; a palette's colours, and not its numbers."""
    return image.convert("L")


def _inverted(image: Any) -> bool:
    tags = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
