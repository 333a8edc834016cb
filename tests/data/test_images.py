"""Reading images as viewers show them, for every format, mode and rotation."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from sasa.data.images import is_image, read_image
from sasa.errors import DataError


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gray_levels(image):
    return np.asarray(image.convert("L")).astype(int)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "LAB", "YCbCr", "1", "LA", "I;16", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_8_bits(tmp_path, mode, channels):
    path = tmp_path / ("x.tif" if mode in ("CMYK", "LAB", "YCbCr", "F", "I;16") else "x.png")
    if mode == "I;16":
        Image.fromarray(np.full((6, 9), 40000, np.uint16)).save(path)
    elif mode == "F":
        Image.fromarray(np.full((6, 9), 0.625, np.float32)).save(path)
    else:
        gray = Image.new("L", (9, 6), 160)
        (gray.convert("RGB") if mode == "LAB" else gray).convert(mode).save(path)
    image = read_image(path, channels=channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    assert image.size == (9, 6)
    value = np.asarray(image).mean()
    assert abs(value - (40000 >> 8 if mode == "I;16" else 160)) <= 2 or mode == "1"


def test_transparency_is_laid_on_white_and_exif_turns_upright(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: a quarter turn
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (4, 8)


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "x.gif").getpixel((0, 0)) == (255, 0, 0)


def test_a_truncated_image_and_a_text_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"x\.jpg cannot be read: .*truncated"):
        read_image(tmp_path / "x.jpg")
    (tmp_path / "y.png").write_text("no image")
    with pytest.raises(DataError, match=r"y\.png is not an image"):
        read_image(tmp_path / "y.png")
    with pytest.raises(DataError, match=r"z\.png cannot be read: .*No such file"):
        read_image(tmp_path / "z.png")


def test_cmyk_is_inverted_only_with_adobes_marker():
    """The same bytes without the mark are the opposite colours, as libjpeg-turbo's tools show them."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    content = encoded(red, "JPEG", quality=95)
    assert b"Adobe" in content
    np.testing.assert_allclose(read_image(content).getpixel((5, 5)), (255, 0, 0), atol=6)
    mark = content.index(b"\xff\xee")
    length = struct.unpack(">H", content[mark + 2 : mark + 4])[0]
    unmarked = content[:mark] + content[mark + 2 + length :]
    np.testing.assert_allclose(read_image(unmarked).getpixel((5, 5)), (0, 0, 0), atol=6)


def png_16(samples):
    """A 16-bit PNG written by hand: H x W (gray), H x W x 2 (with alpha), x 3 (RGB) or x 4; Pillow writes gray only."""
    height, width, *rest = samples.shape
    colour = {(): 0, (2,): 4, (3,): 2, (4,): 6}[tuple(rest)]

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("parts", [(), (2,), (3,), (4,)])
def test_16_bit_png_of_every_kind_keeps_the_high_byte(parts):
    samples = np.full((5, 7, *parts), 40000, np.uint16)
    if parts in ((2,), (4,)):
        samples[..., -1] = 65535
    image = read_image(png_16(samples))
    assert image.size == (7, 5)
    assert abs(gray_levels(image) - (40000 >> 8)).max() <= 1


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bit_tiff_and_pgm(order):
    ramp = np.linspace(0, 65535, 12).reshape(3, 4).astype(np.uint16)
    head = b"P5 4 3 65535\n" if order == ">u2" else None
    content = head + ramp.astype(order).tobytes() if head else encoded(Image.fromarray(ramp), "TIFF")
    np.testing.assert_allclose(gray_levels(read_image(content)), ramp >> 8, atol=1)


@pytest.mark.parametrize(("top", "scale"), [(1.0, 255.0), (255.0, 1.0)])
def test_floating_tiff_is_of_0_to_1_or_of_0_to_255(top, scale):
    values = np.linspace(0, top, 20, dtype=np.float32).reshape(4, 5)
    image = read_image(encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_allclose(gray_levels(image), values * scale, atol=1)
    values[0, 0] = np.nan
    assert read_image(encoded(Image.fromarray(values), "TIFF"), channels=1).getpixel((0, 0)) == 0


def test_palette_with_a_transparent_colour_and_gray_with_alpha_lie_on_white():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        image = read_image(encoded(palette, kind, transparency=0))
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert image.getpixel((1, 0)) == (200, 0, 0)
    half = Image.new("LA", (4, 4), (0, 128))
    assert abs(read_image(encoded(half, "PNG"), channels=1).getpixel((0, 0)) - 127) <= 1


def test_one_bit_is_black_and_white():
    image = Image.new("1", (9, 5), 1)
    image.putpixel((3, 2), 0)
    for kind in ("PNG", "TIFF", "PPM", "BMP"):
        read = read_image(encoded(image, kind), channels=1)
        assert read.getpixel((3, 2)) == 0
        assert read.getpixel((4, 2)) == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_exif_orientations(orientation):
    """For every rotation in the file, the red corner is at the top left."""
    upright = Image.new("RGB", (64, 32), "blue")
    upright.paste("red", (0, 0, 16, 16))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the operation that inverts the rotation in EXIF
    stored = upright.transpose(Image.Transpose(turn[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(encoded(stored, "JPEG", exif=exif, quality=95))
    assert image.size == (64, 32)
    np.testing.assert_allclose(image.getpixel((4, 4)), (254, 0, 0), atol=10)
    np.testing.assert_allclose(image.getpixel((40, 20)), (0, 0, 254), atol=10)


def test_damaged_exif_leaves_the_image_as_stored():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    damaged = content.replace(b"MM\x00*", b"MM\xff\xff").replace(b"II*\x00", b"II\xff\xff")
    assert damaged != content
    assert read_image(damaged).size == (8, 4)


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_every_animation_gives_its_first_frame(kind, options):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert read_image(content).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_truncation_of_every_format_is_one_sentence(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8))
    content = encoded(noise, kind)
    for share in (0.02, 0.3, 0.9):
        with pytest.raises(DataError, match=r"^photo (is not an image|cannot be read: )") as caught:
            read_image(content[: int(len(content) * share)], "photo")
        assert "\n" not in str(caught.value)


def test_an_empty_file(tmp_path):
    (tmp_path / "x.png").touch()
    with pytest.raises(DataError, match=r"x\.png is empty: an image of 0 bytes"):
        read_image(tmp_path / "x.png")


def test_an_image_that_would_fill_the_memory_is_refused():
    small = png_16(np.zeros((1, 1), np.uint16))
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 16, 0, 0, 0, 0)
    at = small.index(b"IHDR")
    bomb = small[: at + 4] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + small[at + 21 :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is an error even where warnings are ignored
        with pytest.raises(DataError, match=r"photo cannot be read: Image size \(2500000000 pixels\) exceeds limit"):
            read_image(bomb, "photo")


def test_names_of_images(tmp_path):
    assert is_image(tmp_path / "a.JPEG")
    assert not is_image(tmp_path / ".a.jpg")
    assert not is_image(tmp_path / "a.txt")
