"""`contagg predict` and `contagg validate` on a small network that was written as a run writes it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from contagg.checkpoints.weights import load_model, read_weights, save_weights
from contagg.cli import main
from contagg.data.decode import read_image
from contagg.data.sources import DataConfig, open_data
from contagg.models import create
from contagg.training.building import Preprocessing

CLASSES = ["china", "flower", "tower"]
OPTIONS = {"num_classes": 3, "in_chans": 3, "img_size": 32, "embed_dims": [8, 8, 16, 32], "depths": [1, 1, 1, 1]}
PREPARED = Preprocessing(
    input_size=(3, 32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), crop="resized", crop_fraction=0.9,
    interpolation="bicubic",
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create("container_light_tiny", **OPTIONS)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    path = tmp_path / "run" / "checkpoints" / "best.safetensors"
    metadata = {
        "model": {"name": "container_light_tiny", "options": OPTIONS},
        "class_names": CLASSES,
        "preprocessing": vars(PREPARED),
    }
    save_weights(path, model.state_dict(), metadata)
    return path


def expected(path: Path, image: Path) -> torch.Tensor:
    from contagg.checkpoints.weights import load_model

    model, _ = load_model(path)
    with torch.no_grad():
        return model(PREPARED.evaluation()(read_image(image, "x"))[None]).softmax(1)[0]


def test_files_are_read_with_the_bit_depth_of_training(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ramp = np.linspace(0, 4095, 40 * 50).astype(np.uint16).reshape(40, 50)
    Image.fromarray(ramp).save(tmp_path / "camera.png")
    state, metadata = read_weights(checkpoint)
    said = {}
    for depth in (None, 12):
        metadata["preprocessing"]["bit_depth"] = depth
        save_weights(checkpoint, state, metadata)
        arguments = ("predict", str(checkpoint), str(tmp_path / "camera.png"), "--output", "json", "--top-k", "1")
        said[depth] = json.loads(run(capsys, *arguments))[0]["classes"][0]["probability"]
        image = read_image(tmp_path / "camera.png", "x", bit_depth=depth)
        model, _ = load_model(checkpoint)
        with torch.inference_mode():
            wanted = model(PREPARED.evaluation()(image)[None]).softmax(1).max().item()
        assert abs(said[depth] - wanted) < 1e-5
    assert abs(said[None] - said[12]) > 1e-4
    metadata["preprocessing"]["bit_depth"] = 99
    save_weights(checkpoint, state, metadata)
    assert "does not say how images" in fail(capsys, "predict", str(checkpoint), str(tmp_path / "camera.png"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as leave:
        main(list(arguments))
    assert leave.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed


def test_json_table_and_csv_say_the_same(
    checkpoint: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_folder(train=3, val=1)
    images = ["--batch-size", "2", str(folder / "train")]
    found = json.loads(run(capsys, "predict", str(checkpoint), *images, "--output", "json", "--top-k", "2"))
    assert len(found) == 6
    for row in found:
        probabilities = expected(checkpoint, Path(row["image"]))
        top = probabilities.topk(2)
        assert [entry["class"] for entry in row["classes"]] == [CLASSES[index] for index in top.indices]
        assert [entry["probability"] for entry in row["classes"]] == pytest.approx(top.values.tolist(), abs=1e-5)
    table = run(capsys, "predict", str(checkpoint.parents[1]), *images, "--top-k", "1").splitlines()
    lines = csv.DictReader(io.StringIO(run(capsys, "predict", str(checkpoint), *images, "--output", "csv")))
    first = [row for row in lines if row["rank"] == "1"]
    for line, row, entry in zip(table, found, first, strict=True):
        best = row["classes"][0]
        assert line.split()[-3:] == [best["class"], f"{100 * best['probability']:.1f}", "%"]
        assert (entry["image"], entry["class"]) == (row["image"], best["class"])


def test_an_unreadable_image_is_named_and_left_out(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("L", (40, 30), 99).save(tmp_path / "grey.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:50])
    paths = [str(tmp_path / name) for name in ("broken.png", "grey.png")]
    found = json.loads(run(capsys, "predict", str(checkpoint), *paths, "--output", "json"))
    assert [row["image"] for row in found] == [paths[1]]
    assert len(found[0]["classes"]) == 3
    assert "broken.png" in caplog.text
    assert "none of the 1 images can be read" in fail(capsys, "predict", str(checkpoint), paths[0])


def test_what_is_not_there(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "there is no image or folder nowhere" in fail(capsys, "predict", str(checkpoint), "nowhere")
    assert "has no images" in fail(capsys, "predict", str(checkpoint), str(tmp_path / "empty"))
    assert "no weights at" in fail(capsys, "predict", "nothing.safetensors", str(checkpoint))
    assert "--device cuda:77 cannot be used" in fail(
        capsys, "predict", str(checkpoint), str(checkpoint), "--device", "cuda:77"
    )


def test_weights_that_do_not_say_how_images_are_prepared(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create("container_light_tiny", **OPTIONS)
    metadata = {"model": {"name": "container_light_tiny", "options": OPTIONS}}
    save_weights(tmp_path / "bare.safetensors", model.state_dict(), metadata)
    printed = fail(capsys, "predict", str(tmp_path / "bare.safetensors"), str(checkpoint))
    assert "does not say how images are prepared" in printed


def test_validate_counts_every_image(
    checkpoint: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder(classes=tuple(CLASSES), train=1, val=3)
    (checkpoint.parents[1] / "recipe.yaml").write_text(yaml.safe_dump({"data": {"name": "folder", "root": str(root)}}))
    printed = run(capsys, "validate", str(checkpoint), "--batch-size", "4")
    data = open_data(DataConfig(name="folder", root=str(root)))
    found = []
    for image, label in data.validation:
        image.save(root / "one.png")
        found.append(expected(checkpoint, root / "one.png").argmax().item() == label)
    assert f"accuracy {100 * sum(found) / 9:.2f} % of 9 images" in printed
    with (checkpoint.parents[1] / "figures" / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [sum(map(int, row[1:])) for row in rows] == [3, 3, 3]
    assert sum(int(row[1 + number]) for number, row in enumerate(rows)) == sum(found)


def test_validate_names_what_does_not_fit(
    checkpoint: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = fail(capsys, "validate", str(checkpoint))
    assert "--data.name and --data.root must say which data to use" in printed
    root = image_folder(classes=("cat", "dog"), train=1, val=1)
    printed = fail(capsys, "validate", str(checkpoint), "--data.name", "folder", "--data.root", str(root))
    assert "tells 3 classes apart (china, flower, tower), the data have 2 (cat, dog): none is among them" in printed


@pytest.mark.parametrize("layout", ["val", "test", "."])
def test_a_test_folder_alone_is_validated_by_the_names_of_its_classes(
    layout: str,
    checkpoint: Path,
    image_folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It lacks train/ and the class china, and has one that the network does not know."""
    made = image_folder(classes=("bird", "flower", "tower"), train=0, val=2)
    folder = tmp_path / "own" / layout
    folder.parent.mkdir(exist_ok=True)
    (made / "val").rename(folder)
    printed = run(capsys, "validate", str(checkpoint), "--data.root", str(tmp_path / "own"))
    assert "of 4 images" in printed
    assert "1 of its 3 classes have no images in the data: china" in caplog.text
    assert "2 images of classes that it does not know are left out: bird" in caplog.text
    with (checkpoint.parents[1] / "figures" / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == CLASSES and [sum(map(int, row[1:])) for row in rows[1:]] == [0, 2, 2]
    guesses = [expected(checkpoint, path).argmax().item() for path in sorted((folder / "tower").rglob("*.*"))]
    assert [int(count) for count in rows[3][1:]] == [guesses.count(number) for number in range(3)]


def test_answers_that_are_no_numbers_are_no_scores(
    checkpoint: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    state, metadata = read_weights(checkpoint)
    state["head.fc.bias"][1] = float("nan")
    save_weights(checkpoint, state, metadata)
    root = image_folder(classes=tuple(CLASSES), train=1, val=1)
    said = "head.fc.bias is not finite: 1 of 3 numbers are NaN or infinite"
    assert said in fail(capsys, "validate", str(checkpoint), "--data.root", str(root))
    assert said in fail(capsys, "predict", str(checkpoint), str(root))
