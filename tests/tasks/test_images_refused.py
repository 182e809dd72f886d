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
        f"{said}; 1 file(s) of other kinds (1 .txt) are passed over; 1 image(s) outside of the classes' "
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
        f"{tmp_path} (silo 2) cannot be trained on: 3 image(s) (numbers 2 to 4 by name) cannot "
        f"be read as "
        "an image, damaged or of a kind that is not known, such as float of 64 bits: replace or remove "
        "them; 1 folder(s) with 1 image(s) "
        "have names that "
        "are not an integer from 0 to 2: rename or remove them, or raise task.classes or "
        "name the words in task.labels, the same at every silo"
    )


def test_images_whose_values_are_no_numbers_or_of_two_scales(tmp_path):
    (tmp_path / "0").mkdir()
    Image.fromarray(np.array([[np.nan, 1], [2, np.inf]], np.float32)).save(tmp_path / "0" / "a.tif")
    Image.new("L", (8, 8)).save(tmp_path / "0" / "b.tif")
    assert stop_reason(tmp_path) == (
        f"{tmp_path} (silo 2) cannot be trained on: 1 image(s) (number 1 by name) of float, 32-bit or signed "
        "values "
        f"stay as they "
        "are, and others are scaled from 0 to 1: write all of one type; 1 image(s) (number 1 by name) with "
        "values that "
        "are missing or infinite: correct them"
    )


def test_images_of_which_only_some_are_in_colour(tmp_path):
    (tmp_path / "0").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "0" / "a.png")
    Image.new("L", (8, 8)).save(tmp_path / "0" / "b.png")
    assert stop_reason(tmp_path) == (
        f"{tmp_path} (silo 2) cannot be trained on: 1 image(s) (number 1 by name) are stored in colour and "
        "others in "
        "grey: set task.channels = 1 to read all as grey, or 3 to read all in colour, at every silo"
    )


def test_images_that_would_not_fit_in_memory(tmp_path):
    (tmp_path / "0").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "0" / "b.png")
    assert "the images of" in stop_reason(tmp_path, image_size=[10**6, 10**6])


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


@pytest.mark.covering(0)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8200, 10000, 20000])  # below pillow's limits, between them, above them
def test_a_decompression_bomb_is_one_sentence(tmp_path, side):
    (tmp_path / "7").mkdir()
    Image.new("1", (side, side)).save(tmp_path / "7" / "a.png")
    assert "1 image(s) (number 1 by name) would unpack to more than 67108864 pixels" in stop_reason(tmp_path)
