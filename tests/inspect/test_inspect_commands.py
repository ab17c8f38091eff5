"""`contagg inspect affinity` and `contagg inspect static`, from their arguments to files and to what they print."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import contagg
from contagg.checkpoints.weights import save_weights
from contagg.cli import main
from contagg.data.decode import open_image
from contagg.errors import UserError

SIZES = {"embed_dims": (32, 64, 96, 128), "depths": (1, 1, 1, 1), "num_classes": 3, "in_chans": 1, "img_size": 32}
PREPROCESSING = {
    "input_size": [1, 32, 32],
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2] * 3,
    "crop": "resized",
    "crop_fraction": 0.875,
    "interpolation": "bilinear",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the weights of a small network whose stage 4 has gates of 0.75 and -0.125."""
    model = contagg.create("container_light_tiny", **SIZES)
    gate = model.get_submodule("stages.3.blocks.0.aggregation.affinity.gate")
    nn.init.constant_(gate.alpha, 0.75)
    nn.init.constant_(gate.beta, -0.125)
    metadata = {
        "model": {"name": "container_light_tiny", "options": SIZES},
        "preprocessing": PREPROCESSING,
    }
    folder = tmp_path / "a run"
    save_weights(folder / "checkpoints" / "best.safetensors", model.state_dict(), metadata)
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    Image.effect_noise((60, 40), 90).save(path)
    return path


def told(capsys: pytest.CaptureFixture, *arguments: object) -> list[str]:
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out.splitlines()


def test_a_run_s_affinities(run: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, rows = tmp_path / "a.png", tmp_path / "rows.csv"
    options = ("--at", "39,0.99", "--stages", "3,4", "--heads", "mean,2", "--out", out, "--save-rows", rows)
    lines = told(capsys, "inspect", "affinity", run, image, *options)
    assert [re.split(r"\s{2,}", line)[:3] for line in lines[1:5]] == [
        ["stage 3, block 1", "static", lines[1].split()[5]],
        ["stage 4, block 1", "dynamic", "alpha 0.750"],
        ["stage 4, block 1", "static", "beta -0.125"],
        ["stage 4, block 1", "mixed", lines[4].split()[5]],
    ]
    assert lines[-2:] == [f"the numbers are in {rows}", f"the figure is in {out}"]
    with Image.open(out) as written:
        assert written.size[0] > written.size[1]
    with rows.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2 * (2 * 2 * 3) + 2 * (3 * 1 * 2)  # heads x maps x tokens of each stage
    attention = [float(line["value"]) for line in table if line["part"] == "dynamic" and line["head"] == "2"]
    assert sum(attention) == pytest.approx(1, abs=1e-5)
    assert {(line["stage"], line["at_row"], line["at_column"]) for line in table} == {("3", "1", "2"), ("4", "0", "1")}
    assert {line["weight"] for line in table if line["part"] == "dynamic"} == {"0.75"}


def test_numbers_as_arrays(tmp_path: Path, image: Path, capsys: pytest.CaptureFixture) -> None:
    weights = tmp_path / "pam.safetensors"
    options = {"img_size": 64, "depth": 2, "num_classes": 2}
    model = contagg.create("deit_small_pam", **options)
    metadata = {
        "model": {"name": "deit_small_pam", "options": options},
        "preprocessing": {**PREPROCESSING, "input_size": [3, 64, 64]},
    }
    save_weights(weights, model.state_dict(), metadata)
    told(capsys, "inspect", "affinity", weights, image, "--blocks", 2, "--heads", 6, "--out", tmp_path / "a.png",
         "--at", "0,0", "--save-rows", tmp_path / "r.npz")  # fmt: skip
    arrays = np.load(tmp_path / "r.npz")
    parts = ("dynamic", "static", "mixed")
    assert set(arrays) == {f"stage1_block2_head6_{part}{end}" for part in parts for end in ("", "_prefix")}
    static = model.get_submodule("blocks.1.attn.aggregation").affinity.second.factors[0].detach().numpy()
    np.testing.assert_allclose(arrays["stage1_block2_head6_static"], static[5, 1, 1:].reshape(4, 4))
    np.testing.assert_allclose(arrays["stage1_block2_head6_static_prefix"], static[5, 1, :1])


def test_static_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "s.png"
    lines = told(capsys, "inspect", "static", run / "checkpoints" / "best.safetensors", "--layers", "1,4", "--out", out)
    assert lines[1].startswith("1: stage 1, block 1  static") and "alpha 0.750, beta -0.125" in lines[2]
    assert lines[-1] == f"the figure is in {out}" and out.stat().st_size > 10_000


def test_a_named_model_with_weights_or_without(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = contagg.create("container_light_tiny")
    nn.init.constant_(model.get_submodule("stages.3.blocks.0.aggregation.affinity.gate").beta, 0.875)
    save_weights(tmp_path / "w.safetensors", model.state_dict(), {})
    common = ("inspect", "static", "container_light_tiny", "--layers", 5, "--out", tmp_path / "s.png")
    lines = told(capsys, *common)
    assert "beta 0.500" in lines[1] and "container_light_tiny has random weights" in lines[-2]
    untrained = (tmp_path / "s.png").read_bytes()
    lines = told(capsys, *common, "--weights", tmp_path / "w.safetensors")
    assert "beta 0.875" in lines[1] and not any("random" in line for line in lines)
    assert (tmp_path / "s.png").read_bytes() != untrained


def test_an_image_as_people_see_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    clear.save(path, exif=exif)
    found = open_image(str(path))
    assert (found.mode, found.size) == ("RGB", (1, 2))
    assert [found.getpixel((0, row)) for row in (0, 1)] == [(255, 255, 255), (10, 20, 30)]
    Image.new("1", (3, 2)).save(path)
    assert open_image(str(path)).mode == "L"
    Image.new("F", (3, 2), 7.0).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif' cannot be read: pixel values from 7\.0 to 7\.0"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("inspect affinity container_lite {image}", "unknown model 'container_lite'. Did you mean 'container_light'?"),
        (
            "inspect affinity resnet18 {image}",
            "ResNet has no affinity to show: conv1 and 16 more",
        ),
        ("inspect affinity {run} missing.png", "there is no file 'missing.png'"),
        (
            "inspect affinity {run} {run}/checkpoints/best.safetensors",
            "best.safetensors' cannot be read: cannot identify",
        ),
        ("inspect affinity {run} {image} --at 40,0", "position 40,0 is outside the image of 40 rows and 60 columns"),
        ("inspect affinity {run} {image} --at 1.5,0", "position 1.5,0 is outside"),
        ("inspect affinity {run} {image} --at here", "argument --at: 'here' is not ROW,COL"),
        ("inspect affinity {run} {image} --stages 5", "stage 5 does not exist; the model's stages are 1, 2, 3, 4"),
        ("inspect affinity {run} {image} --stages 4 --blocks 2", "block 2 of stage 4 does not exist; its blocks are 1"),
        ("inspect affinity {run} {image} --stages 4 --heads 5", "its heads are 1 to 4, or 'mean'"),
        ("inspect affinity {run} {image} --weights {image}", "has weights of its own"),
        ("inspect affinity {run}/checkpoints {image}", "is no run folder with weights"),
        ("inspect affinity runs/none {image}", "no weights at 'runs/none'"),
        ("inspect static container_attention", "Container has no static affinity"),
        ("inspect static {run} --layers 5", "layer 5 does not exist; the layers with one are 1, 2, 3, 4"),
        ("inspect static {run} --out {image}/x.png", "x.png cannot be written"),
    ],
)
def test_bad_input_is_one_line(
    arguments: str, message: str, run: Path, image: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(image.parent)
    with pytest.raises(SystemExit) as left:
        main([word.format(run=run, image=image) for word in arguments.split()])
    found = capsys.readouterr()
    assert left.value.code == 2 and found.out == ""
    assert message in found.err and found.err.startswith("contagg: error: ") and found.err.count("\n") == 1
    assert sorted(path.name for path in image.parent.iterdir()) == ["a run", "noise.png"]
