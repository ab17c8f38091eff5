"""What is written down of our aggregations explains their outputs exactly."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import contagg
from contagg.errors import UserError
from contagg.inspect.aggregations import aggregations
from contagg.inspect.forms import RecordedLayer
from contagg.inspect.gathering import parts
from contagg.inspect.seeing import see
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


Call = tuple[Aggregation, Tensor, Tensor]
"""An aggregation, what it was given and what it gave."""


def recorded(model: nn.Module, size: tuple[int, int]) -> list[tuple[RecordedLayer, Call]]:
    """What is written down, and the calls of the same aggregations."""
    calls: list[Call] = []
    for layer in aggregations(model):
        layer.module.register_forward_hook(lambda module, args, output: calls.append((module, args[0], output)))
    layers = see(model, torch.randn(1, 3, *size, dtype=next(model.parameters()).dtype)).layers
    return list(zip(layers, calls, strict=True))


def explained(call: Call, rows: Tensor) -> Tensor:
    """The aggregation's output from all rows of A, without the library's fast path."""
    aggregation, tokens, _ = call
    values = aggregation.value(tokens)[0]
    gathered = torch.cat([row @ value for row, value in zip(rows, values.chunk(len(rows), 1), strict=True)], 1)
    bias = aggregation.affinity.bias
    return aggregation.output(gathered + (0 if bias is None else bias))[None]


@pytest.mark.parametrize("gate", ["free/head", "sigmoid"])
@pytest.mark.parametrize("word", WORDS)
def test_rows_explain_the_output(word: str, gate: str) -> None:
    model = drawn(contagg.create("container_tiny", affinity=word, gate=gate, img_size=(76, 105), **TINY))
    entries = recorded(model, (76, 105))
    assert [(layer.label, layer.grid) for layer, _ in entries] == [
        ("stage 1, block 1", (19, 27)),
        ("stage 2, block 1", (10, 14)),
        ("stage 2, block 2", (10, 14)),
        ("stage 3, block 1", (5, 7)),
        ("stage 4, block 1", (3, 4)),
    ]
    for layer, call in entries:
        rows = layer.mixed.rows(torch.arange(layer.tokens))
        torch.testing.assert_close(explained(call, rows), call[2], rtol=1e-9, atol=1e-9)
        some = torch.tensor([layer.tokens - 1, 0, 5])
        torch.testing.assert_close(layer.mixed.rows(some), rows[:, some], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.mixed.columns(some), rows[:, :, some], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gate", ["free", "free/head", "sigmoid", "sum"])
@pytest.mark.parametrize("word", ["attention + dwconv5", "attention/64 + token mlp/32", "dwconv3 + dwconv5/32"])
def test_weighted_parts_add_up(word: str, gate: str) -> None:
    words = ("dwconv3", "dwconv3", "dwconv3", word)
    model = drawn(contagg.create("container_tiny", affinity=words, gate=gate, img_size=96, **TINY))
    layer, (aggregation, tokens, _) = recorded(model, (96, 96))[-1]
    mixture = aggregation.affinity
    positions = torch.tensor([8, 0])
    found = parts(layer, positions)
    assert list(found) == (["static", "static 2"] if "dwconv3" in word else ["dynamic", "static"]) + ["mixed"]
    expected = mixture.rows(tokens, layer.grid, positions)[0]
    torch.testing.assert_close(found["mixed"][0], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.mixed.rows(positions), expected, rtol=1e-12, atol=1e-12)
    *terms, mixed = [weight[:, None, None] * rows for rows, weight in found.values()]
    torch.testing.assert_close(sum(terms), mixed, rtol=1e-12, atol=1e-12)
    for (rows, weights), (affinity, weight) in zip(found.values(), mixture.terms(), strict=False):
        own = affinity.rows(tokens, layer.grid, positions)[0]
        for head in range(mixture.heads):
            expected = own[head * affinity.heads // mixture.heads]
            torch.testing.assert_close(rows[head], expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(weights[head], weight[head * len(weight) // mixture.heads].double())


@pytest.mark.parametrize("word", ["attention", "dwconv3", "token mlp/32"])
def test_a_single_affinity_is_its_only_part(word: str) -> None:
    model = drawn(contagg.create("container_tiny", affinity=word, img_size=64, **TINY))
    found = parts(recorded(model, (64, 64))[0][0], torch.tensor([3]))
    assert list(found) == ["dynamic" if word == "attention" else "static", "mixed"]
    (first, weight), (mixed, _) = found.values()
    assert torch.equal(first, mixed) and bool((weight == 1).all())


def test_class_token_of_a_position_aware_transformer() -> None:
    sizes = {"depth": 2, "embed_dim": 96, "num_heads": 3, "num_classes": 5}
    model = drawn(contagg.create("deit_small_pam", img_size=(48, 80), **sizes))
    entries = recorded(model, (48, 80))
    assert [(e.label, e.grid, e.prefix, e.tokens) for e, _ in entries] == [
        ("block 1", (3, 5), 1, 16),
        ("block 2", (3, 5), 1, 16),
    ]
    for layer, call in entries:
        rows = layer.mixed.rows(torch.arange(16))
        torch.testing.assert_close(explained(call, rows), call[2], rtol=1e-9, atol=1e-9)


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
    with LargestTensor() as largest:
        entries = see(model, torch.randn(1, 3, 512, 384)).layers
        for layer in entries:
            found = parts(layer, torch.tensor([3 * layer.grid[1] + 2]))
            assert found["mixed"][0].shape[1:] == (1, layer.tokens)
    assert (entries[0].grid, entries[-1].grid) == ((128, 96), (16, 12))
    # N is 12,288 in stage 1; nothing is larger than the hidden layer of its feed-forward.
    assert largest.elements == 12_288 * 4 * 64


def test_hooks_leave_even_after_an_error() -> None:
    model = contagg.create("container_light_tiny", **TINY).eval()
    with pytest.raises(UserError):
        see(model, torch.randn(1, 4, 32, 32))
    assert not any(module._forward_hooks for module in model.modules())
