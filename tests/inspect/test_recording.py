"""What is recorded is what the aggregation was given, and its rows of A explain the aggregation's output exactly."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import contagg
from contagg.affinity.base import as_map, as_tokens
from contagg.errors import UserError
from contagg.inspect.recording import RecordedAggregation, layers, record
from contagg.nn.aggregation import Aggregation

TINY = {"embed_dims": (32, 64, 96, 128), "depths": (1, 2, 1, 1), "num_classes": 7}
WORDS = [
    "attention",
    "dwconv3",
    "dwconv5/32",
    "token mlp",
    "token mlp/32 rank 3",
    "attention + dwconv5",
    "attention + token mlp",
    "dwconv3 + dwconv5",
]


def drawn(model: nn.Module) -> nn.Module:
    """Random weights everywhere, gates and norms included, in float64."""
    torch.manual_seed(5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def recorded(model: nn.Module, size: tuple[int, int], batch: int = 2) -> tuple[list[RecordedAggregation], list[Tensor]]:
    """What `record` keeps, and the outputs of the same aggregations."""
    outputs: list[Tensor] = []
    hooks = [layer.module.register_forward_hook(lambda *call: outputs.append(call[2])) for layer in layers(model)]
    with torch.no_grad(), record(model) as entries:
        model(torch.randn(batch, 3, *size, dtype=next(model.parameters()).dtype))
    for hook in hooks:
        hook.remove()
    return entries, outputs


def explained(entry: RecordedAggregation, rows: Tensor) -> Tensor:
    """The aggregation's output from all rows of A, without the library's fast path."""
    aggregation = entry.module
    assert isinstance(aggregation, Aggregation)
    values = aggregation.value(entry.tokens)
    width = values.shape[2] // rows.shape[1]
    rows = rows.expand(len(values), -1, -1, -1)
    gathered = [rows[:, m] @ values[:, :, m * width : (m + 1) * width] for m in range(rows.shape[1])]
    bias = entry.affinity.bias
    return aggregation.output(torch.cat(gathered, 2) + (0 if bias is None else bias))


@pytest.mark.parametrize("gate", ["free/head", "sigmoid"])
@pytest.mark.parametrize("word", WORDS)
def test_rows_explain_the_output(word: str, gate: str) -> None:
    model = drawn(contagg.create("container_tiny", affinity=word, gate=gate, img_size=(76, 105), **TINY))
    entries, outputs = recorded(model, (76, 105))
    assert [(e.stage, e.block, e.grid) for e in entries] == [
        (1, 1, (19, 27)), (2, 1, (10, 14)), (2, 2, (10, 14)), (3, 1, (5, 7)), (4, 1, (3, 4))
    ]  # fmt: skip
    for entry, output in zip(entries, outputs, strict=True):
        everywhere = torch.arange(entry.tokens.shape[1])
        rows = entry.rows(everywhere)
        torch.testing.assert_close(explained(entry, rows), output, rtol=1e-9, atol=1e-9)
        some = torch.tensor([len(everywhere) - 1, 0, 5])
        torch.testing.assert_close(entry.rows(some), rows[:, :, some], rtol=1e-12, atol=1e-12)


def test_recorded_tokens_are_the_true_inputs() -> None:
    model = drawn(contagg.create("container_light_tiny", **TINY))
    stage = model.get_submodule("stages.1")
    block = stage.blocks[1]
    images = torch.randn(1, 3, 40, 56, dtype=torch.float64)
    with torch.no_grad():
        tokens, grid = stage.embedding(model.get_submodule("stages.0")(images))
        encoded = block.position(stage.blocks[0](tokens, grid), grid)
        tokens = as_tokens(block.norm1(as_map(encoded, grid)))
        with record(model, lambda layer: (layer.stage, layer.block) == (2, 2)) as entries:
            model(images)
    [entry] = entries
    assert entry.name == "stages.1.blocks.1.aggregation" and entry.grid == grid == (5, 7)
    assert torch.equal(entry.tokens, tokens)
    assert (entry.prefix, entry.token(4, 6)) == (0, 34)


@pytest.mark.parametrize("gate", ["free", "free/head", "sigmoid", "sum"])
@pytest.mark.parametrize("word", ["attention + dwconv5", "attention/64 + token mlp/32", "dwconv3 + dwconv5/32"])
def test_weighted_parts_add_up(word: str, gate: str) -> None:
    words = ("dwconv3", "dwconv3", "dwconv3", word)
    model = drawn(contagg.create("container_tiny", affinity=words, gate=gate, img_size=96, **TINY))
    entries, _ = recorded(model, (96, 96))
    entry = entries[-1]
    mixture = entry.affinity
    positions = [8, 0]
    parts = entry.parts(positions)
    assert list(parts) == (["static", "static 2"] if "dwconv3" in word else ["dynamic", "static"]) + ["mixed"]
    torch.testing.assert_close(parts["mixed"].rows, entry.rows(positions), rtol=1e-12, atol=1e-12)
    *terms, mixed = parts.values()
    torch.testing.assert_close(sum(part.weighted for part in terms), mixed.weighted, rtol=1e-12, atol=1e-12)
    for part, (affinity, weight) in zip(terms, mixture.terms(), strict=True):
        own = affinity.rows(entry.tokens, entry.grid, torch.tensor(positions))
        for head in range(mixture.heads):
            expected = own[:, head * affinity.heads // mixture.heads]
            torch.testing.assert_close(part.rows[:, head], expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(part.weight[head], weight[head * len(weight) // mixture.heads].double())


@pytest.mark.parametrize("word", ["attention", "dwconv3", "token mlp/32"])
def test_a_single_affinity_is_its_only_part(word: str) -> None:
    model = drawn(contagg.create("container_tiny", affinity=word, img_size=64, **TINY))
    parts = recorded(model, (64, 64))[0][0].parts([3])
    assert list(parts) == ["dynamic" if word == "attention" else "static", "mixed"]
    first, mixed = parts.values()
    assert torch.equal(first.rows, mixed.rows) and bool((first.weight == 1).all())


def test_class_token_of_a_position_aware_transformer() -> None:
    sizes = {"depth": 2, "embed_dim": 96, "num_heads": 3, "num_classes": 5}
    model = drawn(contagg.create("deit_small_pam", img_size=(48, 80), **sizes))
    entries, outputs = recorded(model, (48, 80))
    assert [(e.stage, e.block, e.grid, e.prefix) for e in entries] == [(1, 1, (3, 5), 1), (1, 2, (3, 5), 1)]
    for entry, output in zip(entries, outputs, strict=True):
        torch.testing.assert_close(explained(entry, entry.rows(range(16))), output, rtol=1e-9, atol=1e-9)
        assert entry.token(2, 4) == 15


@pytest.mark.parametrize("bias", [True, False])
def test_timm_own_attention_is_recorded_too(bias: bool) -> None:
    model = drawn(timm.create_model("deit_tiny_patch16_224", img_size=(48, 80), depth=2, qkv_bias=bias))
    entries, outputs = recorded(model, (48, 80))
    for entry, output in zip(entries, outputs, strict=True):
        attention = entry.module
        values = attention.qkv(entry.tokens)[:, :, 2 * 192 :].unflatten(2, (3, 64))
        gathered = torch.einsum("bmrn,bnmd->brmd", entry.rows(torch.arange(16)), values).flatten(2)
        torch.testing.assert_close(attention.proj(gathered), output, rtol=1e-9, atol=1e-9)


def test_attention_with_more_to_it_than_a_softmax_is_not_taken_for_plain() -> None:
    with pytest.raises(UserError, match="VisionTransformer has no affinity"):
        layers(timm.create_model("deit_tiny_patch16_224", depth=1, qk_norm=True))


def test_a_transformer_of_unknown_grid_is_refused() -> None:
    model = timm.create_model("deit_tiny_patch16_224", dynamic_img_size=True, depth=1).eval()
    with pytest.raises(UserError, match="grid of 26 tokens of VisionTransformer is not known"), record(model):
        model(torch.randn(1, 3, 80, 80))


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(keywords or {}))
        for output in result if isinstance(result, tuple | list) else (result,):
            if isinstance(output, Tensor):
                self.elements = max(self.elements, output.numel())
        return result


def test_a_large_image_never_forms_the_matrix() -> None:
    torch.manual_seed(0)
    model = contagg.create("container_light", num_classes=3).eval()
    with LargestTensor() as largest, torch.no_grad():
        with record(model) as entries:
            model(torch.randn(1, 3, 512, 384))
        for entry in entries:
            parts = entry.parts([entry.token(3, 2)])
            assert parts["mixed"].rows.shape[2:] == (1, entry.grid[0] * entry.grid[1])
    assert (entries[0].grid, entries[-1].grid) == ((128, 96), (16, 12))
    # N is 12,288 in stage 1; nothing is larger than the hidden layer of its feed-forward.
    assert largest.elements == 12_288 * 4 * 64


def test_hooks_leave_with_the_block_even_after_an_error() -> None:
    model = contagg.create("container_light_tiny", **TINY).eval()
    with pytest.raises(UserError), record(model) as entries:
        model(torch.randn(1, 4, 32, 32))
    model(torch.randn(1, 3, 32, 32))
    assert entries == []


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UserError, match="ResNet has no affinity"):
        layers(timm.create_model("resnet18"))
    model = drawn(contagg.create("container_tiny", affinity="full-conv3", **TINY))
    with pytest.raises(UserError, match="no aggregation of Container was chosen"), record(model, lambda layer: False):
        pass
    [entry, *_], _ = recorded(model, (32, 32))
    for request in (entry.rows, entry.parts):
        with pytest.raises(UserError, match=r"stages\.0\.blocks\.0\.aggregation: a full or grouped convolution"):
            request([0])
    entry = recorded(drawn(contagg.create("container_light_tiny", **TINY)), (32, 32))[0][0]
    for positions in ([64], [-1], 3):
        with pytest.raises(UserError, match="token indices below 64"):
            entry.rows(positions)  # type: ignore[arg-type]
