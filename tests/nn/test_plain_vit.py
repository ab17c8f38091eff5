"""timm's plain vision transformers against the transformers of words that they become."""

import pytest
import timm
import torch

import contagg
from contagg.errors import UserError
from contagg.nn.aggregation import affinities
from contagg.nn.plain_vit import as_mixer, mixer_like, mixer_name

SMALL = {"img_size": (20, 12), "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5},
        {"class_token": False, "global_pool": "avg", "fc_norm": False, "in_chans": 1},
        {"global_pool": "avg", "pool_include_prefix": True, "pre_norm": True, "drop_path_rate": 0.1},
        {"global_pool": "map", "class_token": False, "mlp_ratio": 2, "pos_embed": "none"},
        {"patch_size": (4, 6), "drop_rate": 0.1, "attn_drop_rate": 0.2, "num_classes": 0},
    ],
)
def test_it_answers_alike_and_is_made_again_by_its_options(given: dict) -> None:
    torch.manual_seed(0)
    given = SMALL | given
    theirs = timm.create_model("vit_tiny_patch16_224", **given).eval()
    ours, images = as_mixer(theirs), torch.randn(2, theirs.patch_embed.proj.in_channels, 20, 12)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)
    assert not ours.training and [affinity.open_heads() for affinity in affinities(ours)] == [(1, 2, 3)] * 2
    elsewhere = {name: given[name] for name in ("img_size", "num_classes", "in_chans") if name in given}
    again = contagg.create(mixer_name(theirs), **mixer_like(theirs)[0], **elsewhere)
    again.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(again.eval()(images), ours(images))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch16_224", {}),
        ("deit_base_patch16_384", {}),
        ("vit_small_patch14_reg4_dinov2", {"patch_size": 14, "init_values": 1e-5, "reg_tokens": 4}),
    ],
)
def test_options_are_those_that_differ(name: str, options: dict) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    found = mixer_like(network)[0]
    assert {key: found[key] for key in options} == options and found.keys() <= {*options, "no_embed_class"}
    assert mixer_name(network) == f"vit_{'base' if 'base' in name else 'small'}_mixer"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("deit_tiny_distilled_patch16_224", {}, "VisionTransformerDistilled"),
        ("vit_tiny_patch16_224", {"qk_norm": True}, "its attention is another or has other norms"),
        ("vit_tiny_patch16_224", {"qkv_bias": False}, "its attention is another or has other norms"),
        ("vit_tiny_patch16_224", {"dynamic_img_size": True}, "its dynamic_img_size is True"),
        ("vit_tiny_patch16_224", {"act_layer": "relu"}, r"it has blocks.0.mlp.act ReLU\(.*, a plain one .* GELU"),
        ("vit_tiny_patch16_224", {"norm_layer": "rmsnorm"}, "it has blocks.0.norm1 RmsNorm"),
    ],
)
def test_what_is_no_plain_one_is_told_in_a_line(name: str, given: dict, message: str) -> None:
    network = timm.create_model(name, img_size=32, depth=1, **given)
    with pytest.raises(UserError, match=message) as caught:
        as_mixer(network)
    assert "\n" not in str(caught.value)
