"""DeiT with PAM (appendix B) against timm's DeiT-S."""

import pytest
import timm
import torch

import contagg
from contagg.affinity import TokenMLP
from contagg.errors import UserError

SMALL = {"num_classes": 5, "depth": 2, "embed_dim": 96, "num_heads": 3}


def as_deit(pam: torch.nn.Module) -> dict[str, torch.Tensor]:
    """PAM's state dict under timm's names for DeiT, the static affinities left out."""
    state = {}
    for name, tensor in pam.state_dict().items():
        if ".query." in name:
            names = [name, name.replace("query", "key"), name.replace("affinity.first.query", "value")]
            tensor = torch.cat([pam.state_dict()[part] for part in names])
            name = name.replace("aggregation.affinity.first.query", "qkv")
        name = name.replace("aggregation.output", "proj")
        if ".aggregation." not in name:
            state[name] = tensor
    return state


def test_without_its_static_affinity_it_is_deit() -> None:
    torch.manual_seed(0)
    pam = contagg.create("deit_small_pam", img_size=(48, 80), **SMALL).eval()
    deit = timm.create_model("deit_small_patch16_224", img_size=(48, 80), **SMALL).eval()
    deit.load_state_dict(as_deit(pam))
    images = torch.randn(2, 3, 48, 80)
    assert not torch.allclose(pam(images), deit(images), atol=1e-4)
    for module in pam.modules():
        if isinstance(module, TokenMLP):
            torch.nn.init.zeros_(module.factors[0])
    torch.testing.assert_close(pam(images), deit(images), rtol=1e-4, atol=1e-5)


def test_pam_adds_one_matrix_a_head_and_layer_class_token_included() -> None:
    counts = [
        sum(p.numel() for p in contagg.create(name).parameters())
        for name in ("deit_small_pam", "deit_small_patch16_224")
    ]
    assert counts[0] - counts[1] == 12 * 6 * 197**2


def test_resizing_keeps_what_was_learnt() -> None:
    torch.manual_seed(0)
    pam = contagg.create("deit_small_pam", img_size=64, **SMALL).eval()
    images = torch.randn(1, 3, 64, 64)
    before = pam(images)
    pam.set_input_size((96, 48))
    assert pam(torch.randn(1, 3, 96, 48)).shape == (1, 5)
    pam.set_input_size((64, 64))
    assert pam(images).shape == before.shape


@pytest.mark.parametrize(
    "given",
    [
        {"qkv_bias": False},
        {"qk_norm": True},
        {"scale_attn_norm": True},
        {"proj_bias": False},
        {"patch_drop_rate": 0.1},
        {"dynamic_img_size": True},
        {"weight_init": "jax"},
        {"fix_init": True},
        {"attn_layer": torch.nn.Module},
        {"block_fn": torch.nn.Module},
    ],
)
def test_what_its_attention_does_not_serve_is_refused_and_not_ignored(given: dict) -> None:
    with pytest.raises(UserError, match=next(iter(given))):
        contagg.create("deit_small_pam", img_size=64, **SMALL, **given)


@pytest.mark.parametrize(
    "given",
    [{"no_embed_class": True}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}, {"pos_embed": ""}],
)
def test_what_it_serves_of_timms_arguments_survives_a_resize(given: dict) -> None:
    torch.manual_seed(0)
    pam = contagg.create("deit_small_pam", img_size=(32, 48), **SMALL, **given).eval()
    assert pam(torch.randn(2, 3, 32, 48)).shape == (2, 5)
    pam.set_input_size((64, 48))
    assert pam(torch.randn(2, 3, 64, 48)).shape == (2, 5)


def test_linear_layers_start_as_deits_do() -> None:
    """A truncated normal of 0.02 and no bias, through all of the transformer; torch's own start is wider."""
    torch.manual_seed(0)
    pam = contagg.create("deit_small_pam", img_size=64, num_classes=50, depth=2, embed_dim=192, num_heads=3)
    layers = [module for module in pam.modules() if isinstance(module, torch.nn.Linear)]
    assert len(layers) == 2 * 6 + 1
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05) and not layer.bias.any()


def test_a_static_affinity_starts_at_a_fiftieth_of_the_listings() -> None:
    """A departure that docs/paper-to-code.md names: listing 1 has a deviation of 1."""
    torch.manual_seed(0)
    pam = contagg.create("deit_small_pam", img_size=224, depth=1, embed_dim=96, num_heads=3)
    [matrix] = [module.factors[0] for module in pam.modules() if isinstance(module, TokenMLP)]
    assert matrix.shape == (3, 197, 197) and matrix.std().item() == pytest.approx(0.02, rel=0.02)


def test_its_attention_drops_in_training() -> None:
    torch.manual_seed(0)
    pam = contagg.create("deit_small_pam", img_size=64, proj_drop_rate=0.75, attn_drop_rate=0.25, **SMALL).train()
    tokens = torch.randn(2, 17, 96)
    for block in pam.blocks:
        assert (block.attn(tokens) == 0).double().mean().item() == pytest.approx(0.75, abs=0.05)
        assert block.attn.aggregation.affinity.first.attn_drop == 0.25
