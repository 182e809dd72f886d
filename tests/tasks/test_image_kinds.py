"""Images of every kind: the values that they stand for, or one line about what was not read."""

import numpy as np
import pytest
from PIL import Image

from silofl.config import parse
from silofl.tasks import build

GREYS = (np.arange(8)[:, None] * 30 + np.zeros(8)).astype(np.uint8)
"""(8, 8): from dark at the top to bright below."""


def read(folder):
    task = {"name": "files", "model": "linear", "classes": 2, "image_size": [8, 8]}
    built = build(parse({"task": task, "data": {"path": str(folder), "test_fraction": 0.5}}))
    data = built.data(0, 1)
    return np.concatenate([side.tensors[0].numpy() for side in data])[:, 0], list(built.schema())


def saved(folder, image, name="a.png", **options):
    """Twice the same image, of class 0."""
    for copy in ("x", "y"):
        (folder / "0").mkdir(parents=True, exist_ok=True)
        image.save(folder / "0" / f"{copy}{name}", **options)
    return folder


KINDS = [
    *[("L", name) for name in ("a.png", "a.bmp", "a.tif")],
    *[(mode, "a.tif") for mode in ("RGB", "RGBA", "P", "PA", "LA", "CMYK", "YCbCr")],
]


@pytest.mark.parametrize(("mode", "name"), KINDS)
def test_eight_bits(tmp_path, mode, name):
    images, schema = read(saved(tmp_path, Image.fromarray(GREYS).convert(mode), name))
    assert np.abs(images - GREYS / 255).max() <= 1.5 / 255
    assert schema == [("image", "greys from 0 to 1")]


DEEP = GREYS.astype(np.uint16) * 257


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits(tmp_path, mode):
    bytes_ = DEEP.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    images, schema = read(saved(tmp_path, Image.frombytes(mode, (8, 8), bytes_), "a.tif"))
    assert np.allclose(images, DEEP / 65535, atol=1e-6)
    assert schema == [("image", "greys from 0 to 1")]


def test_sixteen_bits_whose_zero_is_white(tmp_path):
    image = Image.frombytes("I;16", (8, 8), DEEP.tobytes())
    images, _ = read(saved(tmp_path, image, "a.tif", tiffinfo={262: 0}))
    assert np.allclose(images, 1 - DEEP / 65535, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_measured_values_stay_as_they_are(tmp_path, dtype):
    values = (
        GREYS.astype(np.float64) * 0.001 - 0.1
        if dtype == np.float32
        else GREYS.astype(np.int64) * np.int32(7000)
    ).astype(dtype)
    images, schema = read(saved(tmp_path, Image.fromarray(values), "a.tif"))
    assert np.allclose(images, values, rtol=1e-6)
    assert schema == [("image", "values as they are")]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_an_image_is_read_as_the_camera_was_held(tmp_path, name):
    exif = Image.Exif()
    exif[0x112] = 6  # turned by a quarter, clockwise
    images, _ = read(saved(tmp_path, Image.fromarray(GREYS), name, exif=exif))
    assert np.abs(images - np.rot90(GREYS, -1) / 255).max() < 0.02


def test_folders_below_a_class_are_of_the_class(tmp_path, capsys):
    for patient in range(3):
        saved(tmp_path / "1" / f"patient-{patient}", Image.fromarray(GREYS))
    (tmp_path / "1" / "patient-0" / "all").symlink_to(tmp_path)  # and no walk without an end
    images, _ = read(tmp_path)
    assert len(images) == 6
    assert capsys.readouterr().err == (
        f"silofl: silo 0: in {tmp_path} 6 image(s) in folders below those of the classes are read as "
        f"of the same "
        "class\n"
    )


def test_one_line_says_what_is_passed_over(tmp_path, capsys):
    saved(tmp_path, Image.fromarray(GREYS).convert("RGB"))
    for name in (".DS_Store", "Thumbs.db", "._xa.png"):
        (tmp_path / "0" / name).write_text("")
    assert len(read(tmp_path)[0]) == 2
    assert capsys.readouterr().err.endswith(f"in {tmp_path} 2 image(s) stored in colour are read as grey\n")
    for name in ("a.dcm", "b.dcm", "c.gif", "notes"):
        (tmp_path / "0" / name).write_text("")
    Image.fromarray(GREYS).save(tmp_path / "loose.png")
    pages = [Image.fromarray(GREYS // 2)]
    saved(tmp_path, Image.fromarray(GREYS), "p.tif", save_all=True, append_images=pages)
    images, _ = read(tmp_path)
    assert np.abs(images - GREYS / 255).max() < 0.01
    assert capsys.readouterr().err == (
        f"silofl: silo 0: in {tmp_path} 4 file(s) that are no images (2 .dcm, 1 .gif and 1 without an "
        f"ending) are "
        "passed over; 1 image(s) outside of the classes' folders are passed over; 2 image(s) stored "
        "in colour are "
        "read as grey; of 2 image(s) all pages but the first are passed over\n"
    )
