"""Detectors where any model is shown: the page, the figure and the numbers, and their A against what they gather."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_cross_attention import saved
from torch import Tensor, nn

from contagg.checkpoints.weights import save_weights
from contagg.cli import main
from contagg.data.coco.annotations import Category
from contagg.data.coco.config import ResizingConfig
from contagg.detection.config import DetectorConfig
from contagg.detection.detectors import build_detector
from contagg.detection.detr.cross_attention import cross_attentions
from contagg.detection.saved import describe
from contagg.detection.shown import ShownDetector, open_shown
from contagg.inspect.seeing import see
from contagg.inspect.view import look


def opened(detector: str, folder: Path) -> ShownDetector:
    return open_shown(saved(detector, folder / "a.safetensors"))[0]


def picture(folder: Path) -> str:
    Image.effect_noise((130, 90), 90).convert("RGB").save(folder / "noise.png")
    return str(folder / "noise.png")


def retinanet(path: Path) -> str:
    config = DetectorConfig(
        detector="retinanet", backbone="container_light_tiny", norm="train", pyramid_channels=8, anchor_size=4
    )
    torch.manual_seed(0)
    description = describe(config, (Category(1, "cup"),), ResizingConfig(short_sides=(60,), long_side=90))
    save_weights(path, build_detector(config, 1).state_dict(), description)
    return str(path)


def test_a_view_is_whole_cells_of_the_size_asked_for(tmp_path: Path) -> None:
    model, image = opened("detr", tmp_path), Image.new("RGB", (130, 90))
    assert look(model, image, {}).size == (64, 96)  # 60 x 87 in validation
    assert look(model, image, {}, 160).size == (160, 224)  # the longer side of 231 may be beyond validation's 90


@pytest.mark.parametrize("detector", ["detr", "smca_detr"])
def test_encoder_and_decoder_are_recorded_as_the_network_gathers(detector: str, tmp_path: Path) -> None:
    model = opened(detector, tmp_path)
    image = torch.randn(1, 3, 64, 96)
    recording = see(model, image)
    parts = [layer.label for layer in recording.layers if layer.part]
    assert parts == ["encoder layer 1", "decoder layer 1", "decoder layer 2"]
    assert set(recording.layers[0].name.split(".")) > {"features", "stages"} and not recording.layers[0].part
    encoder, *decoder = [layer for layer in recording.layers if layer.part]
    kept: list[Any] = []
    attention = model.get_submodule(encoder.name)
    assert isinstance(attention, nn.MultiheadAttention)
    attention.register_forward_pre_hook(lambda _, inputs, options: kept.append((inputs, options)), with_kwargs=True)
    found = cross_attentions(model.network, image, [(64, 96)])
    inputs, options = kept[0]
    _, weights = attention(*inputs, **options | {"need_weights": True, "average_attn_weights": False})
    torch.testing.assert_close(encoder.mixed.rows(torch.arange(96)), weights[0], rtol=1e-4, atol=1e-6)
    surest = int(found[-1].probabilities.amax(1).argmax())
    for layer, one in zip(decoder, found, strict=True):
        assert layer.grid == (8, 12) and layer.targets[0].startswith(f"{surest + 1}: ") and len(layer.targets) == 5
        torch.testing.assert_close(layer.mixed.rows(torch.tensor([0]))[:, 0], one.attention[:, surest].flatten(1))
        assert bool(layer.beside) == (detector == "smca_detr")
        if one.prior is not None:
            (prior,) = layer.beside
            torch.testing.assert_close(prior.form.rows(torch.tensor([0]))[:, 0], one.prior[:, surest].flatten(1))


def test_what_deformable_detr_samples_is_a_matrix(tmp_path: Path) -> None:
    """A times the values is what its attention gave, also at points outside the map."""
    model, image = opened("deformable_detr", tmp_path), torch.randn(1, 3, 64, 96)
    for layer in (*model.network.core.model.encoder.layers, *model.network.core.model.decoder.layers):
        attention = getattr(layer, "encoder_attn", layer.self_attn)
        nn.init.normal_(attention.sampling_offsets.bias, std=3)
        nn.init.normal_(attention.attention_weights.bias)
    given: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in model.named_modules():
        if name.endswith("_attn.attn"):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: given.update({name: (inputs[0][0], output[0].detach())})
            )
    layers = [layer for layer in see(model, image).layers if layer.part]
    assert [layer.label for layer in layers] == ["encoder layer 1", "decoder layer 1", "decoder layer 2"]
    for layer in layers:
        values, gathered = given[f"{layer.name}.attn"]
        order = [int(name.split(":")[0]) - 1 for name in layer.targets] or range(96)
        expected = gathered[torch.tensor(order)].unflatten(1, values.shape[1:])
        rows = layer.mixed.rows(torch.arange(len(order)))
        torch.testing.assert_close(torch.einsum("mqn,nmd->qmd", rows, values), expected, rtol=1e-4, atol=1e-5)
        assert rows.sum(2).min() < 0.9  # some points lie outside


def test_explore_has_its_options_for_detectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out = saved("smca_detr", tmp_path / "a.safetensors"), tmp_path / "page.html"
    other = retinanet(tmp_path / "b.safetensors")
    words = ["inspect", "explore", weights, picture(tmp_path), "-o", str(out), "--json", str(tmp_path / "a.json")]
    main([*words, "--size", "96", "--beside", other, "--fields", "1"])
    printed = capsys.readouterr().out
    assert "a.safetensors: 5 layers, 2 cannot be shown" in printed and "b.safetensors: 5 layers, 1 cannot" in printed
    assert "% in common" in printed  # RetinaNet's layers are one way from the image
    page = out.read_text(encoding="utf-8")
    assert "decoder layer 2" in page and any(name in page for name in (": cup ", ": hat ", ": shoe "))
    first, second = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert first["model"] == "a.safetensors"  # a page is handed on, and a path tells of its maker's folders
    assert first["layers"][-1]["distance"] is None and 0 < first["layers"][-1]["entropy"] <= 1
    assert first["layers"][-1]["grid"] == [12, 16] and second["unshown"][0]["name"] == "network, behind the backbone"
    main([*words, "--layers", "network.core.transformer.decoder.layers.1"])
    (one,) = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [layer["label"] for layer in one["layers"]] == ["decoder layer 2"]
    with pytest.raises(SystemExit):
        main([*words, "--layers", "network.core.transformer.decoder.layer.1"])
    assert "Did you mean 'network.core.transformer.decoder.layers.1'?" in capsys.readouterr().err


@pytest.mark.parametrize("detector", ["smca_detr", "deformable_detr"])
def test_affinity_takes_detectors(detector: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out, rows = saved(detector, tmp_path / "a.safetensors"), tmp_path / "a.png", tmp_path / "rows.csv"
    main(["inspect", "affinity", weights, picture(tmp_path), "--out", str(out), "--save-rows", str(rows)])
    assert "encoder layer 1" in capsys.readouterr().out and Image.open(out).size[0] > 500
    with rows.open(newline="") as file:
        found = {(row["layer"].split(".")[-3], row["stage"], row["at_row"] == "") for row in csv.DictReader(file)}
    decoder = {("layers", "", False), ("layers", "", True)}  # of a place, and of a query, which has none
    assert decoder < found and {stage for _, stage, _ in found} == {"", "1", "2"}


def test_statistics_take_detectors_beside_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [saved("deformable_detr", tmp_path / "a.safetensors"), "container_light_tiny"]
    options = ["--data", picture(tmp_path), "--size", "64", "--out", str(tmp_path / "a.png")]
    main(["inspect", "statistics", *models, *options])
    lines = capsys.readouterr().out.splitlines()
    (encoder,) = [line for line in lines if "encoder layer 1" in line]
    (decoder,) = [line for line in lines if "decoder layer 2" in line]
    assert len(encoder.split()) == 4 + 5 and len(decoder.split()) == 4 + 2  # queries have no distance
    assert any(line.startswith("container_light_tiny") for line in lines)


def test_weights_beside_a_detector_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = saved("detr", tmp_path / "a.safetensors")
    for command in ("explore", "affinity"):
        with pytest.raises(SystemExit):
            main(["inspect", command, weights, picture(tmp_path), "--weights", weights])
        assert "has weights of its own" in capsys.readouterr().err
