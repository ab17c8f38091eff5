"""Models that hide what they do, or are hard to leave as they were: frozen, compiled, in pieces, of two libraries."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from ways_of_mixing import Net, heads, in_pieces, joined, plain, qkv

import contagg
from contagg.errors import UserError
from contagg.inspect.forms import Recording
from contagg.inspect.gathering import require_layers
from contagg.inspect.seeing import see, wanted_modules

IMAGE = torch.randn(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))


class Frozen(nn.Module):
    """A head on a backbone that runs in a context of torch's."""

    def __init__(self, context: Callable[[], torch.no_grad | torch.inference_mode]) -> None:
        super().__init__()
        self.backbone, self.head, self.context = Net(plain, qkv(), 1), nn.Linear(8, 2), context

    def forward(self, image: Tensor) -> Tensor:
        with self.context():
            features = self.backbone(image)
        return self.head(features.clone())


def test_a_backbone_that_its_owner_froze_is_seen() -> None:
    model = Frozen(torch.no_grad)
    [layer] = see(model, IMAGE).layers
    [expected] = see(model.backbone, IMAGE).layers
    assert (layer.name, layer.grid, layer.prefix) == ("backbone.mixer", (4, 5), 1)
    torch.testing.assert_close(layer.mixed.rows(torch.arange(21)), expected.mixed.rows(torch.arange(21)))


def test_what_runs_in_inference_mode_is_named() -> None:
    recording = see(Frozen(torch.inference_mode), IMAGE)
    assert not recording.layers and "inference mode" in recording.unshown[0].reason


def test_what_gathers_beside_our_mixers_is_named() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"embed_dims": (32, 64, 96, 128), "depths": (1, 1, 1, 1), "num_classes": 0}
            self.backbone, self.pool = contagg.create("container_light_tiny", **sizes), nn.MultiheadAttention(128, 4)
            self.by_hand = nn.Linear(128, 128)

        def forward(self, image: Tensor) -> Tensor:
            tokens = self.backbone.forward_features(image).flatten(2).permute(2, 0, 1)
            tokens = self.pool(tokens, tokens, tokens)[0].transpose(0, 1)
            return (self.by_hand(tokens) @ tokens.mT).softmax(-1) @ tokens

    recording = see(Pooled(), torch.randn(1, 3, 64, 64))
    assert len(recording.layers) == 4
    assert [each.name for each in recording.unshown] == ["pool", ""]
    assert all("beside mixers of contagg" in each.reason for each in recording.unshown)


def test_queries_in_pieces_leave_the_next_layer_s_places_alone() -> None:
    class Twice(Net):
        def forward(self, image: Tensor) -> Tensor:
            tokens = self.stem(image).flatten(2).mT
            for _ in range(2):
                tokens = tokens + self.mixer(self.norm(tokens))
            return tokens

    layers = see(Twice(in_pieces, qkv()).eval(), IMAGE).layers
    assert [(layer.name, layer.grid, layer.prefix, layer.target_grid) for layer in layers] == [
        (name, (4, 5), 0, (2, 5)) for name in ("mixer", "mixer 2", "mixer 3", "mixer 4")
    ]


def test_a_compiled_model_is_shown_as_it_was_written() -> None:
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable:
        compiled.append(graph)
        return graph.forward

    [layer] = see(torch.compile(Net(plain, qkv(), 1), backend=backend), IMAGE).layers
    assert layer.name.endswith("mixer") and layer.prefix == 1 and not compiled


def test_a_model_that_nothing_sees_into_is_refused() -> None:
    model = Net(plain, qkv()).eval()
    with pytest.raises(UserError, match=r"compiled by torch\.jit, which nothing sees into"):
        see(torch.jit.trace(model, IMAGE), IMAGE)
    with pytest.raises(UserError, match=r"bfloat16, too coarse .* show model\.float\(\)"):
        see(model.bfloat16(), IMAGE.bfloat16())


def test_each_module_keeps_its_own_mode() -> None:
    """A norm that is frozen in eval mode inside a model that trains."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).train()
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    see(model, torch.randn(1, 3, 32, 32))
    assert [module.training for module in model.modules()] == before and not all(before)


def test_nothing_in_the_layers_that_were_asked_for() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
    recording = see(model, torch.randn(1, 3, 32, 32), wanted_modules(model, ["head"]))
    with pytest.raises(UserError, match="ViT has no affinity to show: nothing in the layers that were asked for"):
        require_layers("ViT", recording)
    with pytest.raises(UserError, match="ViT has no affinity to show: nothing in it was seen"):
        require_layers("ViT", Recording(layers=[]))


def test_a_model_of_two_inputs_is_refused_in_one_line() -> None:
    class Two(nn.Module):
        def forward(self, image: Tensor, text: Tensor) -> Tensor:
            return image + text

    with pytest.raises(UserError, match=r"Two cannot take images of .*missing 1 required positional argument"):
        see(Two(), IMAGE)


@pytest.mark.parametrize("way", ["/", "*", "gate"])
def test_a_linear_attention_s_later_division_is_in_its_columns(way: str) -> None:
    """By the sums of its rows or times their reciprocal; a gate a token is none."""

    def mix(parts: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (heads(part) for part in parts.qkv(x).chunk(3, -1))
        q, k = q.exp(), k.exp()
        gathered, sums = q @ (k.mT @ v), q @ k.sum(-2)[..., None] + 1e-6
        found.append((q, k))
        if way == "/":
            return joined(gathered / sums)
        return joined(gathered * (1 / sums if way == "*" else q[..., :1]))

    found: list[tuple[Tensor, Tensor]] = []
    [layer] = see(Net(mix, qkv()), IMAGE).layers
    q, k = (each[0].detach() for each in found[-1])
    expected = q @ k.mT
    if way != "gate":
        expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(layer.mixed.rows(torch.arange(20)), expected)
    torch.testing.assert_close(layer.mixed.columns(torch.arange(20)), expected)
