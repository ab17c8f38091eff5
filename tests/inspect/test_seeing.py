"""What is written down of anyone's model is what it does: rows equal those that the model forms itself."""

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import window_partition
from torch import Tensor, nn
from ways_of_mixing import (
    Net,
    agents,
    by_a_module,
    by_dots,
    by_hand,
    by_mm,
    causal,
    channels,
    convolved,
    fourier,
    hidden_norm,
    linear,
    mlp_over_tokens,
    over_tokens,
    padded_windows,
    plain,
    qkv,
    recurrent,
    summed,
    torchs,
    torchs_first,
    without_arrow,
)

import contagg
from contagg.affinity.bands import Band
from contagg.affinity.forms import Dense, Factors
from contagg.affinity.scores import Scores
from contagg.errors import UserError
from contagg.inspect.forms import RecordedLayer
from contagg.inspect.seeing import see


def matrix(layer: RecordedLayer) -> Tensor:
    form = layer.mixed
    rows = form.rows(torch.arange(form.shape[0]))
    torch.testing.assert_close(form.columns(torch.arange(form.shape[1])), rows)
    return rows


def trained_like(model: nn.Module, scale: float = 5.0) -> nn.Module:
    """Rows that are not flat: the weights of linear layers are larger."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=scale / parameter.shape[-1] ** 0.5)
    return model.eval()


def kept(model: nn.Module, name: str) -> list[Tensor]:
    """What modules of a name are given from now on."""
    given: list[Tensor] = []
    for path, module in model.named_modules():
        if path.endswith(name):
            module.register_forward_pre_hook(lambda module, args: given.append(args[0].detach()))
    return given


def test_rows_of_a_vision_transformer_are_those_that_it_forms_itself() -> None:
    model = trained_like(timm.create_model("vit_tiny_patch16_224", img_size=(48, 80), depth=3, reg_tokens=2))
    image = torch.randn(1, 3, 48, 80)
    recording = see(model, image)
    assert [layer.name for layer in recording.layers] == [f"blocks.{n}.attn" for n in range(3)]
    assert {(layer.grid, layer.prefix, layer.label[:5]) for layer in recording.layers} == {((3, 5), 3, "block")}
    for block in model.blocks:
        block.attn.fused_attn = False
    weights = kept(model, "attn_drop")
    model(image)
    for layer, expected in zip(recording.layers, weights, strict=True):
        assert expected.amax(-1).mean() > 0.5  # not flat
        torch.testing.assert_close(matrix(layer), expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (72, 88)])
def test_windows_of_swin_lie_where_timm_cuts_them(size: tuple[int, int]) -> None:
    """Shifted, and of (72, 88) filled up: 18 x 22 tokens in windows of 4."""
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=size, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(3, 6)
    )
    model, image = trained_like(model).double(), torch.randn(1, 3, *size, dtype=torch.float64)
    weights = kept(model, "attn.attn_drop")
    recording = see(model, image)
    assert len(recording.layers) == 4
    blocks = [block for stage in model.layers for block in stage.blocks]
    for layer, block, given in zip(recording.layers, blocks, weights, strict=True):
        height, width = layer.grid
        numbers = torch.arange(1.0, height * width + 1, dtype=torch.float64).view(1, height, width, 1)
        if any(block.shift_size):
            numbers = numbers.roll([-shift for shift in block.shift_size], (1, 2))
        filled = F.pad(numbers, (0, 0, 0, -width % 4, 0, -height % 4))
        places = window_partition(filled, block.window_size).flatten(1).long() - 1
        expected = torch.zeros(given.shape[1], height * width + 1, height * width + 1, dtype=torch.float64)
        for window, index in zip(given, places, strict=True):
            expected[:, index[:, None], index] += window
        torch.testing.assert_close(matrix(layer), expected[:, :-1, :-1])


CASES = [
    ("plain", plain, qkv, 1, Scores),
    ("causal", causal, qkv, 0, Scores),
    ("by hand", by_hand, qkv, 2, Dense),
    ("einsum of dots", by_dots, qkv, 1, Dense),
    ("einsum without an arrow", without_arrow, qkv, 1, Dense),
    ("mm", by_mm, qkv, 1, Dense),
    ("nn.Softmax", by_a_module, lambda: qkv() | {"softmax": nn.Softmax(-1)}, 1, Dense),
    ("linear", linear, qkv, 0, Factors),
    ("agents", agents, qkv, 0, Factors),
    ("padded windows", padded_windows, qkv, 0, Scores),
    ("nn.MultiheadAttention", torchs, lambda: {"mha": nn.MultiheadAttention(8, 2, batch_first=True)}, 1, Scores),
    ("and tokens first", torchs_first, lambda: {"mha": nn.MultiheadAttention(8, 2)}, 1, Scores),
    ("depthwise", convolved, lambda: {"conv": nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)}, 0, Band),
    ("even kernel", convolved, lambda: {"conv": nn.Conv2d(8, 8, (2, 4), padding="same", groups=8)}, 0, Band),
    ("average", convolved, lambda: {"conv": nn.AvgPool2d(3, 1, 1, count_include_pad=False)}, 0, Band),
    ("over tokens", over_tokens, lambda: {"linear": nn.Linear(20, 20)}, 0, Dense),
]


@pytest.mark.parametrize(("mix", "parts", "tokens", "kind"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_each_way_of_mixing(mix: Callable, parts: Callable, tokens: int, kind: type) -> None:
    """The layer's own answer to values that are changed at one place is compared, in float64."""
    model = Net(mix, parts(), tokens).double().eval()
    errors: list[tuple[str, float]] = []
    recording = see(model, torch.randn(1, 3, 8, 10, dtype=torch.float64), errors=errors)
    [layer] = recording.layers
    assert not recording.unshown
    assert isinstance(layer.terms[0].form, kind) and (layer.grid, layer.prefix) == ((4, 5), tokens)
    assert len(errors) == 1 and errors[0][1] < 1e-12
    assert layer.residual is not None and 0 < layer.residual < 1
    assert matrix(layer).shape[1:] == (20 + tokens, 20 + tokens)


def test_a_mixer_s_rows_are_its_derivative() -> None:
    model = Net(mlp_over_tokens, {"in": nn.Linear(20, 7), "out": nn.Linear(7, 20)}).double().eval()
    image = torch.randn(1, 3, 8, 10, dtype=torch.float64)
    [layer] = see(model, image).layers
    tokens = model.norm(model.stem(image).flatten(2).mT).detach()
    jacobian = torch.autograd.functional.jacobian(lambda x: model.mixer(x)[0], tokens)[:, :, 0]
    torch.testing.assert_close(matrix(layer)[0], torch.einsum("icjc->ij", jacobian) / 8)
    assert layer.terms[0].name == "linearised"


@pytest.mark.parametrize(
    ("mix", "parts", "reason"),
    [
        (channels, qkv, "it mixes channels, not places"),
        (recurrent, lambda: {"lstm": nn.LSTM(8, 8, batch_first=True)}, "a recurrent network"),
        (hidden_norm, qkv, "something that is not linear stands between"),
        (fourier, dict, "Fourier"),
        (summed, qkv, "a softmax over tokens, but how they meet what they weigh was not seen"),
        (convolved, lambda: {"conv": nn.MaxPool2d(3, 1, 1)}, "the largest value of a window"),
        (convolved, lambda: {"conv": nn.Conv2d(8, 8, 3, padding=1)}, "has no one matrix"),
    ],
)
def test_what_cannot_be_shown_is_named_with_its_reason(mix: Callable, parts: Callable, reason: str) -> None:
    recording = see(Net(mix, parts()).eval(), torch.randn(1, 3, 8, 10))
    assert not recording.layers
    [unshown] = recording.unshown
    assert reason in unshown.reason and (unshown.name.startswith("mixer"))


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("hiera_tiny_224", {}, 12),
        ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}, 8),
        ("levit_128s", {}, 11),
        ("gcvit_xxtiny", {}, 23),
        ("mobilevit_xxs", {}, 12),
        ("convit_tiny", {"depth": 2}, 2),
    ],
)
def test_networks_of_many_kinds(name: str, options: dict, count: int) -> None:
    model = trained_like(timm.create_model(name, **options), 2.0)
    errors: list[tuple[str, float]] = []
    size = timm.data.resolve_data_config({}, model=model)["input_size"][1]
    recording = see(model, torch.randn(1, 3, size, size), errors=errors)
    assert len(recording.layers) == count == len(errors)
    assert max(error for _, error in errors) < 1e-5


def test_our_networks_write_themselves_down() -> None:
    torch.manual_seed(0)
    sizes = {"embed_dims": (32, 64, 96, 128), "depths": (1, 1, 1, 1), "num_classes": 3}
    words = ("dwconv3", "full-conv3", "attention", "attention + dwconv5")
    model = contagg.create("container_tiny", affinity=words, **sizes).double().eval()
    image = torch.randn(1, 3, 76, 104, dtype=torch.float64)
    given = kept(model, "aggregation")
    recording = see(model, image)
    assert [layer.label for layer in recording.layers] == ["stage 1, block 1", "stage 3, block 1", "stage 4, block 1"]
    assert "mixes channels" in recording.unshown[0].reason
    assert [[term.name for term in layer.terms] for layer in recording.layers] == [
        ["static"], ["dynamic"], ["dynamic", "static"]
    ]  # fmt: skip
    aggregation = model.get_submodule("stages.3.blocks.0.aggregation")
    torch.testing.assert_close(
        matrix(recording.layers[-1]), aggregation.affinity.matrix(given[-1], recording.layers[-1].grid)[0]
    )
    assert all(0 < layer.residual < 1 for layer in recording.layers if layer.residual is not None)
    assert [layer.residual is None for layer in recording.layers] == [False] * 3


def test_a_model_is_left_as_it_was() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
    model.blocks[0].requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(UserError, match="cannot take images"):
        see(model, torch.randn(1, 3, 48, 48))
    see(model.train(), torch.randn(1, 3, 32, 32))
    assert model.training and [parameter.requires_grad for parameter in model.parameters()] == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_only_what_is_wanted_is_written_down() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3)
    recording = see(model, torch.randn(1, 3, 32, 32), lambda name: ".1." in name)
    assert [layer.name for layer in recording.layers] == ["blocks.1.attn"] and not recording.unshown


def test_a_full_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    model.blocks[0].mlp.forward = full
    with pytest.raises(UserError, match="an image of 32 x 32 pixels is too large for the memory; show a smaller one"):
        see(model, torch.randn(1, 3, 32, 32))
