"""Images of every kind: the values that they stand for, or one line about what was not read."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from silofl.config import parse
from silofl.tasks import build

GREYS = (np.arange(8)[:, None] * 30 + np.zeros(8)).astype(np.uint8)
"""(8, 8): from dark at the top to bright below."""


def read(folder, **more):
    task = {"name": "files", "model": "linear", "classes": 2, "image_size": [8, 8], **more}
    built = build(parse({"task": task, "data": {"path": str(folder), "test_fraction": 1e-9}}))
    data = built.data(0, 1)
    images = np.concatenate([side.tensors[0].numpy() for side in data])
    return images[:, 0] if images.shape[1] == 1 else images, list(built.schema())


def saved(folder, image, name="a.png", **options):
    """Twice the same image, of class 0."""
    for copy in ("x", "y"):
        (folder / "0").mkdir(parents=True, exist_ok=True)
        image.save(folder / "0" / f"{copy}{name}", **options)
    return folder


def said(capsys):
    """What of the files was passed over, without the line that none of so few images is held out."""
    lines = capsys.readouterr().err.splitlines(keepends=True)
    return "".join(line for line in lines if "it only trains" not in line)


KINDS = [
    *[("L", name) for name in ("a.png", "a.bmp", "a.tif")],
    *[(mode, "a.tif") for mode in ("RGB", "RGBA", "P", "PA", "LA", "CMYK", "YCbCr")],
]


@pytest.mark.parametrize(("mode", "name"), KINDS)
def test_eight_bits(tmp_path, mode, name):
    images, schema = read(saved(tmp_path, Image.fromarray(GREYS).convert(mode), name), channels=1)
    assert np.abs(images - GREYS / 255).max() <= 1.5 / 255
    assert schema == [("image", "greys from 0 to 1")]


COLOURS = np.stack([GREYS, 255 - GREYS, GREYS // 2])
"""(3, 8, 8)."""


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_colours(tmp_path, mode):
    """As they are stored, and for `task.channels` all as colours or all as greys."""
    picture = Image.fromarray(COLOURS.transpose(1, 2, 0))
    folder = saved(tmp_path, picture.quantize(32) if mode == "P" else picture.convert(mode), "a.tif")
    for channels in ({}, {"channels": 3}):
        images, schema = read(folder, **channels)
        assert images.shape == (2, 3, 8, 8)
        assert np.abs(images - COLOURS / 255).max() <= 3 / 255
        assert schema == [("image", "colours from 0 to 1")]
    greys, schema = read(folder, channels=1)
    assert np.abs(greys - np.tensordot([0.299, 0.587, 0.114], COLOURS / 255, 1)).max() <= 3 / 255
    assert schema == [("image", "greys from 0 to 1")]
    saved(tmp_path, Image.fromarray(GREYS), "grey.png")
    mixed, _ = read(folder, channels=3)
    assert mixed.shape == (4, 3, 8, 8)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_colours_of_an_archive(tmp_path, order):
    np.savez(tmp_path / "mine.npz", x=np.stack([COLOURS.transpose(order)] * 4), y=[0, 1, 0, 1])
    images, schema = read(tmp_path / "mine.npz")
    assert np.allclose(images[0], COLOURS / 255)
    assert schema == [("image", "colours from 0 to 1")]


def test_a_network_of_colours(tmp_path):
    task = {"name": "files", "model": "cnn", "classes": 2, "image_size": [8, 8]}
    folder = saved(tmp_path, Image.fromarray(COLOURS.transpose(1, 2, 0)))
    built = build(parse({"task": task, "data": {"path": str(folder)}}))
    built.data(0, 1)
    assert built.model()(torch.zeros(5, 3, 8, 8)).shape == (5, 2)


def test_greys_with_transparency_or_of_a_palette_are_no_colours(tmp_path, capsys):
    clear = np.dstack([GREYS, GREYS])
    saved(tmp_path, Image.fromarray(clear, "LA"))
    palette = Image.fromarray(GREYS).convert("P")
    palette.putpalette([byte for grey in range(256) for byte in [grey] * 3])
    saved(tmp_path, palette, "p.png")
    images, schema = read(tmp_path)
    assert np.abs(images - GREYS / 255).max() < 1e-6
    assert schema == [("image", "greys from 0 to 1")]
    assert "of 2 image(s) transparency is passed over; there" in capsys.readouterr().err


DEEP = GREYS.astype(np.uint16) * 257


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits(tmp_path, mode):
    bytes_ = DEEP.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    images, schema = read(saved(tmp_path, Image.frombytes(mode, (8, 8), bytes_), "a.tif"))
    assert np.allclose(images, DEEP / 65535, atol=1e-6)
    assert schema == [("image", "greys from 0 to 1")]


def twelve_bits(path, values):
    """A TIFF of greys of 12 bits (8, 8), two in three bytes."""
    bits = "".join(f"{value:012b}" for value in values.ravel())
    data = int(bits, 2).to_bytes(96, "big")
    tags = {256: 8, 257: 8, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 96}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    folder = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + folder)


def test_twelve_bits_and_what_of_sixteen_is_not_read(tmp_path, capsys):
    values = np.arange(64).reshape(8, 8) * 65
    (tmp_path / "0").mkdir()
    for name in "ab":
        twelve_bits(tmp_path / "0" / f"{name}.tif", values)
    images, _ = read(tmp_path)
    assert np.allclose(images, values / 4095, atol=1e-6)
    assert "16 bits" not in capsys.readouterr().err
    (tmp_path / "0" / "a.tif").unlink()
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    lines = b"".join(
        b"\0" + line.astype(">u2").tobytes() for line in COLOURS.transpose(1, 2, 0) * np.uint16(257)
    )
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    png = [struct.pack(">I", len(b)) + a + b + struct.pack(">I", zlib.crc32(a + b)) for a, b in chunks]
    (tmp_path / "0" / "b.tif").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png))
    (tmp_path / "0" / "c.png").write_bytes((tmp_path / "0" / "b.tif").read_bytes())
    images, _ = read(tmp_path)
    assert np.allclose(images, COLOURS / 255, atol=1e-6)
    assert "of 2 image(s) the lower half of 16 bits is passed over" in capsys.readouterr().err


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
    assert said(capsys) == (
        f"silofl: silo 0: in {tmp_path} 6 image(s) in folders below those of the classes are read as "
        "of the same class; there is no sample of class '0'\n"
    )


def test_one_line_says_what_is_passed_over(tmp_path, capsys):
    saved(tmp_path, Image.fromarray(GREYS).convert("RGB"))
    assert read(tmp_path)[0].shape == (2, 3, 8, 8)
    capsys.readouterr()
    for name in (".DS_Store", "Thumbs.db", "._xa.png"):
        (tmp_path / "0" / name).write_text("")
    assert len(read(tmp_path, channels=1)[0]) == 2
    assert said(capsys).endswith(
        f"in {tmp_path} 2 image(s) stored in colour are read as grey; there is no sample of class '1'\n"
    )
    for name in ("a.dcm", "b.dcm", "c.gif", "notes"):
        (tmp_path / "0" / name).write_text("")
    Image.fromarray(GREYS).save(tmp_path / "loose.png")
    pages = [Image.fromarray(GREYS // 2)]
    saved(tmp_path, Image.fromarray(GREYS), "p.tif", save_all=True, append_images=pages)
    images, _ = read(tmp_path, channels=1)
    assert np.abs(images - GREYS / 255).max() < 0.01
    assert said(capsys) == (
        f"silofl: silo 0: in {tmp_path} 4 file(s) of other kinds (2 .dcm, 1 .gif and 1 without an "
        f"ending) are "
        "passed over; 1 image(s) outside of the classes' folders are passed over; 2 image(s) stored "
        "in colour are "
        "read as grey; of 2 image(s) what is not its first page is passed over; "
        "there is no sample of class '1'\n"
    )
