"""The numbers behind a figure are rows of A, of the right head at the right token."""

import pytest
import timm
import torch
from PIL import Image
from torch import nn

import contagg
from contagg.errors import UserError
from contagg.inspect.gathering import Gathering, gather
from contagg.inspect.stages import stage_and_block
from contagg.inspect.view import View, look

SIZES = {"embed_dims": (32, 64, 96, 128), "depths": (2, 1, 1, 3), "num_classes": 3}


def photo(width: int = 60, height: int = 40) -> Image.Image:
    return Image.effect_noise((width, height), 90).convert("RGB")


def light(gate: str = "free/head") -> tuple[nn.Module, View]:
    torch.manual_seed(0)
    model = contagg.create("container_light_tiny", gate=gate, **SIZES).eval()
    for name, parameter in model.named_parameters():
        if "gate" in name:
            nn.init.normal_(parameter)
    return model, look(model, photo(), {}, size=100)


def labels(gatherings: list[Gathering]) -> list[tuple[int, int]]:
    return [stage_and_block(one.layer.name) for one in gatherings]


def test_by_default_the_last_block_of_each_stage() -> None:
    gatherings = gather(*light(), (0.5, 0.5))
    assert labels(gatherings) == [(1, 2), (2, 1), (3, 1), (4, 3)]
    assert [list(one.maps) for one in gatherings] == [["static", "mixed"]] * 3 + [["dynamic", "static", "mixed"]]
    assert [one.head for one in gatherings] == ["mean"] * 4


@pytest.mark.parametrize(("depth", "blocks"), [(1, [1]), (2, [1, 2]), (5, [1, 3, 5])])
def test_of_a_transformer_the_first_the_middle_and_the_last_block(depth: int, blocks: list[int]) -> None:
    model = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=depth)
    found = gather(model, look(model, photo(), {"input_size": (3, 32, 32)}), (0.5, 0.5))
    assert labels(found) == [(1, block) for block in blocks]


def test_a_block_that_mixes_twice_shows_what_depends_on_the_image() -> None:
    """PVT has a convolution behind its attention; all of a block are shown where it is asked for."""
    model = timm.create_model("pvt_v2_b0", depths=(1, 1, 1, 1)).eval()
    view = look(model, photo(), {}, size=64)
    assert [one.layer.name[-4:] for one in gather(model, view, (0, 0))] == ["attn"] * 4
    both = gather(model, view, (0, 0), stages=[2])
    assert [one.layer.label for one in both] == ["stage 2, block 1: attn", "stage 2, block 1: mlp.dwconv"]
    named = gather(model, view, (0, 0), names=["stages.1.blocks.0.mlp"])
    assert [one.layer.name for one in named] == ["stages.1.blocks.0.mlp.dwconv"]
    with pytest.raises(UserError, match=r"'stages\.1\.block': PyramidVisionTransformerV2 has no such module\. Did you"):
        gather(model, view, (0, 0), names=["stages.1.block"])


def test_a_class_token_that_gathers_alone_and_a_coarser_grid() -> None:
    model = timm.create_model("levit_128s").eval()
    view = look(model, photo(), {})
    [one] = gather(model, view, (39, 59), names=["stages.1.downsample"])
    assert (one.row, one.column, one.own_stride, one.stride) == (6, 6, 32, 16)
    assert one.maps["mixed"].values.shape == (14, 14)
    model = timm.create_model("cait_xxs24_224", depth=1).eval()
    [one] = gather(model, look(model, photo(), {}), (0, 0), names=["blocks_token_only.1"])
    assert (one.row, one.column) == (None, None) and one.maps["dynamic"].prefix.shape == (1,)


def test_stages_blocks_and_heads_as_chosen() -> None:
    model, view = light()
    assert labels(gather(model, view, (0, 0), stages=[4])) == [(4, 1), (4, 2), (4, 3)]
    assert labels(gather(model, view, (0, 0), blocks=[1])) == [(1, 1), (2, 1), (3, 1), (4, 1)]
    chosen = gather(model, view, (0, 0), stages=[4, 1], blocks=[2], heads=[2, "mean"])
    assert labels(chosen) == [(1, 2), (1, 2), (4, 2), (4, 2)]
    assert [(one.head, one.heads) for one in chosen] == [(2, 32), ("mean", 32), (2, 4), ("mean", 4)]


def test_layers_without_an_affinity_are_passed_over() -> None:
    words = ("full-conv3", "dwconv3", "full-conv3", "attention")
    model = contagg.create("container_tiny", affinity=words, **SIZES).eval()
    view = look(model, photo(), {}, size=64)
    assert labels(gather(model, view, (0, 0))) == [(2, 1), (4, 3)]
    with pytest.raises(UserError, match=r"stages\.2\.blocks\.0\.aggregation: a full or grouped convolution"):
        gather(model, view, (0, 0), stages=[3])


@pytest.mark.parametrize("head", [1, 3, "mean"])
def test_maps_are_rows_of_a_head(head: int | str) -> None:
    """Of 4 heads with 32 kernels each, at a token in the last row and column, which stick out of the image."""
    model, view = light()
    [one] = gather(model, view, (39, 59), stages=[4], blocks=[3], heads=[head])
    assert view.size == (100, 150) and one.layer.grid == (4, 5) and (one.row, one.column, one.stride) == (3, 4, 32)
    (alpha, attention), (beta, convolution) = ((term.weight, term.form) for term in one.layer.terms)
    dynamic = attention.rows(torch.tensor([19]))[:, 0]
    kernels = convolution.rows(torch.tensor([19]))[:, 0].unflatten(0, (4, 32))
    mixed = alpha[:, None, None] * dynamic[:, None] + beta[:, None, None] * kernels
    which = slice(None) if head == "mean" else slice(head - 1, head)
    for name, expected, weight in (
        ("dynamic", dynamic, alpha),
        ("static", kernels.abs().mean(1), beta),
        ("mixed", mixed.abs().mean(1), torch.ones(4)),
    ):
        found = one.maps[name]
        torch.testing.assert_close(found.values, expected[which].mean(0).view(4, 5))
        assert found.weight == pytest.approx(weight[which].mean().item())
        assert found.sizes == (name != "dynamic") and found.prefix.shape == (0,)


def test_a_single_kernel_keeps_its_signs() -> None:
    model, view = light()
    [one] = gather(model, view, (20, 30), stages=[1], blocks=[1], heads=[7])
    kernel = model.get_submodule("stages.0.blocks.0.aggregation").affinity.weight[6, 0].detach()
    found = one.maps["static"]
    window = found.values[one.row - 2 : one.row + 3, one.column - 2 : one.column + 3]
    torch.testing.assert_close(window, kernel)
    assert not found.sizes and found.values.count_nonzero() == kernel.count_nonzero()


def test_the_class_token_is_kept_apart() -> None:
    model = contagg.create("deit_small_pam", img_size=64, depth=1, num_classes=2).eval()
    [one] = gather(model, look(model, photo(), {"input_size": (3, 64, 64)}), (0.3, 0.8))
    row = one.layer.mixed.rows(torch.tensor([1 + 4 * 1 + 3]))[:, 0].abs().mean(0)
    assert (one.row, one.column) == (1, 3)
    torch.testing.assert_close(one.maps["mixed"].prefix, row[:1])
    torch.testing.assert_close(one.maps["mixed"].values, row[1:].view(4, 4))


def test_what_no_token_covers_belongs_to_the_last_one() -> None:
    """70 pixels are four patches of 16 and six pixels that this transformer leaves out."""
    model = contagg.create("deit_small_pam", img_size=70, depth=1, num_classes=2).eval()
    [one] = gather(model, look(model, photo(), {"input_size": (3, 70, 70)}), (1.0, 0.5))
    assert (one.row, one.column) == (3, 2)


def test_a_single_head_is_shown_with_every_head_of_the_dynamic_affinity() -> None:
    model = contagg.create("container_pam", img_size=64, **SIZES).eval()
    view = look(model, photo(), {"input_size": (3, 64, 64)})
    first, second = gather(model, view, (0, 0), stages=[4], blocks=[1], heads=[1, 4])
    assert torch.equal(first.maps["static"].values, second.maps["static"].values)
    assert not first.maps["static"].sizes
    assert not torch.equal(first.maps["dynamic"].values, second.maps["dynamic"].values)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"stages": [5]}, "stage 5 does not exist; the model's stages are 1, 2, 3, 4"),
        ({"stages": [1, 2], "blocks": [2]}, "block 2 of stage 2 does not exist; its blocks are 1$"),
        ({"blocks": [0]}, "block 0 of stage 1 does not exist; its blocks are 1, 2"),
        ({"stages": [4], "heads": [5]}, "head 5 of stage 4, block 1 does not exist; its heads are 1 to 4, or 'mean'"),
        ({"stages": [4], "heads": [0]}, "head 0 of stage 4, block 1"),
    ],
)
def test_what_does_not_exist_is_named(chosen: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gather(*light(), (0, 0), **chosen)
