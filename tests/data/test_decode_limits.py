"""What is no image, too large or broken: refused by name before it acts, hangs or fills the memory."""

import contextlib
import io
import os
import random
import socket
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from photographs import piece
from PIL import EpsImagePlugin, Image, ImageFile
from test_decode import chunk, read, two_halves, written

import contagg
from contagg.data.config import AugmentationConfig
from contagg.data.decode import UnreadableSampleError, read_image, read_regular, read_size
from contagg.data.transforms import evaluation_transform


def test_enormous_images_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    said = "3600000000 pixels are more than 178956970, the most that data.max_pixels can be"
    with pytest.raises(UnreadableSampleError, match=said):
        read(io.BytesIO(content))
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableSampleError, match=said):
        read_size(path, "x")


def test_a_limit_of_pixels_is_kept_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [written(two_halves(), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM")]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for file in files:
        with pytest.raises(UnreadableSampleError, match=r"file: 34 x 20 pixels are more than data\.max_pixels 679"):
            read_image(file, "file", max_pixels=679)


def test_an_image_within_the_limit_takes_bounded_memory() -> None:
    """A palette with transparency is the worst: 4 bytes a pixel, three times at once. 374 KB took 4.4 GB."""
    code = (
        "import io, resource; from PIL import Image; from contagg.data.decode import read_image\n"
        "file = io.BytesIO(); Image.new('P', (4096, 4096)).save(file, 'PNG', transparency=0)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_image(file.getvalue(), 'x')\n"
        "print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 4096**2)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert float(told) < 18  # bytes a pixel


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA", "JPEG2000", "DDS"])
def test_other_formats_are_refused_whatever_they_are_called(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    with path.open("wb") as file:
        two_halves().save(file, kind)
    with pytest.raises(UnreadableSampleError, match="x: cannot identify it as JPEG, PNG"):
        read_image(path, "x")


def test_postscript_called_jpg_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a Ghostscript that leaves a trace, in case this machine has none."""
    canary = tmp_path / "canary"
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {canary}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UnreadableSampleError):
        read_image(path, "x")
    assert not canary.exists()
    with contextlib.suppress(OSError), Image.open(path) as image:
        image.load()
    assert canary.exists()  # Pillow left alone would have


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.jpg"))
        for path, kind in (
            (tmp_path / "a.jpg", "a FIFO"),
            (tmp_path / "link.jpg", "a FIFO"),
            (tmp_path / "s.jpg", "a socket"),
            (Path("/dev/zero"), "a device"),
            (tmp_path, "a folder"),
        ):
            with pytest.raises(UnreadableSampleError, match=f"x: it is {kind}, no regular file"):
                read_image(path, "x")


def test_images_are_opened_nowhere_else() -> None:
    places = {path.name for path in Path(contagg.__file__).parent.rglob("*.py") if "Image.open(" in path.read_text()}
    assert places == {"decode.py"}


def test_elongated_images_are_refused() -> None:
    assert read(written(Image.new("RGB", (2, 200)), "PNG")).size == (2, 200)
    with pytest.raises(UnreadableSampleError, match="file: 2 x 201 pixels are too elongated"):
        read(written(Image.new("RGB", (2, 201)), "PNG"))


@pytest.mark.parametrize("content", [b"", b"\x00", b"GIF89a", b"no image at all\n" * 99, b"<svg/>", b"\xff\xd8\xff"])
def test_non_images_are_named(content: bytes) -> None:
    with pytest.raises(UnreadableSampleError) as caught:
        read_image(io.BytesIO(content), "cats/1.png")
    assert caught.value.name == "cats/1.png" and caught.value.reason and "\n" not in str(caught.value)


def with_chunk(content: bytes, kind: bytes, held: bytes) -> bytes:
    """A PNG with a chunk, behind its header, whose checksum is wrong."""
    return content[:33] + len(held).to_bytes(4) + kind + held + b"\1\2\3\4" + content[33:]


@pytest.mark.parametrize("kind", [b"eXIf", b"tEXt", b"tIME"])
def test_a_png_whose_notes_are_broken_is_read(kind: bytes) -> None:
    """Its pixels are whole, and it was `cannot identify`."""
    image = piece(2)
    content = with_chunk(written(image, "PNG").getvalue(), kind, b"MM\0*\0\0\0\x08")
    assert np.array_equal(np.asarray(read_image(content, "x")), np.asarray(image))


def test_a_png_whose_pixels_or_transparency_are_broken_is_none() -> None:
    content = written(piece(2).convert("L"), "PNG").getvalue()
    place = content.index(b"IHDR") + 17  # its checksum
    for broken in (with_chunk(content, b"tRNS", b"\0\5"), content[:place] + b"\0" + content[place + 1 :], content[:20]):
        with pytest.raises(UnreadableSampleError, match=r"cannot identify|Truncated"):
            read_image(broken, "x")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(UnreadableSampleError, match=r"x\.png: "):
            read_image(path, "x.png")


def originals() -> list[bytes]:
    photograph = piece(3, size=(61, 47))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    variants = [
        (photograph, "JPEG", {"exif": exif}),
        (photograph, "JPEG", {"progressive": True, "quality": 80}),
        (photograph.convert("CMYK"), "JPEG", {}),
        (photograph.convert("L"), "JPEG", {}),
        (photograph, "PNG", {}),
        (photograph.convert("RGBA"), "PNG", {}),
        (photograph.quantize(16), "PNG", {"transparency": 3}),
        (Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 200), "PNG", {}),
        (photograph, "WEBP", {}),
        (photograph, "GIF", {"save_all": True, "append_images": [photograph.rotate(90)]}),
        (photograph, "BMP", {}),
        (photograph, "TIFF", {"compression": "tiff_deflate"}),
        (photograph, "TIFF", {}),
        (photograph, "PPM", {}),
    ]
    return [written(image, kind, **options).getvalue() for image, kind, options in variants]


def corrupted(content: bytes, draw: random.Random) -> bytes:
    """Cut off, or a place, often in the headers, zeroed, lost, doubled, of noise, or with bits flipped."""
    begin = draw.randrange(draw.choice((min(200, len(content)), len(content))))
    end = begin + draw.choice((1, 4, 64, 512))
    place = content[begin:end]
    flipped = bytes(byte ^ (1 << draw.randrange(8)) for byte in place)
    changed = draw.choice((bytes(len(place)), b"", place * 2, draw.randbytes(len(place)), flipped, None))
    return content[:begin] if changed is None else content[:begin] + changed + content[end:]


def fuzz(count: int, seed: int) -> tuple[int, int]:
    """How many of `count` corrupted files were read, and how many named; anything else fails."""
    draw, files = random.Random(seed), originals()
    transform = evaluation_transform(AugmentationConfig(), (3, 32, 32), (0.5,) * 3, (0.5,) * 3)
    outcomes = [0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow tells of broken EXIF and the like
        for number in range(count):
            content = corrupted(files[number % len(files)], draw)
            try:
                image = read_image(io.BytesIO(content), f"file {number}")
            except UnreadableSampleError as error:
                assert error.reason and "\n" not in str(error)
                outcomes[1] += 1
            else:
                assert image.mode in ("L", "RGB")
                assert transform(image).shape == (3, 32, 32)
                outcomes[0] += 1
    return outcomes[0], outcomes[1]


def test_originals_are_whole() -> None:
    assert all(read(io.BytesIO(content)).size in ((61, 47), (47, 61)) for content in originals())


def test_fuzz() -> None:
    was_read, named = fuzz(2000, seed=1)
    assert min(was_read, named) > 500


@pytest.mark.slow
def test_fuzz_at_length() -> None:
    was_read, named = fuzz(50_000, seed=2)
    assert min(was_read, named) > 10_000


def test_a_file_is_read_whole_or_refused(tmp_path: Path) -> None:
    file, fifo = tmp_path / "list.txt", tmp_path / "fifo"
    file.write_bytes(b"12345")
    os.mkfifo(fifo)
    assert read_regular(file, 5) == b"12345"
    for path, most, reason in ((file, 4, "larger than 4 bytes"), (fifo, 9, "a FIFO, no regular file")):
        with pytest.raises(ValueError, match=reason):
            read_regular(path, most)
