"""Folders of images that cannot be trained on: each case one sentence, and no program is started."""

import numpy as np
import pytest
from PIL import Image

from tests.tasks.refused import stop_reason


def test_folders_without_images(tmp_path):
    said = f"silo 2 has no samples: {tmp_path} has no images in folders that are named after the classes"
    assert stop_reason(tmp_path) == said
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "notes.txt").write_text("")
    Image.new("L", (8, 8)).save(tmp_path / "loose.png")
    assert stop_reason(tmp_path) == (
        f"{said}; 1 file(s) that are no images (1 .txt) are passed over; 1 image(s) outside of the classes' "
        "folders are passed over"
    )


def test_images_that_cannot_be_read_and_unknown_classes(tmp_path):
    """All of them in one sentence, and no folder's name, which may be a patient's."""
    for name in ("Miller", "0"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "a.png")
    whole = (tmp_path / "0" / "a.png").read_bytes()
    (tmp_path / "0" / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "0" / "c.png").write_bytes(b"")
    (tmp_path / "0" / "d.png").symlink_to(tmp_path / "away.png")
    assert stop_reason(tmp_path) == (
        f"{tmp_path} (silo 2) cannot be trained on: 3 image(s) (0/b.png, 0/c.png and 0/d.png) cannot "
        f"be read as "
        "an image, damaged or something else: replace or remove them; 1 folder(s) with 1 image(s) "
        "have names that "
        "are not an integer from 0 to 2: rename or remove them, or correct task.labels at every silo"
    )


def test_images_whose_values_are_no_numbers_or_of_two_scales(tmp_path):
    (tmp_path / "0").mkdir()
    Image.fromarray(np.array([[np.nan, 1], [2, np.inf]], np.float32)).save(tmp_path / "0" / "a.tif")
    Image.new("L", (8, 8)).save(tmp_path / "0" / "b.tif")
    assert stop_reason(tmp_path) == (
        f"{tmp_path} (silo 2) cannot be trained on: 1 image(s) (0/a.tif) of float or 32-bit values "
        f"stay as they "
        "are, and others are scaled from 0 to 1: write all of one type; 1 image(s) (0/a.tif) with "
        "values that "
        "are missing or infinite: correct them"
    )


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
0 setgray 0 0 10 10 rectfill
showpage
%%EOF
"""


def test_an_image_of_another_format_starts_no_program(tmp_path, monkeypatch):
    """Pillow knows a format by its content, and would give an EPS to Ghostscript."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "gs").write_text(f"#!/bin/sh\n: > {tmp_path}/started\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (tmp_path / "images" / "7").mkdir(parents=True)
    (tmp_path / "images" / "7" / "a.png").write_bytes(EPS)
    assert "cannot be read as an image" in stop_reason(tmp_path / "images")
    assert not (tmp_path / "started").exists()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "7" / "a.png", "GIF")
    assert "cannot be read as an image" in stop_reason(tmp_path / "images")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8200, 10000, 20000])  # below pillow's limits, between them, above them
def test_a_decompression_bomb_is_one_sentence(tmp_path, side):
    (tmp_path / "7").mkdir()
    Image.new("1", (side, side)).save(tmp_path / "7" / "a.png")
    assert "1 image(s) (7/a.png) would unpack to more than 67108864 pixels" in stop_reason(tmp_path)
