# SPDX-License-Identifier: Apache-2.0
"""Kinds of image files: read as a viewer shows them, or refused by name."""

import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from bido_ext.lab.data import DataConfig, decode
from bido_ext.lab.data.check import check_data
from bido_ext.lab.data.decode import Preparation, read_image
from bido_ext.lab.data.listing import SUFFIXES
from bido_ext.lab.data.small_data import write_small

RAMP = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)


def _read(path, size=32, channels=3):
    return read_image(path, Preparation(size, channels=channels))


def _chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _png(path, width, height, depth, colour, rows, *extra):
    """A PNG as Pillow itself does not write them."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(b"\0" + row for row in rows)
    chunks = [_chunk(b"IHDR", head), *extra, _chunk(b"IDAT", zlib.compress(body))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _chunk(b"IEND", b""))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bit_grey_keeps_its_brightness(tmp_path, name):
    Image.fromarray(RAMP).save(tmp_path / name)
    found = _read(tmp_path / name)
    expected = np.rint(RAMP / 257).astype(np.uint8)
    np.testing.assert_array_equal(found, np.stack([expected] * 3))
    assert abs(found.mean() - 127.5) < 1
    np.testing.assert_array_equal(_read(tmp_path / name, channels=1), expected[None])


def _tiff(path, pixels, bits, photometric, order="<"):
    """A grey TIFF of 32 x 32 pixels, uncompressed."""
    tags = {256: 32, 257: 32, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 32}
    tags[279] = len(pixels)
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(pixels))
    count, end = struct.pack(f"{order}H", len(tags)), struct.pack(f"{order}I", 0)
    path.write_bytes(head + pixels + count + entries + end)


def test_other_greys_of_tiff(tmp_path):
    expected = np.rint(RAMP / 257)
    _tiff(tmp_path / "big.tif", RAMP.astype(">u2").tobytes(), 16, 1, ">")
    np.testing.assert_array_equal(_read(tmp_path / "big.tif")[0], expected)
    _tiff(tmp_path / "inverse.tif", (65535 - RAMP).tobytes(), 16, 0)
    np.testing.assert_array_equal(_read(tmp_path / "inverse.tif")[0], expected)
    high, low = ((RAMP >> 4) >> 4).astype(np.uint8), ((RAMP >> 4) & 15).astype(np.uint8)
    left, right = (slice(None), slice(0, None, 2)), (slice(None), slice(1, None, 2))
    packed = np.stack(
        [high[left], low[left] << 4 | high[right] >> 4, (high[right] & 15) << 4 | low[right]],
        axis=2,
    )
    _tiff(tmp_path / "twelve.tif", packed.tobytes(), 12, 1)
    difference = _read(tmp_path / "twelve.tif")[0].astype(int) - expected
    assert abs(difference).max() <= 1


def test_colour_of_sixteen_bits(tmp_path):
    colour = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)
    _png(tmp_path / "c.png", 32, 32, 16, 2, [row.astype(">u2").tobytes() for row in colour])
    difference = _read(tmp_path / "c.png").transpose(1, 2, 0) - colour / 257
    assert abs(difference).max() <= 1


def test_sixteen_bit_grey_with_a_transparent_value(tmp_path):
    values = np.full((8, 8), 32767, np.uint16)
    values[0] = 1000
    rows = [row.astype(">u2").tobytes() for row in values]
    _png(tmp_path / "a.png", 8, 8, 16, 0, rows, _chunk(b"tRNS", struct.pack(">H", 1000)))
    found = _read(tmp_path / "a.png", 8)
    assert (found[:, 0] == 255).all()
    assert (found[:, 1:] == 127).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_known_white_are_refused(tmp_path, mode):
    Image.new(mode, (8, 8), 100).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif is not a readable image .*no known white; save"):
        _read(tmp_path / "a.tif", 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_exif_is_applied(tmp_path, orientation):
    upright = np.zeros((20, 30, 3), np.uint8)
    upright[:10, :15] = (250, 0, 0)
    upright[10:, 15:] = (0, 0, 250)
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = Image.fromarray(upright)
    stored = stored if turned is None else stored.transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(
        _read(tmp_path / "a.png", 20), upright[:, 5:25].transpose(2, 0, 1)
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGB", "L"])
def test_what_is_transparent_lies_on_white(tmp_path, mode):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[:8, :, 3] = 0
    half = Image.fromarray(pixels)
    path = tmp_path / ("a.tif" if mode == "PA" else "a.png")
    if mode == "P":
        index = Image.fromarray(np.repeat([[1] * 16, [0] * 16], 8, axis=0).astype(np.uint8), "P")
        index.putpalette([0, 0, 0, 200, 0, 0])
        index.save(path, transparency=1)
    elif mode in ("RGB", "L"):
        grey = Image.fromarray(np.repeat([[9] * 16, [0] * 16], 8, axis=0).astype(np.uint8))
        grey.convert(mode).save(path, transparency=9 if mode == "L" else (9, 9, 9))
    elif mode == "PA":
        half.convert("LA").save(path)
    else:
        half.convert(mode).save(path)
    found = _read(path, 16)
    assert (found[:, :8] == 255).all()
    assert (found[:, 8:] == 0).all()
    assert decode.decode(path).transparent


def test_half_transparent_pixels_are_mixed_and_opaque_ones_kept(tmp_path):
    Image.new("RGBA", (8, 8), (0, 100, 200, 128)).save(tmp_path / "a.png")
    assert [int(v) for v in _read(tmp_path / "a.png", 8)[:, 0, 0]] == [127, 177, 227]
    Image.new("RGBA", (8, 8), (0, 100, 200, 255)).save(tmp_path / "b.png")
    assert _read(tmp_path / "b.png", 8)[:, 0, 0].tolist() == [0, 100, 200]
    assert not decode.decode(tmp_path / "b.png").transparent


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_listed_suffix_is_read(tmp_path, suffix):
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".pnm": "PPM", ".pbm": "PPM", ".pgm": "PPM"}
    colours = {".pbm": "1", ".pgm": "L"}
    image = Image.new(colours.get(suffix, "RGB"), (16, 16), 1 if suffix == ".pbm" else 0)
    image.save(tmp_path / f"a{suffix}", kinds.get(suffix))
    found = _read(tmp_path / f"a{suffix}", 16)
    assert (found == (255 if suffix == ".pbm" else 0)).all()


def test_cmyk_and_bilevel(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.allclose(_read(tmp_path / "a.jpg", 8)[:, 0, 0], [255, 0, 0], atol=3)
    Image.new("1", (8, 8), 1).save(tmp_path / "b.png")
    assert (_read(tmp_path / "b.png", 8) == 255).all()


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    result = []

    def read():
        with pytest.raises(ValueError, match=r"x\.png is not a readable image \(no regular file\)"):
            _read(tmp_path / "x.png")
        result.append(True)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert result == [True]


@pytest.mark.parametrize("side", [12_000, 40_000])
def test_a_small_file_of_very_many_pixels_is_refused(tmp_path, side):
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = _chunk(b"IDAT", zlib.compress(bytes(100)))
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head)
    (tmp_path / "bomb.png").write_bytes(start + data + _chunk(b"IEND", b""))
    with pytest.raises(ValueError, match=r"bomb\.png .*89 million are read at most; make it"):
        _read(tmp_path / "bomb.png")


def test_large_images_are_read_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "_MANY_PIXELS", 100)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    assert _read(tmp_path / "a.png", 20).shape == (3, 20, 20)


def test_other_formats_are_not_tried_whatever_the_suffix(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.ico")
    (tmp_path / "b.ico").rename(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        with pytest.raises(ValueError, match=rf"{name} is not a readable image"):
            _read(tmp_path / name, 9)


def test_the_check_tells_what_reading_changes(tmp_path):
    root = write_small("folders", tmp_path / "own", classes=2, images=4)
    folder = root / "Person_00"
    Image.new("RGBA", (64, 64), (9, 9, 9, 100)).save(folder / "alpha.png")
    frames = [Image.new("L", (64, 64), value) for value in (0, 200)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (70, 64), "red").save(folder / "turned.png", exif=exif)
    report = check_data(DataConfig("folders", root))
    assert report.problems == ()
    assert report.image_sizes["64 x 70"] == 1
    notes = " | ".join(report.notes)
    assert "1 images with transparent parts, which are laid on white, as " in notes
    assert "1 files of several pictures, of which the first is read, as " in notes


def test_the_check_applies_the_crop(tmp_path):
    root = write_small("celeba", tmp_path / "celeba", classes=3, images=8, public=12)
    Image.new("RGB", (100, 100)).save(root / "img_align_celeba" / "000001.jpg")
    (problem,) = check_data(DataConfig("celeba", root)).problems
    assert "000001.jpg has 100 x 100 pixels, the crop of 108 does not fit into it" in problem
