"""The sets of the results, made of what can be had: what is taken, how it is split and ordered, and what is refused."""

import errno
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_clones import BOX, NUCLEI, Errors, bccd, refused, save, whole

from contagg.data.coco.masks import to_mask
from tools import made_sets
from tools.real_sets import KNOWN, main


def test_photographs_are_reduced_and_labelled_by_their_folder(tmp_path: Path) -> None:
    for split, name, size in (
        ("train", "n02/b", (224, 448)),
        ("train", "n01/a", (300, 97)),
        ("val", "n02/c", (200, 200)),
        ("val", "n01/d", (200, 200)),
    ):
        save(tmp_path / "clone" / split / f"{name}.JPEG", size)
    main(["imagenette", str(tmp_path / "clone"), str(tmp_path / "out")])
    table = pq.read_table(tmp_path / "out/train.parquet")
    assert table["file"].to_pylist() == ["train/n01/a.JPEG", "train/n02/b.JPEG"]
    assert table["label"].to_pylist() == [0, 1] and table.schema.metadata[b"classes"] == b"n01\nn02"
    sizes = [Image.open(io.BytesIO(content)).size for content in table["image"].to_pylist()]
    assert (
        sizes
        == [(300, 97), (160, 320)]
        == list(zip(*(table[key].to_pylist() for key in ("width", "height")), strict=True))
    )
    assert pq.read_table(tmp_path / "out/val.parquet")["label"].to_pylist() == [0, 1]


def test_caltech_follows_its_lists_and_knows_no_faces(tmp_path: Path) -> None:
    names = ["bass/image_2.jpg", "Faces/image_1.jpg", "Leopards/image_1.jpg", "ant/image_1.jpg"]
    others = ["Leopards/image_2.jpg", "ant/image_2.jpg", "bass/image_1.jpg"]
    for name in names + others:
        save(tmp_path / "101_ObjectCategories" / name, (256, 300))
    for split, listed in (("train", names), ("test", others)):
        (tmp_path / f"{split}.txt").write_text("\n".join(listed))
    main(["caltech", str(tmp_path), str(tmp_path / "out")])
    train, test = (pq.read_table(tmp_path / "out" / f"{split}.parquet") for split in ("train", "test"))
    assert train["file"].to_pylist() == [names[0], names[2], names[3]] and test.num_rows == 3
    assert train["label"].to_pylist() == [1, 2, 0] and train.schema.metadata[b"classes"] == b"ant\nbass\nLeopards"
    assert train["height"].to_pylist() == [150] * 3


def test_nuclei_of_one_microscope_become_coco(tmp_path: Path) -> None:
    root = tmp_path / "stage1_train"
    for place, name in enumerate(NUCLEI):
        save(root / name / "images" / f"{name}.png", (360, 360) if place else (320, 256), "RGBA", (place, 9, 200, 255))
        for number in range(2):
            mask = np.zeros((360, 360), np.uint8)
            mask[10 : 21 + number, 3 : 8 + place] = 255
            (root / name / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(root / name / "masks" / f"{number}.png")
    main(["nuclei", str(tmp_path), str(tmp_path / "out")])
    parts = {name: json.loads((tmp_path / f"out/annotations/{name}.json").read_text()) for name in ("train", "val")}
    found = {split: [image["file_name"] for image in part["images"]] for split, part in parts.items()}
    assert found == {"train": ["cell-c.png", "cell-d.png", "cell-e.png", "cell-i.png"], "val": ["cell-g.png"]}
    assert all(
        sorted(path.name for path in (tmp_path / "out" / split).iterdir()) == names for split, names in found.items()
    )
    last = parts["val"]["annotations"][-1]
    assert (last["id"], last["image_id"], last["bbox"], last["area"]) == (8, 4, [3, 10, 9, 12], 108)
    assert to_mask(last["segmentation"], (360, 360))[10:22, 3:12].all()
    assert Image.open(tmp_path / "out/val/cell-g.png").mode == "L"


def test_blood_counts_from_one_and_leaves_a_pixel_out(tmp_path: Path) -> None:
    bccd(tmp_path, ("WBC", 1, 2, 11, 4), ("RBC", 5, 5, 5, 5), ("Platelets", 3, 3, 3, 4))
    main(["blood", str(tmp_path), str(tmp_path / "out")])
    parts = {name: json.loads((tmp_path / f"out/annotations/{name}.json").read_text()) for name in ("train", "val")}
    assert [image["id"] for image in parts["val"]["images"]] == [5] and len(parts["train"]["images"]) == 5
    found = [(one["id"], one["category_id"], one["bbox"], one["area"]) for one in parts["val"]["annotations"]]
    assert found == [(9, 2, [0, 1, 11, 3], 33), (10, 3, [2, 2, 1, 2], 2)]
    written = tmp_path / "out/val/cell-g.jpg"
    assert written.read_bytes() == (tmp_path / "BCCD/JPEGImages/cell-g.jpg").read_bytes()


def test_an_object_of_another_kind_is_named(tmp_path: Path, capsys: Errors) -> None:
    bccd(tmp_path, ("cat", 1, 2, 11, 4))
    assert "class 'cat' of cell-b.jpg is none of --classes RBC, WBC, Platelets" in refused(capsys, "blood", tmp_path)


def test_a_box_without_numbers_is_named_with_its_line(tmp_path: Path, capsys: Errors) -> None:
    bccd(tmp_path, ("RBC", 1, 2, 11, 4))
    (tmp_path / "BCCD/Annotations/cell-d.xml").write_text(
        f"<annotation>\n{BOX.format('RBC', 'x', 2, 3, 4)}</annotation>"
    )
    said = refused(capsys, "blood", tmp_path)
    assert "BCCD: Annotations/cell-d.xml, line 2: its <xmin> must be a number, not 'x'" in said


def test_a_photograph_that_is_cut_off_is_named(tmp_path: Path, capsys: Errors) -> None:
    """Its header is whole, and all that its XML speaks of."""
    bccd(tmp_path, ("RBC", 1, 2, 11, 4))
    cut = tmp_path / "BCCD/JPEGImages/cell-d.jpg"
    cut.write_bytes(cut.read_bytes()[:-400])
    assert f"the image '{cut}' cannot be read: image file is truncated" in refused(capsys, "blood", tmp_path)


@pytest.mark.parametrize(("size", "grey"), [((10, 10), 255), ((256, 256), 0), (None, 0)])
def test_a_mask_outlines_something_in_its_image(
    size: tuple[int, int] | None, grey: int, tmp_path: Path, capsys: Errors
) -> None:
    folder = tmp_path / "stage1_train/cell"
    save(folder / "images/cell.png", (256, 256))
    if size:
        save(folder / "masks/a.png", size, "L", grey)
    said = "a.png outlines nothing in an image of 256 x 256 pixels" if size else "masks has no masks"
    assert said in refused(capsys, "nuclei", tmp_path)


@pytest.mark.parametrize(
    ("names", "side", "said"),
    [
        (["cell"], 300, "has no image of the set for train"),
        (
            [f"{'a' * 16}{i}" for i in range(9)],
            256,
            "aaa0 and aaaaaaaaaaaaaaaa1 would both be called aaaaaaaaaaaaaaaa.png",
        ),
    ],
)
def test_nuclei_that_make_no_set_are_refused(
    names: list[str], side: int, said: str, tmp_path: Path, capsys: Errors
) -> None:
    for name in names:
        save(tmp_path / "stage1_train" / name / "images" / f"{name}.png", (side, side))
        save(tmp_path / "stage1_train" / name / "masks/a.png", (side, side), "L", 255)
    assert said in refused(capsys, "nuclei", tmp_path)


@pytest.mark.parametrize(
    ("size", "said"),
    [(None, "cannot identify it as JPEG"), ((33_000, 200), "33000 x 200 pixels are too elongated")],
)
def test_an_image_that_is_no_photograph_is_named(
    size: tuple[int, int] | None, said: str, tmp_path: Path, capsys: Errors
) -> None:
    """Of one of more than 32,767 pixels a side the table could not hold the width."""
    for split in ("train", "val"):
        save(tmp_path / split / "n01/a.JPEG", (200, 200))
    if size:
        save(tmp_path / "val/n01/b.JPEG", size)
    else:
        (tmp_path / "val/n01/b.JPEG").write_text("no image")
    assert f"val/n01/b.JPEG' cannot be read: {said}" in refused(capsys, "imagenette", tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_has_the_same_number_in_both_splits(split: str, tmp_path: Path, capsys: Errors) -> None:
    for name in ("train/n01/a", "train/n03/b", "val/n01/c", "val/n03/d", f"{split}/n02/e"):
        save(tmp_path / f"{name}.JPEG", (200, 200))
    lacks = {"train": "val", "val": "train"}[split]
    said = refused(capsys, "imagenette", tmp_path)
    assert f"{lacks} has no image of 'n02', {split} has: all need the same classes" in said


def test_a_split_without_images_is_named(tmp_path: Path, capsys: Errors) -> None:
    save(tmp_path / "train/n01/a.JPEG", (200, 200))
    save(tmp_path / "val/n01/a.png", (200, 200))
    said = refused(capsys, "imagenette", tmp_path)
    assert f"{tmp_path} has no images for val: is it the clone" in said


@pytest.mark.parametrize("kind", ["full", "empty", "link"])
def test_what_is_there_is_not_written_over(kind: str, tmp_path: Path, capsys: Errors) -> None:
    save(tmp_path / "train/n01/a.JPEG", (200, 200))
    save(tmp_path / "val/n01/a.JPEG", (200, 200))
    out = tmp_path / "out"
    if kind == "link":
        out.symlink_to(tmp_path / "elsewhere")
    else:
        out.mkdir()
    if kind == "full":
        (out / "train.parquet").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit):
        main(["imagenette", str(tmp_path), str(out)])
    said = capsys.readouterr().err
    assert "out is there already: give a folder that is not" in said and "%|" not in said, "before images are read"
    assert sorted(tmp_path.rglob("*")) == before
    assert kind != "full" or (out / "train.parquet").read_text() == "mine"


def test_a_full_disk_leaves_nothing(tmp_path: Path, capsys: Errors, monkeypatch: pytest.MonkeyPatch) -> None:
    bccd(tmp_path, ("WBC", 1, 2, 11, 4))

    def write(path: Path, content: bytes) -> None:
        if path.name == "val.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(made_sets, "write_atomically", write)
    assert "made/out cannot be written: No space left on device" in refused(capsys, "blood", tmp_path)


def test_what_a_killed_one_left_is_no_part_of_the_next(tmp_path: Path) -> None:
    bccd(tmp_path, ("WBC", 1, 2, 11, 4))
    save(tmp_path / "made/.out.partial/train/old.jpg", (9, 9))
    main(["blood", str(tmp_path), str(tmp_path / "made/out")])
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["out"]
    assert not (tmp_path / "made/out/train/old.jpg").exists()


@pytest.mark.parametrize(
    ("name", "found", "other"),
    [
        ("imagenette", "1 train images, 1 val images, 1 classes", "1 val images, not 3,925"),
        ("caltech", "1 train images, 1 test images, 1 classes", "1 train images, not 5,204"),
        ("nuclei", "5 train images, 5 train objects, 1 val images, 1 val objects", "5 train objects, not 9,079"),
        ("blood", "5 train images, 5 train objects, 1 val images, 1 val objects", "1 val images, not 91"),
    ],
)
def test_another_number_of_images_than_the_results_are_of_is_told(
    name: str, found: str, other: str, tmp_path: Path, capsys: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(name, tmp_path)
    main([name, str(tmp_path), str(tmp_path / "out")])
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}/out: {found}\n"
    assert f"warning: {tmp_path}/out is not the set of the rows under results/: " in said.err and other in said.err
    known = {what: int(number) for number, what in (one.split(" ", 1) for one in found.split(", "))}
    monkeypatch.setitem(KNOWN, name, known)
    main([name, str(tmp_path), str(tmp_path / "again")])
    assert "warning" not in capsys.readouterr().err
