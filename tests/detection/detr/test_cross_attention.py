"""Where queries look: the attention that the network used, the prior of the formula, and the command's figure."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from contagg.checkpoints.weights import save_weights
from contagg.cli import main
from contagg.data.coco.annotations import Category
from contagg.data.coco.config import ResizingConfig
from contagg.detection.config import DetectorConfig
from contagg.detection.detectors import Detector, build_detector
from contagg.detection.detr.config import SetConfig
from contagg.detection.detr.cross_attention import cross_attention
from contagg.detection.saved import describe
from contagg.errors import UserError


def config(detector: str) -> DetectorConfig:
    sets = SetConfig(
        queries=5, stride=8, width=32, heads=4, encoder_layers=1, decoder_layers=2, feedforward=16, class_loss="focal"
    )
    return DetectorConfig(detector=detector, backbone="container_light_tiny", norm="train", detr=sets)


def model(detector: str) -> Detector:
    torch.manual_seed(0)
    made = build_detector(config(detector), 3).eval()
    if detector == "smca_detr":
        for layer in made.network.core.transformer.decoder.layers:
            torch.nn.init.normal_(layer.prior.scale.bias, 1, 0.3)
    return made


def saved(detector: str, path: Path) -> str:
    categories = tuple(Category(number, name) for number, name in ((1, "cup"), (3, "hat"), (90, "shoe")))
    description = describe(config(detector), categories, ResizingConfig(short_sides=(60,), long_side=90))
    save_weights(path, model(detector).state_dict(), description)
    return str(path)


def test_the_maps_are_what_the_network_uses() -> None:
    """Values gathered by hand with the maps are what the layer's attention gave."""
    detector, image = model("smca_detr"), torch.rand(3, 61, 83)
    attention = detector.network.core.transformer.decoder.layers[1].multihead_attn
    kept = []
    attention.register_forward_hook(lambda module, inputs, output: kept.append((inputs, output[0])))
    found = cross_attention(detector, image)
    assert found.layer == 2 and found.attention.shape == found.prior.shape == (4, 5, 8, 11)
    torch.testing.assert_close(found.attention.sum((2, 3)), torch.ones(4, 5))
    (_, _, memory), output = kept[0]
    values = torch.nn.functional.linear(memory[0], attention.in_proj_weight[64:], attention.in_proj_bias[64:])
    cells = values.view(8, 12, 4, 8)[:, :11]  # the map of 64 x 96 pixels, without its padding
    gathered = torch.einsum("mqyx,yxmc->qmc", found.attention, cells).flatten(1)
    torch.testing.assert_close(attention.out_proj(gathered), output[0].detach(), rtol=1e-4, atol=1e-5)
    assert 0 < found.prior.max() <= 1 and found.prior.min() >= 0
    assert cross_attention(model("detr"), image).prior is None
    assert not torch.equal(cross_attention(detector, image, layer=1).attention, found.attention)


@pytest.mark.parametrize("detector", ["detr", "smca_detr"])
def test_the_command(detector: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, image, out = (
        saved(detector, tmp_path / "a.safetensors"),
        tmp_path / "noise.png",
        tmp_path / "cross_attention.png",
    )
    Image.effect_noise((130, 90), 90).save(image)
    main(["inspect", "queries", path, str(image), "--queries", "2,5", "--heads", "mean,4", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["query 2", "query 5"] and lines[2].endswith(
        "cross_attention.png"
    )
    assert Image.open(out).size[1] > Image.open(out).size[0] / 2
    for words, message in (
        (["--queries", "6"], "query 6 does not exist; there are 1 to 5"),
        (["--heads", "5"], "head 5 does not exist; there are 1 to 4, or mean"),
        (["--layer", "3"], "decoder layer 3 does not exist; there are 1 to 2"),
    ):
        with pytest.raises(SystemExit):
            main(["inspect", "queries", path, str(image), "--out", str(out), *words])
        assert message in capsys.readouterr().err


def test_detectors_without_such_attention_are_named() -> None:
    with pytest.raises(UserError, match="queries attend to a whole map in detr and smca_detr alone"):
        cross_attention(model("deformable_detr"), torch.rand(3, 64, 64))
