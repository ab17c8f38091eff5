"""The figure of `contagg inspect affinity`: its panels, what they say, and that it is written."""

from pathlib import Path

import pytest
import timm
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import contagg
from contagg.errors import UserError
from contagg.inspect.figures import affinity_figure, draw_affinity
from contagg.inspect.gathering import Gathering, gather
from contagg.inspect.view import look

SIZES = {"embed_dims": (32, 64, 96, 128), "depths": (1, 1, 1, 2), "num_classes": 3}


def photo() -> Image.Image:
    return Image.effect_noise((60, 40), 90).convert("RGB")


def figure_of(model: nn.Module, size: int | None = 64, **chosen: object) -> tuple[Figure, list[Gathering]]:
    view = look(model.eval(), photo(), {"input_size": (3, 64, 64)}, size)
    gatherings = gather(model, view, (0.5, 0.5), **chosen)  # type: ignore[arg-type]
    return affinity_figure([(view, gatherings)]), gatherings


def titles(model: nn.Module, size: int | None = 64, **chosen: object) -> list[list[str]]:
    """A line a row of the figure, without the image that each begins with."""
    rows: list[list[str]] = []
    for axes in figure_of(model, size, **chosen)[0].axes:
        if axes.get_title().startswith("image"):
            rows.append([])
        else:
            rows[-1].append(axes.get_title())
    return rows


def test_panels_of_a_light_network_leave_no_place_empty() -> None:
    model = contagg.create("container_light_tiny", **SIZES)
    model.get_submodule("stages.3.blocks.1.aggregation.affinity.gate").alpha.data.fill_(0.25)
    assert titles(model) == [
        [
            "stage 1, block 1: static\n16 x 24 tokens, mean |A| of 32 heads",
            "stage 2, block 1: static\n8 x 12 tokens, mean |A| of 64 heads",
            "stage 3, block 1: static\n4 x 6 tokens, mean |A| of 96 heads",
        ],
        [
            "stage 4, block 2: dynamic\n2 x 3 tokens, mean of 4 heads, α = 0.25",
            "stage 4, block 2: static\n2 x 3 tokens, mean |A| of 4 heads, β = 0.5",
            "stage 4, block 2: mixed\nα dynamic + β static, mean |A| of 4 heads",
        ],
    ]
    figure, _ = figure_of(model)
    assert all(axes.images for axes in figure.axes)
    assert len(figure.axes) == figure.axes[0].get_gridspec().nrows * figure.axes[0].get_gridspec().ncols


def test_panels_of_single_affinities_need_no_mixed_map() -> None:
    found = titles(contagg.create("container_dw3", **SIZES), stages=[2], heads=[5])
    assert found == [["stage 2, block 1: static\n8 x 12 tokens, head 5 of 64"]]
    found = titles(timm.create_model("deit_tiny_patch16_224", img_size=64, depth=1), None)
    assert found == [["block 1: dynamic\n4 x 4 tokens, mean of 3 heads"]]


def test_titles_say_what_are_means_of_sizes() -> None:
    model = contagg.create("container_tiny", affinity="dwconv3 + token mlp/32", img_size=64, **SIZES)
    [line] = titles(model, None, stages=[3])
    assert [title.split("\n")[1].split(", ", 1)[-1] for title in line] == [
        "mean |A| of 96 heads, α = 0.5", "mean |A| of 96 heads, β = 0.5", "mean |A| of 96 heads",
    ]  # fmt: skip
    model = contagg.create("container_pam", img_size=64, **SIZES)
    [line] = titles(model, None, stages=[3], heads=[1])
    assert [title.split(": ")[1] for title in line] == [
        "dynamic\n4 x 4 tokens, head 1 of 3, α = 0.5",
        "static\n4 x 4 tokens, head 1 of 3, β = 0.5",
        "mixed\nα dynamic + β static, head 1 of 3",
    ]


def test_the_heading_promises_blue_only_where_a_map_has_it() -> None:
    """Means of |A| have no signs; one kernel has."""
    model = contagg.create("container_light_tiny", **SIZES)
    for chosen, signed in (({}, False), ({"stages": [1], "heads": [3]}, True)):
        figure, _ = figure_of(model, **chosen)
        assert ("blue" in figure.get_suptitle()) == signed
        low = [float(axes.child_axes[0].get_yticks()[0]) for axes in figure.axes if axes.child_axes]
        assert (min(low) < 0) == signed


def test_random_weights_are_marked_on_the_picture(tmp_path: Path) -> None:
    model = contagg.create("container_light_tiny", **SIZES).eval()
    view = look(model, photo(), {}, size=64)
    gatherings = gather(model, view, (0.5, 0.5))
    assert affinity_figure([(view, gatherings)], untrained=True).get_suptitle().startswith("Untrained network, random")
    assert "ntrained" not in affinity_figure([(view, gatherings)]).get_suptitle()


def test_the_shown_colours_are_the_maps_in_times_uniform() -> None:
    model = contagg.create("container_light_tiny", **SIZES).eval()
    view = look(model, photo(), {}, size=64)
    gatherings = gather(model, view, (5, 50), stages=[4], blocks=[1])
    image, *maps = affinity_figure([(view, gatherings)]).axes
    assert [len(axes.images) for axes in (image, *maps)] == [1, 2, 2, 2]
    for axes, shown in zip(maps, gatherings[0].maps.values(), strict=True):
        strength = torch.tensor(axes.images[1].get_array()[..., 3])
        order = shown.values.abs().flatten().argsort()
        assert (strength.flatten()[order].diff() >= 0).all()
        frame = axes.patches[1]
        assert frame.get_xy() == (2 * 32, 0)
        labels = [label.get_text() for label in axes.child_axes[0].get_yticklabels()]
        assert labels == ["0", "1", "9"]  # six tokens: none can give more than 6 times uniform


def test_several_images_begin_a_row_each() -> None:
    model = contagg.create("container_light_tiny", **SIZES).eval()
    views = [look(model, photo(), {}, size=size) for size in (64, 96)]
    figure = affinity_figure([(view, gather(model, view, (0.5, 0.5), stages=[4], blocks=[2])) for view in views])
    assert [axes.get_title().split("\n")[1] for axes in figure.axes[::4]] == ["64 x 96 pixels", "96 x 144 pixels"]


def test_it_is_written_and_the_numbers_come_back(tmp_path: Path) -> None:
    model = contagg.create("container_light_tiny", in_chans=1, img_size=32, **SIZES)
    path = tmp_path / "figures" / "affinity.png"
    grey = Image.effect_noise((8, 8), 90)
    gatherings = draw_affinity(model, grey, {"input_size": [1, 32, 32], "mean": [0.5], "std": [0.5]}, path)
    assert [one.layer.label[:7] for one in gatherings] == [f"stage {n}" for n in (1, 2, 3, 4)]
    with Image.open(path) as written:
        assert written.format == "PNG" and min(written.size) > 800
        assert len(written.convert("RGB").getcolors(1 << 24)) > 100
    assert [file.name for file in path.parent.iterdir()] == ["affinity.png"]


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    model = contagg.create("container_light_tiny", **SIZES)
    path = tmp_path / "affinity.png"
    with pytest.raises(UserError, match="a figure of 96 maps is too long; choose stages, blocks and heads for 72"):
        draw_affinity(model, photo(), {}, path, size=32, stages=[1, 2, 3], heads=range(1, 33))
    with pytest.raises(UserError, match="position 40,0 is outside the image of 40 rows and 60 columns"):
        draw_affinity(model, photo(), {}, path, at=(40, 0))
    with pytest.raises(UserError, match="ResNet has no affinity"):
        draw_affinity(timm.create_model("resnet18"), photo(), {}, path)
    with pytest.raises(UserError, match=r"affinity\.bmp must end in one of \.png"):
        draw_affinity(model, photo(), {}, tmp_path / "affinity.bmp", size=32)
    assert list(tmp_path.iterdir()) == []
