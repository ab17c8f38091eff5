"""The figure of `contagg affinity`: its panels, what they say, and that it is written."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

import contagg
from contagg.errors import UserError
from contagg.inspect.figures import affinity_figure, draw_affinity
from contagg.inspect.gathering import gather
from contagg.inspect.view import look

SIZES = {"embed_dims": (32, 64, 96, 128), "depths": (1, 1, 1, 2), "num_classes": 3}


def photo() -> Image.Image:
    return Image.effect_noise((60, 40), 90).convert("RGB")


def titles(model: nn.Module, size: int | None = 64, **chosen: object) -> list[list[str]]:
    """A line a row of the figure; the text of a panel that is left out, in brackets."""
    view = look(model.eval(), photo(), {"input_size": (3, 64, 64)}, size)
    gatherings = gather(model, view, (0.5, 0.5), **chosen)  # type: ignore[arg-type]
    figure = affinity_figure(view, gatherings)
    panels = [axes.get_title() or f"({axes.texts[0].get_text()})" for axes in figure.axes]
    columns = len(panels) // len(gatherings)
    return [panels[start : start + columns] for start in range(0, len(panels), columns)]


def test_panels_of_a_light_network() -> None:
    model = contagg.create("container_light_tiny", **SIZES)
    model.get_submodule("stages.3.blocks.1.aggregation.affinity.gate").alpha.data.fill_(0.25)
    found = titles(model)
    assert found == [
        ["stage 1, block 1\n16 x 24 tokens, mean of 32 heads", "(no dynamic part)", "mean |static|", "(static alone)"],
        ["stage 2, block 1\n8 x 12 tokens, mean of 64 heads", "(no dynamic part)", "mean |static|", "(static alone)"],
        ["stage 3, block 1\n4 x 6 tokens, mean of 96 heads", "(no dynamic part)", "mean |static|", "(static alone)"],
        [
            "stage 4, block 2\n2 x 3 tokens, mean of 4 heads",
            "dynamic, α = 0.25",
            "mean |static|, β = 0.5",
            "mixed: mean |α dynamic + β static|",
        ],
    ]


def test_panels_of_single_affinities_need_no_mixed_column() -> None:
    found = titles(contagg.create("container_dw3", **SIZES), stages=[2], heads=[5])
    assert found == [["stage 2, block 1\n8 x 12 tokens, head 5 of 64", "static"]]
    found = titles(timm.create_model("deit_tiny_patch16_224", img_size=64, depth=1), None)
    assert found == [["block 1\n4 x 4 tokens, mean of 3 heads", "dynamic"]]


def test_titles_say_what_is_signed() -> None:
    model = contagg.create("container_tiny", affinity="conv3 + mlp/32", img_size=64, **SIZES)
    [line] = titles(model, None, stages=[3])
    assert line[1:] == ["mean |static|, α = 0.5", "mean |static 2|, β = 0.5", "mixed: mean |α static + β static 2|"]
    model = contagg.create("container_pam", img_size=64, **SIZES)
    [line] = titles(model, None, stages=[3], heads=[1])
    assert line[1:] == ["dynamic, α = 0.5", "static, β = 0.5", "mixed: α dynamic + β static"]


def test_the_shown_colours_are_the_maps() -> None:
    model = contagg.create("container_light_tiny", **SIZES).eval()
    view = look(model, photo(), {}, size=64)
    gatherings = gather(model, view, (5, 50), stages=[4], blocks=[1])
    image, *maps = affinity_figure(view, gatherings).axes
    assert [len(axes.images) for axes in (image, *maps)] == [1, 2, 2, 2]
    for axes, shown in zip(maps, gatherings[0].maps.values(), strict=True):
        strength = torch.tensor(axes.images[1].get_array()[..., 3])
        order = shown.values.abs().flatten().argsort()
        assert (strength.flatten()[order].diff() >= 0).all()
        frame = axes.patches[1]
        assert frame.get_xy() == (2 * 32, 0)
        peak = max(float(label.get_text()) for label in axes.child_axes[0].get_yticklabels())
        assert peak == pytest.approx(shown.values.abs().max().item(), rel=0.01)


def test_it_is_written_and_the_numbers_come_back(tmp_path: Path) -> None:
    model = contagg.create("container_light_tiny", in_chans=1, img_size=32, **SIZES)
    path = tmp_path / "figures" / "affinity.png"
    grey = Image.effect_noise((8, 8), 90)
    gatherings = draw_affinity(model, grey, {"input_size": [1, 32, 32], "mean": [0.5], "std": [0.5]}, path)
    assert [one.layer.stage for one in gatherings] == [1, 2, 3, 4]
    with Image.open(path) as written:
        assert written.format == "PNG" and min(written.size) > 800
        assert len(written.convert("RGB").getcolors(1 << 24)) > 100
    assert [file.name for file in path.parent.iterdir()] == ["affinity.png"]


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    model = contagg.create("container_light_tiny", **SIZES)
    path = tmp_path / "affinity.png"
    with pytest.raises(UserError, match="a figure of 32 rows is too long; choose stages, blocks and heads for 24"):
        draw_affinity(model, photo(), {}, path, size=32, stages=[1], heads=range(1, 33))
    with pytest.raises(UserError, match="position 40,0 is outside the image of 40 rows and 60 columns"):
        draw_affinity(model, photo(), {}, path, at=(40, 0))
    with pytest.raises(UserError, match="ResNet has no affinity"):
        draw_affinity(timm.create_model("resnet18"), photo(), {}, path)
    with pytest.raises(UserError, match=r"affinity\.bmp must end in one of \.png"):
        draw_affinity(model, photo(), {}, tmp_path / "affinity.bmp", size=32)
    assert list(tmp_path.iterdir()) == []
