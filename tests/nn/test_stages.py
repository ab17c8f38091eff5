import pytest
import torch

from contagg.affinity import SelfAttention
from contagg.errors import UserError
from contagg.nn.embedding import PatchEmbedding
from contagg.nn.stages import DropRates, NetworkConfig, Stage, build_stages


def test_grids_round_up_as_the_embeddings_do() -> None:
    config = NetworkConfig()
    assert list(config.grids((224, 224))) == [(56, 56), (28, 28), (14, 14), (7, 7)]
    assert list(config.grids((37, 801))) == [(10, 201), (5, 101), (3, 51), (2, 26)]
    assert [info["reduction"] for info in config.feature_info()] == [4, 8, 16, 32]


def test_a_stage_gives_a_map() -> None:
    stage = Stage(PatchEmbedding(3, 8, 2), None, [])
    assert stage(torch.randn(2, 3, 5, 6)).shape == (2, 8, 3, 3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("embed_dims", (8, 8), r"embed_dims \(8, 8\) must be 4 positive whole numbers"),
        ("depths", (1, 2.5, 1, 1), r"depths \(1, 2.5, 1, 1\) must be 4 positive whole numbers"),
        ("depths", 3, "depths 3 must be 4 positive whole numbers"),
        ("embed_dims", "wide", "embed_dims 'wide' must be 4 positive whole numbers"),
        ("mlp_ratios", ["a"] * 4, "mlp_ratios .* must be 4 positive numbers"),
        ("embedding", "overlaping", r"embedding 'overlaping' must be one of patch, overlapping. .*'overlapping'"),
        ("activation", "GELU", "activation 'GELU' must be one of gelu, gelu_tanh, hard_swish, relu, silu"),
        ("norm_placement", True, "norm_placement True must be one of pre, res_post, single"),
        ("norm_placement", "post", r"norm_placement 'post' must be one of pre, res_post, single. .*'res_post'"),
        ("layer_scale", 0.0, "layer_scale 0.0 must be a number above 0"),
        ("layer_scale", "1e-5", "layer_scale '1e-5' must be a number above 0"),
        ("affinity", (1, 2, 3, 4), "affinity 1 of stage 1 must be one word"),
        ("affinity", 5, "affinity 5 of stage 1 must be one word"),
        ("patch_sizes", (4, 2, 2, 0), r"patch_sizes \(4, 2, 2, 0\) must be 4 positive"),
        ("affinity", ("dwconv3",) * 3, "must be one word, or 4"),
        ("affinity", ("dwconv3", "dwconv3", ["dwconv3"] * 6, "dwconv3"), "affinity: stage 3 has 8 blocks and 6 words"),
        ("affinity", ("dwconv3", ["dwconv3"] * 3 + [None], "dwconv3", "dwconv3"), "affinity None of stage 2 must be"),
        ("position", "sine", "position 'sine' must be one of absolute, cpe"),
    ],
)
def test_wrong_configurations_are_named(field: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        NetworkConfig(**{field: value})


def test_each_rate_reaches_its_layers_and_positions_start_small() -> None:
    """Branches drop more often from block to block, entries of attention and outputs equally often in all."""
    torch.manual_seed(0)
    config = NetworkConfig(embed_dims=(32, 32, 64, 64), affinity="attention", position="absolute")
    stages = build_stages(config, 3, (64, 96), DropRates(path=0.3, attn=0.2, proj=0.1))
    blocks = [block for stage in stages for block in stage.blocks]
    rates = torch.linspace(0, 0.3, len(blocks)).tolist()
    assert [block.drop_path1.drop_prob for block in blocks] == pytest.approx(rates)
    assert [block.drop_path2.drop_prob for block in blocks] == pytest.approx(rates)
    attentions = [module for block in blocks for module in block.modules() if isinstance(module, SelfAttention)]
    assert [attention.attn_drop for attention in attentions] == [0.2] * len(blocks)
    assert {module.p for block in blocks for module in block.modules() if isinstance(module, torch.nn.Dropout)} == {0.1}
    for stage in stages[:2]:
        assert stage.position.embedding.std().item() == pytest.approx(0.02, rel=0.1)
