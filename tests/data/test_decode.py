"""Every file is read as people see it, or named with a reason; nothing else may come out."""

import io
import struct
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from photographs import piece
from PIL import Image, ImageDraw

from contagg.data import decode
from contagg.data.decode import UnreadableSampleError, read_image, read_size

RED, BLUE = (220, 30, 40), (20, 40, 200)


def two_halves() -> Image.Image:
    """Left red, right blue; wider than high, so that turning and mirroring show."""
    image = Image.new("RGB", (34, 20), RED)
    ImageDraw.Draw(image).rectangle((17, 0, 33, 19), fill=BLUE)
    return image


def written(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def read(file: io.BytesIO) -> Image.Image:
    return read_image(file, "file")


def close(pixel: tuple[int, ...], wanted: tuple[int, ...], tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, wanted, strict=True))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("WEBP", {"quality": 95}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("GIF", {}),
    ],
)
def test_colours_survive(kind: str, options: dict) -> None:
    image = read(written(two_halves(), kind, **options))
    assert image.mode == "RGB" and image.size == (34, 20)
    assert close(image.getpixel((4, 10)), RED) and close(image.getpixel((30, 10)), BLUE)


def test_cmyk_jpeg_becomes_the_same_colours() -> None:
    image = read(written(two_halves().convert("CMYK"), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert close(image.getpixel((4, 10)), RED) and close(image.getpixel((30, 10)), BLUE)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_not_cut_off(kind: str) -> None:
    ramp = np.linspace(0, 65535, 32 * 8).astype(np.uint16).reshape(8, 32)
    image = read(written(Image.fromarray(ramp), kind))
    assert image.mode == "L"
    assert np.abs(np.asarray(image).astype(int) - np.round(ramp / 257)).max() <= 1


@pytest.fixture
def not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_told_of_depth", False)


def test_files_of_16_bits_are_of_16_unless_said_and_dark_ones_are_told_once(
    not_told: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A dark image among others became 16 times brighter than they."""
    ramp = np.linspace(0, 4095, 32 * 8).astype(np.uint16).reshape(8, 32)
    files = [written(Image.fromarray(ramp), "PNG").getvalue() for _ in range(2)]
    seen = [np.asarray(read_image(file, f"camera {number}")) for number, file in enumerate(files)]
    assert np.array_equal(seen[0], np.round(ramp * (255 / 65535))) and np.array_equal(*seen)
    assert [record.getMessage()[:22] for record in caplog.records] == ["camera 0 holds 16 bits"]
    caplog.clear()
    said = np.asarray(read_image(files[0], "camera", bit_depth=12)).astype(int)
    assert np.abs(said - np.round(ramp * (255 / 4095))).max() <= 1
    assert np.asarray(read_image(written(Image.fromarray(ramp * 4), "PNG"), "14 bits", bit_depth=14)).max() == 255
    with pytest.raises(UnreadableSampleError, match=r"x: it has the value 4095, more than data\.bit_depth 10 allows"):
        read_image(files[0], "x", bit_depth=10)
    assert not caplog.records


def test_a_tiff_says_how_many_bits_it_holds(not_told: None, caplog: pytest.LogCaptureFixture) -> None:
    """12 bits a sample, packed as cameras pack them: two samples in three bytes."""
    values = [0, 1000, 4095, 2048]
    packed = b"".join(
        bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in zip(values[::2], values[1::2], strict=True)
    )
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, len(packed))]
    content = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags))
    content += b"".join(struct.pack("<HHII", tag, 4 if tag > 270 else 3, 1, value) for tag, value in tags) + bytes(4)
    assert np.asarray(read_image(content, "x")).tolist() == [[0, 62, 255, 128]]
    assert not caplog.records


def test_grey_pgm_of_16_bits() -> None:
    ramp = np.linspace(0, 65535, 24).astype(">u2").reshape(4, 6)
    image = read(io.BytesIO(b"P5 6 4 65535\n" + ramp.tobytes()))
    assert np.abs(np.asarray(image).astype(int) - np.round(ramp / 257)).max() <= 1


def test_floats_between_0_and_1_are_read_and_others_refused() -> None:
    ramp = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    assert np.abs(np.asarray(read(written(Image.fromarray(ramp), "TIFF"))) - ramp * 255).max() <= 0.6
    with pytest.raises(UnreadableSampleError, match=r"file: pixel values from 0.0 to 7.0 have no known meaning"):
        read(written(Image.fromarray(ramp * 7), "TIFF"))


def test_grey_stays_grey_and_black_and_white_becomes_grey() -> None:
    assert read(written(two_halves().convert("L"), "PNG")).mode == "L"
    image = read(written(two_halves().convert("1", dither=Image.Dither.NONE), "PNG"))
    assert image.mode == "L" and set(np.unique(np.asarray(image))) <= {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_laid_over_white(mode: str) -> None:
    image = two_halves().convert("RGBA")
    image.putalpha(Image.fromarray(np.repeat([[255] * 17 + [0] * 17], 20, axis=0).astype(np.uint8)))
    if mode == "LA":
        image = image.convert("LA")
    file = written(image.quantize(), "PNG") if mode == "PA" else written(image, "PNG")
    seen = read(file)
    assert seen.mode == "RGB" and seen.getpixel((30, 10)) == (255, 255, 255)
    assert seen.getpixel((4, 10)) != (255, 255, 255)


def test_palette_with_one_transparent_colour() -> None:
    image = two_halves().quantize(2)
    blue = image.getpixel((30, 10))
    seen = read(written(image, "GIF", transparency=blue))
    assert close(seen.getpixel((4, 10)), RED) and seen.getpixel((30, 10)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int, kind: str) -> None:
    upright = Image.new("RGB", (40, 24), "white")
    ImageDraw.Draw(upright).rectangle((0, 0, 19, 11), fill=RED)  # the upper left quarter
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how the camera stores it, in Pillow's Transpose numbers
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    kind, _, compression = kind.partition(" ")
    options = {"compression": compression} if compression else {} if kind == "TIFF" else {"quality": 95}
    seen = read(written(stored, kind, exif=exif, **options))
    assert seen.size == (40, 24)
    assert close(seen.getpixel((8, 5)), RED) and close(seen.getpixel((32, 5)), (255, 255, 255))
    assert close(seen.getpixel((8, 19)), (255, 255, 255))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc32(name + content))


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_the_size_is_that_of_the_upright_image_without_its_pixels(orientation: int, tmp_path: Path) -> None:
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x0112] = orientation
    piece(0).resize((41, 23)).save(path, exif=exif)
    assert read_size(path, "a") == read_image(path, "a").size
    path.write_bytes(path.read_bytes()[:700])  # the header alone
    assert read_size(path, "a") == ((23, 41) if 5 <= orientation <= 8 else (41, 23))
    with pytest.raises(UnreadableSampleError, match=r"a: 41 x 23 pixels are more than data\.max_pixels 900"):
        read_size(path, "a", max_pixels=900)
    path.write_bytes(b"no image")
    with pytest.raises(UnreadableSampleError, match="a: cannot identify it as JPEG"):
        read_size(path, "a")


def test_a_broken_exif_beside_whole_pixels_is_passed_over() -> None:
    """Pillow#5528."""
    whole = written(two_halves(), "PNG").getvalue()
    place = whole.index(b"IDAT") - 4
    for exif in (b"Exif\0\0II*", b"", b"MM\0*\0\0\0\x08\xff\xff", b"no exif"):
        seen = read(io.BytesIO(whole[:place] + chunk(b"eXIf", exif) + whole[place:]))
        assert seen.size == (34, 20) and seen.getpixel((4, 10)) == RED


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_seen(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    second = Image.new("RGB", (34, 20), "white")
    seen = read(written(two_halves(), kind, save_all=True, append_images=[second], **options))
    assert close(seen.getpixel((4, 10)), RED) and close(seen.getpixel((30, 10)), BLUE)


def test_pillow_still_cuts_off_16_bits() -> None:
    # Why _eight_bits exists; if this fails, Pillow has learnt it and our own scaling can go.
    assert Image.fromarray(np.array([[40_000]], dtype=np.uint16)).convert("L").getpixel((0, 0)) == 255
