"""From one image file to an array of greys or colours."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from silofl.tasks.readers.source import Source, optional

SCALED, COLOURS, AS_THEY_ARE = "greys from 0 to 1", "colours from 0 to 1", "values as they are"
"""Kinds of images: integers of 8 and 16 bits are divided by their largest, others have no largest."""
MOST_PIXELS = 1 << 26
"""Of one image: a file of some kilobytes may stand for gigabytes."""
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
"""No others, whatever a file is called: pillow knows some that start programs, as EPS does Ghostscript."""
_GREY = ("1", "L", "LA", "I", "F")
_WHITE_IS_ZERO, _PHOTOMETRIC = 0, 262
"""Of TIFF 6.0, section 8; pillow inverts such images of 8 bits by itself."""
_LARGEST = {"I;12": 4095}
"""Of integers that pillow gives as they are, by how a file has them; 16 bits otherwise."""


class TooManyPixelsError(Exception):
    """An image that unpacks to more than `MOST_PIXELS`."""


class Picture(NamedTuple):
    """One image."""

    values: NDArray[np.float32]
    """(channels, height, width): one of greys, or red, green and blue."""
    measured: bool
    """Whether they stay as they are: 32 bits, float or with a sign. All else is scaled from 0 to 1."""
    colour: bool
    """Whether it is stored in colour."""
    passed_over: tuple[str, ...]
    """What of the file is not read, as a part of a sentence."""


def read_picture(image: Source, size: tuple[int, int], channels: int | None = None) -> Picture:
    """Read an image as its camera was held (EXIF), resized to (height, width).

    Args:
        image: its file.
        size: height and width.
        channels: 1 for greys, 3 for colours; None: as it is stored.

    Raises:
        TooManyPixelsError: it is larger than any image may be.
        Exception: whatever pillow raises of a file that it cannot read.
    """
    pillow = optional("PIL.Image", f"reading {image}")
    operations = optional("PIL.ImageOps", f"reading {image}")
    with _opened(pillow, image) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise TooManyPixelsError
        stored, inverted, pages = _stored(opened), _inverted(opened), getattr(opened, "n_frames", 1)
        opened.seek(0)
        upright = operations.exif_transpose(opened)
        deep = upright.mode.startswith("I;16") or (upright.mode == "I" and opened.format == "PNG")
        measured = upright.mode in ("I", "F") and not deep
        colour = _in_colour(upright, stored)
        wanted = channels or (3 if colour else 1)
        flat = upright if deep or measured else upright.convert("RGB" if wanted == 3 and colour else "L")
        planes = np.atleast_3d(np.asarray(flat, dtype=np.float32)).transpose(2, 0, 1)
        passed_over = tuple(_passed_over(upright, stored, pages, deep=deep))
    if not measured:
        planes = planes / np.float32(_LARGEST.get(stored, 65535) if deep else 255)
    if inverted and deep:
        planes = 1 - planes
    resized = [
        np.asarray(pillow.fromarray(plane).resize((size[1], size[0]), pillow.Resampling.BILINEAR))
        for plane in planes
    ]
    values = np.stack(resized).astype(np.float32)
    return Picture(np.repeat(values, wanted // len(values), axis=0), measured, colour, passed_over)


def _stored(opened: Any) -> str:
    """How the file has its values, in pillow's words, such as `RGB;16B`; empty where that is not known."""
    told = opened.tile[0][3] if getattr(opened, "tile", None) else ""
    first = told[0] if isinstance(told, tuple) and told else told
    return first if isinstance(first, str) else ""


def _in_colour(image: Any, stored: str) -> bool:
    """Whether there are colours; a palette may be of greys, whose numbers say nothing."""
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return not (image.mode.startswith(_GREY) or stored.startswith("LA"))


def _passed_over(image: Any, stored: str, pages: int, *, deep: bool) -> list[str]:
    found = ["what is not its first page"] if pages > 1 else []
    if ";16" in stored and not deep and image.mode not in ("I", "F"):
        found.append("the lower half of 16 bits")
    if "transparency" in image.info or "A" in image.getbands():
        clear = image.convert("RGBA").getchannel("A").getextrema()[0] < 255
        found += ["transparency"] if clear else []
    return found


def _opened(pillow: Any, image: Source) -> Any:
    """The image, of which only the header is read yet."""
    try:
        return pillow.open(image.path, formats=_FORMATS)
    except pillow.DecompressionBombError:  # beyond pillow's own limit
        raise TooManyPixelsError from None


def _inverted(image: Any) -> bool:
    tags = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
