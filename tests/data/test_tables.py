"""Parquet files: labels, names of classes, what a hostile one may not do."""

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from opening import pixels, refused
from photographs import piece

from contagg.data import tables
from contagg.data.config import DataConfig
from contagg.data.decode import UnreadableSampleError
from contagg.data.sources import open_data


def png(number: int) -> bytes:
    file = io.BytesIO()
    piece(number).save(file, "PNG")
    return file.getvalue()


def write(
    path: Path, labels: list | pa.Array, metadata: dict[str, str] | None = None, first: int = 0, **other: list
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": [png(first + number) for number in range(len(labels))], "label": labels} | other
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=2)


def parquet(root: Path, **values: object) -> DataConfig:
    return DataConfig(name="parquet", root=str(root), **values)  # type: ignore[arg-type]


LABELS = [2, 0, 1, 1, 0]
CLASSES = {"classes": "ant\nbee\ncat"}


@pytest.mark.parametrize(
    "places",
    [
        {"train.parquet": (0, 5), "val.parquet": (5, 5)},
        {"train-00000-of-00002.parquet": (0, 2), "train-00001-of-00002.parquet": (2, 3), "test.parquet": (5, 5)},
        {"data/train-00000-of-00001.parquet": (0, 5), "data/validation-00000-of-00001.parquet": (5, 5)},
        {"train/a.parquet": (0, 1), "train/b.parquet": (1, 4), "valid/a.parquet": (5, 5)},
    ],
    ids=lambda places: next(iter(places)),
)
def test_parquet_is_read_however_it_lies(tmp_path: Path, places: dict[str, tuple[int, int]]) -> None:
    for name, (first, count) in places.items():
        write(tmp_path / name, (LABELS + LABELS)[first : first + count], CLASSES, first)
    data = open_data(parquet(tmp_path))
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train.labels.tolist() == data.validation.labels.tolist() == LABELS
    assert all(np.array_equal(image, np.asarray(piece(number))) for number, image in enumerate(pixels(data.train)))
    assert np.array_equal(pixels(data.validation)[3], np.asarray(piece(8)))
    assert data.train.name(0) == f"{next(iter(places)).rpartition('/')[2]} row 0"
    part = data.train.subset(np.array([3, 0]))
    assert part.content(1) == png(0) and part.labels.tolist() == [1, 2] and part[0][0].size == (53, 41)
    assert data.train.listing().contents.tolist() == [len(png(number)) for number in range(5)]
    assert len(pickle.dumps(data.train)) < 200_000  # for workers that are not forked


def test_parquet_without_val_is_split_by_name(tmp_path: Path) -> None:
    write(tmp_path / "all.parquet", [0, 1] * 10, CLASSES)
    data = open_data(parquet(tmp_path, validation_fraction=0.3))
    assert np.bincount(data.validation.labels).tolist() == [3, 3] and len(data.train) == 14


HUGGING_FACE = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["ant", "bee", "cat"]}}}})}


@pytest.mark.parametrize(
    ("labels", "metadata", "beside", "values", "names"),
    [
        (LABELS, CLASSES, None, {}, ("ant", "bee", "cat")),
        (LABELS, {"classes": '["ant", "bee", "cat"]'}, None, {}, ("ant", "bee", "cat")),
        (LABELS, HUGGING_FACE, None, {}, ("ant", "bee", "cat")),
        (LABELS, None, "ant\nbee\ncat\n", {}, ("ant", "bee", "cat")),
        (LABELS, None, None, {}, ("0", "1", "2")),
        (LABELS, None, None, {"classes": 4}, ("0", "1", "2", "3")),
        (pa.array(LABELS, pa.int16()), None, None, {}, ("0", "1", "2")),
        ([bool(label) for label in LABELS], None, None, {}, ("0", "1")),
        ([["ant", "bee", "cat"][label] for label in LABELS], None, None, {}, ("ant", "bee", "cat")),
        (pa.array([str(label) for label in LABELS]).dictionary_encode(), None, None, {}, ("0", "1", "2")),
    ],
)  # fmt: skip
def test_classes_are_named_by_the_table_or_beside_it(
    tmp_path: Path, labels: list, metadata: dict | None, beside: str | None, values: dict, names: tuple[str, ...]
) -> None:
    write(tmp_path / "train.parquet", labels, metadata)
    write(tmp_path / "val.parquet", labels, metadata, first=7)
    if beside:
        (tmp_path / "classes.txt").write_text(beside)
    data = open_data(parquet(tmp_path, **values))
    assert data.class_names == names
    assert data.train.labels.tolist() == (LABELS if len(names) > 2 else [1, 0, 1, 1, 0])


def test_images_in_structs_and_under_other_keys_and_missing_ones(tmp_path: Path) -> None:
    (tmp_path / "beside.png").write_bytes(png(4))
    images = [{"bytes": png(0), "path": "x"}, {"bytes": None, "path": str(tmp_path / "beside.png")}, None]
    for name in ("train", "val"):
        table = pa.table({"photo": images, "kind": [0, 1, 1]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    refused(
        parquet(tmp_path), r"train.parquet has no column 'image', but \['photo', 'kind'\]: data.image_key says which"
    )
    refused(parquet(tmp_path, image_key="photo"), "no column 'label', .*: data.label_key says which")
    refused(
        parquet(tmp_path, image_key="kind", label_key="kind"), "the column 'kind' holds int64, not the bytes of imag"
    )
    data = open_data(parquet(tmp_path, image_key="photo", label_key="kind"))
    assert np.array_equal(np.asarray(data.train[1][0]), np.asarray(piece(4)))
    with pytest.raises(UnreadableSampleError, match=r"train\.parquet row 2: there is no image"):
        data.train[2]


@pytest.mark.parametrize(
    ("labels", "other", "message"),
    [
        ([0.5, 1.5, 0.5, 1.5, 0.5], LABELS, "labels are whole numbers or texts, not double"),
        ([0, None, 1, 2, 0], LABELS, "the training split of 'parquet' has the label -1"),
        (LABELS, [0, 1, 2, 3, 0], "classes differ in .*: training lacks 3"),
        (list("abcab"), list("abdab"), "classes differ in .*: validation lacks c; training lacks d"),
        ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0], "'parquet' has but one class, '0'"),
    ],
)  # fmt: skip
def test_labels_that_say_nothing_are_named(tmp_path: Path, labels: list, other: list, message: str) -> None:
    write(tmp_path / "train.parquet", labels)
    write(tmp_path / "val.parquet", other, first=9)
    refused(parquet(tmp_path), message)


def test_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    refused(parquet(tmp_path), r"there is no \*\.parquet in data\.root")
    write(tmp_path / "train.parquet", LABELS, CLASSES)
    write(tmp_path / "val.parquet", LABELS, {"classes": "ant\ncat\nbee"}, first=9)
    refused(parquet(tmp_path), "they are in another order: class 1 is 'bee' in training, 'cat' in validation")
    write(tmp_path / "val.parquet", LABELS, {"classes": "[1, "}, first=9)
    refused(parquet(tmp_path), "names its classes in no known way: ")
    (tmp_path / "val.parquet").write_bytes((tmp_path / "train.parquet").read_bytes()[:-9])
    refused(parquet(tmp_path), "has no whole parquet files of one schema: ")


def test_a_row_names_only_files_below_the_root(tmp_path: Path) -> None:
    """Any file of the machine was read."""
    root = tmp_path / "data"
    root.mkdir()
    for place in (tmp_path / "secret.png", root / "beside.png"):
        place.write_bytes(png(4))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["beside.png", str(tmp_path / "secret.png"), "../secret.png", "link.png", "a\0b", "a" * 5000]
    for name in ("train", "val"):
        images = [{"bytes": None, "path": path} for path in paths]
        images.append({"bytes": png(3), "path": "../x.png"})
        pq.write_table(pa.table({"image": images, "label": [0, 1] * 3 + [0]}), root / f"{name}.parquet")
    data = open_data(parquet(root))
    assert data.train.content(0) == png(4)
    for row in range(1, len(paths)):
        with pytest.raises(UnreadableSampleError, match="lies outside of" if row < 4 else f"row {row}: "):
            data.train[row]
    assert data.train.content(len(paths)) == png(3)


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_some_kilobytes_that_stand_for_more_than_the_memory_are_refused(
    tmp_path: Path, use_dictionary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"image": pa.array([bytes(100_000)] * 1000, pa.binary()), "label": [0, 1] * 500})
    pq.write_table(table, tmp_path / "train.parquet", compression="zstd", use_dictionary=use_dictionary)
    assert (tmp_path / "train.parquet").stat().st_size < 50_000
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(tables, "_MEMORY_SHARE", 40_000_000 / memory)
    refused(parquet(tmp_path), r"train\.parquet holds, with the files before it, more images than ")
    monkeypatch.setattr(tables, "_MEMORY_SHARE", 250_000_000 / memory)
    assert len(open_data(parquet(tmp_path)).train) == 800
