"""Vision transformers of any affinity against timm's; DeiT with PAM (appendix B) is one of them."""

import pytest
import timm
import torch

import contagg
from contagg.affinity import Site, TokenMLP, list_affinities
from contagg.affinity.base import Affinity
from contagg.errors import UserError
from contagg.inspect.seeing import see
from contagg.inspect.statistics import statistics
from contagg.nn.aggregation import affinities
from contagg.nn.vit import SIZES, serves_class_token

SMALL = {"num_classes": 5, "depth": 2, "embed_dim": 96, "num_heads": 3}


def test_with_attention_it_is_timms_vit_small() -> None:
    """The whole network at 224 pixels, through timm's own names of its weights."""
    torch.manual_seed(0)
    theirs = timm.create_model("vit_small_patch16_224").eval()
    ours = contagg.create("vit_small_mixer", affinity="attention").eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)
        features = [model.forward_intermediates(images, [3, 11], intermediates_only=True) for model in (ours, theirs)]
        torch.testing.assert_close(features[0], features[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_each_is_as_large_as_timms_of_its_name(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = contagg.create(name), timm.create_model(name.replace("mixer", "patch16_224"))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert [affinity.heads for affinity in affinities(ours)] == [block.attn.num_heads for block in theirs.blocks]


@pytest.mark.parametrize("word", [*list_affinities(), "attention + dwconv5", "attention + token mlp", "full-conv3"])
def test_any_word_serves(word: str) -> None:
    """A step in training, statistics, a copy without gates, and another image size, with a class token or without."""
    torch.manual_seed(0)
    given = {"gate": "sigmoid/head", "img_size": (48, 80), "affinity": ["attention", word]}
    model = contagg.create("vit_tiny_mixer", **{**SMALL, "embed_dim": 128, "num_heads": 2} | given)
    images = torch.randn(2, 3, 48, 80)
    model(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    model.eval()
    assert model.num_prefix_tokens == int(serves_class_token(word, Site(channels=128, grid=(3, 5))))
    with torch.no_grad():
        expected = model(images)
    layers = see(model, images[:1]).layers
    assert all(numbers.entropy.isfinite().all() for layer in layers for numbers in statistics(layer).values())
    torch.testing.assert_close(contagg.fuse(model)(images), expected, rtol=1e-4, atol=1e-5)
    model.set_input_size((80, 32))
    assert model(torch.randn(2, 3, 80, 32)).shape == (2, 5)


def test_a_word_a_block_and_a_factory() -> None:
    class Still(Affinity):
        heads, dynamic = 1, False

        def forward(self, values, tokens, grid, mask=None):
            return values.clone()

        def rows(self, tokens, grid, positions, mask=None):
            return torch.eye(tokens.shape[1])[None, None, positions]

        def multiply_adds(self, grid):
            return 0

    words = ["attention rope", lambda site: Still()]
    model = contagg.create("vit_tiny_mixer", affinity=words, img_size=64, **SMALL)
    assert [type(affinity).__name__ for affinity in affinities(model)] == ["RotaryAttention", "Still"]
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)


def test_heads_are_as_wide_as_the_transformers_unless_a_word_says_so() -> None:
    words = ["attention", "attention/32", "agent49 + attention/16", "delta"]
    model = contagg.create("vit_small_mixer", affinity=words, depth=4, img_size=64)
    assert [affinity.heads for affinity in affinities(model)] == [6, 12, 24, 6]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"affinity": "window7", "class_token": True}, "class_token True: the affinity 'window7' serves no class"),
        ({"affinity": ["attention", "dwconv3"], "reg_tokens": 4}, "reg_tokens 4: the affinity 'dwconv3' serves no"),
        ({"affinity": "pooled4", "global_pool": "token"}, "global_pool 'token': the affinity 'pooled4' serves no"),
        ({"affinity": ["attention"] * 3}, "the transformer has 2 blocks and 3 words"),
        ({"affinity": "atention"}, "Did you mean 'attention'"),
        ({"affinity": 7}, "affinity 7 of the transformer must be one word, or one a block"),
        ({"affinity": "attention", "num_heads": 5}, "embed_dim 96 must be divisible by num_heads 5"),
        ({"affinity": "attention/31"}, "head width 31 does not divide 96 channels"),
        ({"afinity": "attention"}, "no argument 'afinity'. Did you mean 'affinity'"),
        ({"affinity": "attention + dwconv3", "gate": "fre"}, "gate 'fre' is not one of"),
        ({"affinity": "attention", "class_token": False}, "Token pooling needs the class token"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        contagg.create("vit_tiny_mixer", img_size=64, **SMALL | given)
    assert "\n" not in str(caught.value)


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
