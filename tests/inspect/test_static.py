"""Learnt static affinities by layer: the right rows of the right layers."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import contagg
from contagg.errors import UserError
from contagg.inspect.static import draw_static, static_figure, static_rows

SIZES = {"embed_dims": (32, 64, 96, 128), "depths": (1, 2, 1, 1), "num_classes": 3}


def test_kernels_of_convolutions() -> None:
    model = contagg.create("container_light_tiny", **SIZES)
    rows = static_rows(model, (0.1, 0.9))
    assert [(row.number, row.layer.label) for row in rows] == [
        (1, "stage 1, block 1"), (2, "stage 2, block 1"), (3, "stage 2, block 2"), (4, "stage 3, block 1"),
        (5, "stage 4, block 1"),
    ]  # fmt: skip
    affinities = [row.layer.module.affinity for row in rows]
    for row, affinity in zip(rows, [*affinities[:4], affinities[4].second], strict=True):
        assert torch.equal(row.values, affinity.weight[:, 0]) and (row.row, row.column) == (2, 2)
    size = affinities[0].weight.detach().abs().flatten(1)
    within = size.view(-1, 5, 5)[:, 1:4, 1:4].sum((1, 2)) / size.sum(1)
    torch.testing.assert_close(rows[0].statistics.within3, within)


def test_a_row_of_dense_affinities() -> None:
    model = contagg.create("deit_small_pam", img_size=(48, 80), depth=2, num_classes=2)
    rows = static_rows(model, (1, 4), [2])
    [row] = rows
    learnt = model.get_submodule("blocks.1.attn.aggregation").affinity.second.factors[0]
    assert (row.number, row.term.name, row.row, row.column) == (2, "static", 1, 4)
    torch.testing.assert_close(row.values, learnt[:, 1 + 5 * 1 + 4, 1:].view(6, 3, 5))
    [fraction] = static_rows(model, (0.5, 0.9), [2])
    assert torch.equal(fraction.values, row.values)


def test_panels() -> None:
    model = contagg.create(
        "container_tiny", affinity=("dwconv3", "token mlp/32", "attention", "attention + token mlp"), **SIZES
    )
    figure = static_figure(static_rows(model))
    texts = [axes.texts[0].get_text() for axes in figure.axes if axes.texts and not axes.images]
    assert texts == ["layer 1\nstage 1, block 1", "layer 2\nstage 2, block 1", "layer 3\nstage 2, block 2",
                     "layer 5\nstage 4, block 1\nβ = 0.5"]  # fmt: skip
    titles = [axes.get_title().split(",")[0] for axes in figure.axes if axes.get_title()]
    assert titles == ["mean |A|", "head 1", "head 7", "head 13", "head 20", "head 26", "head 32",
                      *["mean |A|", "head 1", "head 2"] * 2, "one head"]  # fmt: skip
    average, _, shown = [axes for axes in figure.axes if axes.images][:3]
    kernels = model.get_submodule("stages.0.blocks.0.aggregation").affinity.weight.detach()[:, 0]
    torch.testing.assert_close(torch.tensor(average.images[0].get_array()), kernels.abs().mean(0))
    assert average.images[0].get_clim() == pytest.approx((0, kernels.abs().mean(0).max().item()))
    kernel = kernels[6]
    assert len(shown.texts) == int((kernel < 0).sum())
    torch.testing.assert_close(torch.tensor(shown.images[0].get_array()), kernel)
    assert shown.get_title() == f"head 7, ±{kernel.abs().max().item():.2g}"
    assert shown.images[0].get_clim() == pytest.approx((-kernel.abs().max().item(), kernel.abs().max().item()))


def test_only_trained_weights_are_called_learnt() -> None:
    rows = static_rows(contagg.create("container_light_tiny", **SIZES))
    assert static_figure(rows).get_suptitle().startswith("Learnt static affinities")
    title = static_figure(rows, untrained=True).get_suptitle()
    assert title.startswith("Untrained network, random weights") and "earnt" not in title


def test_no_place_is_empty_and_bars_are_of_scales_in_use() -> None:
    model = contagg.create("container_tiny", affinity=("token mlp", "attention", "attention", "attention"), **SIZES)
    label, panel, bar = static_figure(static_rows(model)).axes  # one signed N x N: no means, no bar for them
    assert label.texts and panel.images and bar.get_xticks().tolist() == [-1, 0, 1]
    figure = static_figure(static_rows(contagg.create("container_light_tiny", **SIZES)))
    assert all(axes.images or axes.texts for axes in figure.axes[:-2])


def test_two_static_affinities_of_a_layer_have_a_row_each() -> None:
    model = contagg.create(
        "container_tiny", affinity=("dwconv3 + dwconv5", "full-conv3", "attention", "attention"), **SIZES
    )
    rows = static_rows(model)
    assert [(row.number, row.term.name, row.values.shape[1]) for row in rows] == [(1, "static", 3), (1, "static 2", 5)]
    texts = [
        axes.texts[0].get_text().splitlines()[-1] for axes in static_figure(rows).axes if axes.texts and not axes.images
    ]
    assert texts == ["α = 0.5", "β = 0.5"]


def test_it_is_written(tmp_path: Path) -> None:
    model = contagg.create("container_tiny", affinity="token mlp", depths=(3, 4, 8, 3), img_size=64)
    rows = draw_static(model, tmp_path / "static.png")
    assert len(rows) == 18
    with Image.open(tmp_path / "static.png") as written:
        assert min(written.size) > 600


def test_what_does_not_exist_is_named() -> None:
    words = ("dwconv3", "attention", "full-conv3", "token mlp")
    model = contagg.create("container_tiny", affinity=words, img_size=64, **SIZES)
    with pytest.raises(UserError, match="layer 6 does not exist; the layers with one are 1, 5"):
        static_rows(model, chosen=[1, 6])
    for number in (2, 4):
        with pytest.raises(UserError, match=f"layer {number} has no static affinity; the layers with one are 1, 5"):
            static_rows(model, chosen=[number])
    with pytest.raises(UserError, match="position 2,0 is outside the grid of 2 x 2 tokens of layer 5"):
        static_rows(model, (2, 0))
    assert static_rows(model, (2, 0), chosen=[1])[0].row == 1  # a kernel has no positions to choose from
    with pytest.raises(UserError, match="Container has no static affinity in any of its 5 layers"):
        static_rows(contagg.create("container_attention", **SIZES))
