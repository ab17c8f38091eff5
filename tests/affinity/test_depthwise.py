"""The gradient that is put together from 3 x 3 windows is torch's."""

import pytest
import torch
import torch.nn.functional as F

from contagg.affinity import depthwise as module
from contagg.affinity.depthwise import depthwise


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the map."""
    monkeypatch.setattr(module, "_WORTHWHILE", 0)


def drawn(size: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(size)
    feature_map = torch.randn(2, 3, 7, 11, dtype=dtype).to(memory_format=torch.channels_last)
    drawn = feature_map, torch.randn(3, 1, size, size, dtype=dtype), torch.randn(3, dtype=dtype)
    return tuple(tensor.requires_grad_() for tensor in drawn)  # type: ignore[return-value]


@pytest.mark.parametrize("size", [3, 5, 7, 9, 13])
@pytest.mark.parametrize("with_bias", [True, False])
def test_answers_and_gradients_are_torchs(size: int, with_bias: bool) -> None:
    feature_map, weight, bias = drawn(size)
    learnt = (feature_map, weight, bias) if with_bias else (feature_map, weight)
    got = depthwise(feature_map, weight, bias if with_bias else None)
    expected = F.conv2d(feature_map, weight, bias if with_bias else None, padding=size // 2, groups=3)
    assert (got.grad_fn.name() == "_DepthwiseBackward") == (size > 3)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert got.stride() == expected.stride()
    gradient = torch.randn_like(got)
    gradients = (torch.autograd.grad(answer, learnt, gradient) for answer in (got, expected))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_second_gradients() -> None:
    assert torch.autograd.gradgradcheck(depthwise, drawn(5))


def test_autocast() -> None:
    feature_map, weight, bias = drawn(5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = depthwise(feature_map, weight, bias)
    assert got.dtype == torch.bfloat16
    got.float().square().sum().backward()
    found, weight.grad = weight.grad, None
    F.conv2d(feature_map, weight, bias, padding=2, groups=3).square().sum().backward()
    assert found.dtype == torch.float32
    assert (found - weight.grad).norm() < 0.02 * weight.grad.norm()


def test_what_is_not_learnt_or_is_compiled_is_a_plain_convolution() -> None:
    feature_map, weight, bias = drawn(5)
    assert depthwise(feature_map, weight.detach(), bias).grad_fn.name() == "ConvolutionBackward0"
    compiled = torch.compile(depthwise, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(feature_map, weight, bias), depthwise(feature_map, weight, bias))
