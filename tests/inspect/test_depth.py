"""Numbers of layers through the depth of networks: known on paper, printed, drawn and saved."""

import csv
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

import contagg
from contagg.checkpoints.weights import save_weights
from contagg.cli import main
from contagg.inspect.depth import depth_figure, through_depth

SIZES = {"embed_dims": (32, 64, 96, 128), "depths": (1, 1, 1, 1), "num_classes": 3, "img_size": 64}


def test_uniform_attention_and_the_identity() -> None:
    """Attention of weights 0 gathers from all alike; a kernel of one entry from its own place alone."""
    model = contagg.create("container_light_tiny", **SIZES)
    for module in model.modules():
        if type(module).__name__ == "DepthwiseConv":
            nn.init.zeros_(module.weight)
            module.weight.data[..., 2, 2] = 1.0
        elif type(module).__name__ == "SelfAttention":
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
    gate = model.get_submodule("stages.3.blocks.0.aggregation.affinity.gate")
    nn.init.constant_(gate.alpha, 3.0)
    nn.init.constant_(gate.beta, 0.0)
    found = through_depth(model, [torch.randn(1, 3, 64, 64) for _ in range(3)])
    assert [(layer.label, layer.dynamic) for layer in found] == [
        ("stage 1, block 1", False),
        ("stage 2, block 1", False),
        ("stage 3, block 1", False),
        ("stage 4, block 1", True),
    ]
    expected = {"distance": 0.0, "within3": 1.0, "entropy": 0.0, "toeplitz": 1.0, "rank": 1.0}
    for layer in found[:3]:
        assert {name: layer.mean(name) for name in expected} == {
            name: (pytest.approx(value, abs=1e-5), pytest.approx(0, abs=1e-5)) for name, value in expected.items()
        }
        assert layer.mean("alpha") is None
    last = found[3]
    assert last.mean("entropy") == (pytest.approx(1, abs=1e-5), pytest.approx(0, abs=1e-5))
    assert last.mean("alpha") == (1.0, 0.0) and last.mean("within3")[0] == pytest.approx(1.0)  # 2 x 2 tokens


def test_an_interval_of_three_images_is_students() -> None:
    layer = through_depth(contagg.create("container_light_tiny", **SIZES), [torch.randn(1, 3, 64, 64)])[0]
    layer.values["entropy"] = [1.0, 2.0, 3.0]
    assert layer.mean("entropy") == (2.0, pytest.approx(2.48413771175033))


def test_a_line_a_model_and_a_panel_a_measure() -> None:
    images = [torch.randn(1, 3, 64, 64) for _ in range(2)]
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2)
    models = [
        ("light", through_depth(contagg.create("container_light_tiny", **SIZES), images)),
        ("vit", through_depth(vit, images)),
    ]
    axes = depth_figure(models).axes
    assert [each.get_title().split(" (")[0] for each in axes[:2]] == ["mean distance", "share within 3 x 3"]
    assert len(axes) == 6 and [text.get_text() for text in axes[0].get_legend().get_texts()] == ["light", "vit"]
    line = axes[0].get_lines()[0]
    assert line.get_ydata() == pytest.approx([layer.mean("distance")[0] for layer in models[0][1]])


def test_the_command_over_models(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        Image.effect_noise((80, 64), 90 - 20 * number).save(tmp_path / f"{number}.png")
    model = contagg.create("container_light_tiny", **SIZES)
    metadata = {"model": {"name": "container_light_tiny", "options": SIZES}}
    save_weights(tmp_path / "a run" / "checkpoints" / "best.safetensors", model.state_dict(), metadata)
    out, table = tmp_path / "s.png", tmp_path / "s.csv"
    options = ["--data", str(tmp_path), "--images", "2", "--out", str(out), "--csv", str(table)]
    main(["inspect", "statistics", str(tmp_path / "a run"), *options])
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].startswith("a run  stage 1, block 1") and printed[-1] == f"the figure is in {out}"
    assert not any("random" in line for line in printed) and out.stat().st_size > 10_000
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["images"] for row in rows} == {"2"} and {row["depth"] for row in rows} == {"1", "2", "3", "4"}
    assert [row["dynamic"] for row in rows if row["measure"] == "alpha"] == ["1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("vit_tiny_patch16_224 --data {folder}/none", "there is no image or folder"),
        ("vit_tiny_patch16_224 --data {folder}", "has no images"),
        ("vit_tiny_patch16_224 resnet18 --data {image} --epochs 1", "--epochs shows epochs of one run"),
        ("vit_tiny_patch16_224 --data {image} --epochs 1", "'vit_tiny_patch16_224' has no training states"),
        ("vit_tiny_patch16_224 --data {image} --layers block.0", "has no such module. Did you mean 'blocks.0'?"),
        ("resnet18 --data {image}", "ResNet has no affinity to show: conv1 and 16 more"),
        ("facebook/dinov2-small --data {image}", "run `hf download facebook/dinov2-small --local-dir FOLDER`"),
    ],
)
def test_bad_input_is_one_line(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, image = tmp_path / "empty", tmp_path / "noise.png"
    folder.mkdir()
    Image.effect_noise((60, 40), 90).save(image)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["inspect", "statistics", *arguments.format(folder=folder, image=image).split()])
    found = capsys.readouterr()
    assert left.value.code == 2 and message in found.err and found.err.count("\n") == 1
