"""What cannot be read in WebDataset's shards is named, counted over the workers, and stops training beyond a limit."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from opening import refused
from photographs import piece
from PIL import Image
from test_loaders import evaluating

from contagg.data import shards
from contagg.data.config import DataConfig
from contagg.data.datasets import ImageData
from contagg.data.decode import open_regular
from contagg.data.shards import _expanded, _members
from contagg.data.sources import open_data
from contagg.errors import UserError

COUNT = 12


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def shards_of(root: Path, split: str, **values: object) -> DataConfig:
    return DataConfig(  # type: ignore[arg-type]
        name="wds/", root=str(root), train_split=split, validation_split=split, **{"classes": 2, **values}
    )


BROKEN = {"empty": b"", "text": b"hello", "cut": png(piece(0))[:900], "long": png(Image.new("RGB", (2, 300)))}


def stream(root: Path, broken: dict[int, bytes], **values: object) -> ImageData:
    """Two shards of six images each."""
    pytest.importorskip("webdataset")
    root.mkdir(exist_ok=True)
    for shard in range(2):
        with tarfile.open(root / f"shard-{shard}.tar", "w") as tar:
            for number in range(shard, COUNT, 2):
                content = broken.get(number, png(piece(number)))
                for kind, held in (("png", content), ("cls", b"1")):
                    member = tarfile.TarInfo(f"{number:03d}.{kind}")
                    member.size = len(held)
                    tar.addfile(member, io.BytesIO(held))
    split = f"shard-{{0..1}}.tar|{COUNT}"
    return open_data(shards_of(root, split, **values))


def test_what_is_no_fault_of_an_image_is_raised(tmp_path: Path) -> None:
    data = stream(tmp_path, {}, label_key="kind").validation
    with pytest.raises(UserError, match=r"^data: shard-0\.tar/000: no 'kind' \(data\.label_key\) in a json file"):
        list(evaluating(data, max_corrupt_fraction=0.5))


# What shards may be called, and shards that are not whole


@pytest.mark.parametrize(
    "split",
    [
        "pipe:touch canary; cat shard-0.tar|12",
        "pipe:touch canary #.tar|12",
        "shard-0.tar::pipe:touch canary.tar|12",
        "http://127.0.0.1/x.tar|12",
        "file:///etc/x.tar|12",
        "../shard-0.tar|12",
        "/etc/shard-0.tar|12",
        "shard-0.tar; touch canary.tar|12",
        "$(touch canary).tar|12",
    ],
)
def test_a_shard_is_a_plain_name_below_the_root(tmp_path: Path, split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream(tmp_path / "data", {})
    monkeypatch.chdir(tmp_path)
    refused(
        shards_of(tmp_path / "data", split),
        r"data\.train_split: '.*' is no plain name of a shard below data\.root|must",
    )
    info = {"splits": {"train": {"num_samples": 12, "filenames": [split.split("|")[0]], "name": "train"}}}
    (tmp_path / "data/_info.json").write_text(json.dumps(info))
    refused(
        shards_of(tmp_path / "data", "train"), r"data\.train_split: '.*' is no plain name of a shard below data\.root"
    )
    assert not list(tmp_path.rglob("canary*"))


@pytest.mark.parametrize("root", ["pipe:touch canary", "http://127.0.0.1/x", "x::pipe:touch canary"])
def test_the_root_is_a_folder(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, split in (("wds/", "shard-{0..1}.tar|12"), ("folder", "train"), ("tar", "train"), ("parquet", "train")):
        refused(DataConfig(name=name, root=root, train_split=split, classes=2), "data.root .* is no folder")
    assert not list(tmp_path.iterdir())


def test_webdatasets_opener_is_never_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import webdataset

    for module in (webdataset, webdataset.gopen, webdataset.tariterators.gopen):
        monkeypatch.setattr(module, "gopen", lambda *given, **options: pytest.fail("gopen"), raising=False)
    assert len(list(stream(tmp_path, {}).validation)) == COUNT


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("shard-{0..1}.tar", r"data\.train_split 'shard-\{0\.\.1\}\.tar' must end in | and the number of images"),
        ("shard-{0..1}.tar|many", "must end in | and the number of images"),
        ("shard-{0..999999999}.tar|12", "must name 1 to 1,000,000 shards"),
        ("shard-{1..0}.tar|12", "must name 1 to 1,000,000 shards"),
        ("a{000000000..999999999}{5..1}.tar|10", "must name 1 to 1,000,000 shards"),
        ("a{0..999999999}{0..999999999}{0..999999999}.tar|10", "must name 1 to 1,000,000 shards"),
        (f"shard-{{0..1}}.tar|{'9' * 5000}", "must end in | and the number of images"),
        ("train", "must name shards and how many images they hold, such as 'train-{000..099}.tar|128116', or a split"),
    ],
)
def test_a_split_says_which_shards_and_how_many_images(tmp_path: Path, split: str, message: str) -> None:
    stream(tmp_path, {})
    refused(shards_of(tmp_path, split), message)


def test_a_split_may_be_named_in_the_folder(tmp_path: Path) -> None:
    stream(tmp_path, {})
    info = {"splits": {"train": {"num_samples": COUNT, "filenames": ["shard-0.tar", "shard-1.tar"]}}}
    (tmp_path / "_info.json").write_text(json.dumps(info))
    data = open_data(shards_of(tmp_path, "train"))
    assert len(list(data.validation)) == len(data.train) == COUNT


def test_ranges_count_as_a_shell_s_braces() -> None:
    assert _expanded("a-{08..10}/b{1..2}.tar") == [f"a-{n}/b{m}.tar" for n in ("08", "09", "10") for m in (1, 2)]
    assert _expanded("a.tar") == ["a.tar"]


@pytest.mark.parametrize("number", ["Infinity", "1e30", "-5", "0", "true", '"12"', "NaN", "null", "1" + "0" * 30])
def test_an_impossible_number_of_samples_is_named(tmp_path: Path, number: str) -> None:
    stream(tmp_path, {})
    said = f'{{"splits": {{"train": {{"num_samples": {number}, "filenames": ["shard-0.tar"]}}}}}}'
    (tmp_path / "_info.json").write_text(said)
    refused(shards_of(tmp_path, "train"), r"data\.train_split 'train': .*_info\.json says num_samples .*, which is no")


def test_a_pipe_for_a_description_is_not_waited_for(tmp_path: Path) -> None:
    stream(tmp_path, {})
    os.mkfifo(tmp_path / "_info.json")
    refused(shards_of(tmp_path, "train"), "must name shards and how many images they hold")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_shard_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Some KB were unpacked to any size."""
    stream(tmp_path, {})
    path = tmp_path / "shard-1.tar"
    path.write_bytes(pack(path.read_bytes()))
    refused(shards_of(tmp_path, "shard-{0..1}.tar|12"), r"the shard .*shard-1\.tar is compressed, and could unpack to")
    with open_regular(path) as file:  # and not unpacked either, should it come to be so later
        told: list[Exception] = []
        assert list(_members(file, "x", lambda error: bool(told.append(error)))) == [] and len(told) == 1


def test_a_member_of_holes_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header may say that a terabyte of zeros follows; 512 bytes hold it."""
    stream(tmp_path, {})
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for number, image in enumerate((b"x" * 3000, png(piece(0)))):
            monkeypatch.setattr(shards, "_LARGEST_MEMBER", max(2000, len(png(piece(0)))))
            for kind, held in (("png", image if number else image * 9), ("cls", b"1")):
                member = tarfile.TarInfo(f"{number}.{kind}")
                member.size = len(held)
                tar.addfile(member, io.BytesIO(held))
        sparse = tarfile.TarInfo("2.png")
        sparse.type = tarfile.GNUTYPE_SPARSE
        header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
        header[386:482] = b"%011o\0%011o\0" % (1 << 32, 0) + bytes(72)  # one piece, at the end of a hole of 4 GB
        header[483:495] = b"%011o\0" % (1 << 32)
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
        tar.fileobj.write(header)  # type: ignore[union-attr]
    with open_regular(tmp_path / "shard-0.tar") as file:
        told: list[str] = []
        found = [one.get("fname") for one in _members(file, "x", lambda error: bool(told.append(str(error))))]
    assert found == ["0.cls", "1.png", "1.cls", None]
    assert [text.split()[0] for text in told] == ["0.png", "2.png"]


@pytest.mark.parametrize("content", ["[" * 200_000, '{"label": Infinity}', '{"label": ' + "1" * 5000 + "}"])
def test_a_hostile_label_is_one_line(tmp_path: Path, content: str) -> None:
    stream(tmp_path, {})
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for kind, held in (("png", png(piece(0))), ("json", content.encode())):
            member = tarfile.TarInfo(f"0.{kind}")
            member.size = len(held)
            tar.addfile(member, io.BytesIO(held))
    data = open_data(shards_of(tmp_path, "shard-0.tar|1", label_key="label")).validation
    with pytest.raises(
        UserError, match=r"no 'label' \(data\.label_key\) in a json|1 of 1 image of the stream cannot be"
    ):
        list(evaluating(data, max_corrupt_fraction=0.5))


def test_the_fingerprint_of_shards_is_their_names_and_sizes(tmp_path: Path) -> None:
    before = stream(tmp_path, {}).fingerprint().state_dict()
    assert stream(tmp_path, {}).fingerprint().difference(before) == ""
    found = stream(tmp_path, dict.fromkeys((1, 3, 5, 7), b"")).fingerprint().difference(before)
    assert found.startswith("1 of 2 training images are not of the size or pixels they had, the first shard-1.tar")
