"""Seeing what mixes tokens in anyone's model: one mode around its forward pass, nothing changed in its layers' code.

Every call of torch's functions passes through. A product of matrices is an attention where one side came from a softmax
or another product, also through what else was done to it; it is a half of a linear attention where what it gives is
multiplied once more. Each mixer is computed outside the graph, and what it gave begins anew: then what is left of a
block goes place by place (`contagg.inspect.layouts`), and the graph stays small.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from contagg.inspect import convolutions
from contagg.inspect.attentions import Attentions, multi_head
from contagg.inspect.learnt import Learnt
from contagg.inspect.marks import Hidden, Pair, Weights, branches_of, carry, mark_of, set_branches, set_mark
from contagg.inspect.notes import Notes
from contagg.inspect.products import Weighing, einsum_operands, matmul_operands
from contagg.inspect.quiet import ends_gradients

Arguments = tuple[Any, ...]
Function = Callable[..., Any]
INFERENCE = "it runs in inference mode, without the gradients that tell which places its tokens are"
BESIDE_OURS = "it gathers beside mixers of contagg, which alone write themselves down; show its module by itself"

Handler = Callable[["Interception", Function, Arguments, dict[str, Any]], Any]


class Interception(TorchFunctionMode):
    """Tells `notes` of what mixes; while `muted` is above 0 nothing."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self.notes = notes
        self.attentions = Attentions(notes)
        self.learnt = Learnt(notes)
        self.muted = 0

    def __torch_function__(
        self, func: Function, types: Any, args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if self.muted:
            return func(*args, **given)
        if ends_gradients(func, args):
            return None
        handler = _HANDLERS.get(getattr(func, "__name__", ""))
        if handler is None:
            return _carried(func, args, given)
        if torch.is_grad_enabled() or handler in (_addition, _softmax, _division):
            return handler(self, func, args, given)
        if handler in (_attention, _multi_head) or any(isinstance(mark_of(each), Weights) for each in args):
            self.notes.unseen(INFERENCE if torch.is_inference_mode_enabled() else BESIDE_OURS)
        return _carried(func, args, given)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Nothing that runs inside is told."""
        self.muted += 1
        try:
            yield
        finally:
            self.muted -= 1


def _carried(func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """A call that mixes nothing: what is known of its arguments goes on to what it gives."""
    result = func(*args, **kwargs)
    carry(func, args, kwargs, result)
    return result


def _attention(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """scaled_dot_product_attention."""
    with torch.no_grad():
        output = func(*args, **kwargs)
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    options = dict(zip(names, args, strict=False)) | kwargs
    return _anew(output, lambda leaf: mode.attentions.attention(options, leaf))


def _multi_head(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """nn.MultiheadAttention's function; its queries, keys and values are formed once more to be seen."""
    with torch.no_grad():
        output, weights = func(*args, **kwargs)
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    options = multi_head(bound.arguments)
    return _anew(output, lambda leaf: mode.attentions.attention(options, None)), weights


def _softmax(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """Scores become weights."""
    result = func(*args, **kwargs)
    mark = mark_of(args[0] if args else kwargs.get("input"))
    set_mark(result, Weights(mark.left if isinstance(mark, Pair) else None))
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    if isinstance(dim, int) and result.requires_grad:
        mode.notes.weighed(result.shape[dim])
    return result


def _matmul(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """matmul, bmm, mm and @."""
    operands = matmul_operands(args)
    result = func(*args, **kwargs)
    return result if operands is None else _product(mode, *operands, result, ordered=True)


def _einsum(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """Those that are products of matrices."""
    operands = einsum_operands(args)
    result = func(*args, **kwargs)
    return result if operands is None else _product(mode, operands[0], operands[1], result, ordered=operands[2])


def _product(mode: Interception, left: Tensor, right: Tensor, result: Tensor, *, ordered: bool) -> Tensor:
    first, second = mark_of(left), mark_of(right)
    if isinstance(second, Pair) and mode.attentions.is_half(second):
        return _anew(result, lambda leaf: mode.attentions.factored(left, second, right, leaf))
    if isinstance(first, Weights | Pair):
        weighing, mark = Weighing(weights=left, values=right, channel=-1 if ordered else None), first
    elif isinstance(second, Weights):
        weighing, mark = Weighing(weights=right.mT, values=left.mT, channel=-2 if ordered else None), second
    else:
        if ordered and (left.requires_grad or right.requires_grad):
            set_mark(result, Pair(left, right))
        return result
    query = mark.query if isinstance(mark, Weights) else mark.left
    begun = _anew(result, lambda leaf: mode.attentions.weighed(weighing, query, leaf))
    if weighing.channel == -1:
        pair = Pair(left, right)
        mode.attentions.half(pair, next(iter(branches_of(begun))))
        set_mark(begun, pair)
    return begun


def _convolution(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """conv2d."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    options = dict(zip(names, args, strict=False)) | kwargs
    if not convolutions.is_depthwise(options):
        result = _carried(func, args, kwargs)
        mode.learnt.convolved(options, result)
        return result
    with torch.no_grad():
        output = func(*args, **kwargs)
    return _anew(output, lambda leaf: mode.learnt.depthwise(options, leaf))


def _pooling(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """avg_pool2d."""
    names = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    options = dict(zip(names, args, strict=False)) | kwargs
    if not convolutions.is_pooling(options):
        result = _carried(func, args, kwargs)
        mode.notes.layouts.convolved(result)
        return result
    with torch.no_grad():
        output = func(*args, **kwargs)
    return _anew(output, lambda leaf: mode.learnt.pooling(options, leaf))


def _linear(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """Layers whose last axis is one of tokens."""
    values = args[0] if args else kwargs["input"]
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    result, mark = func(*args, **kwargs), mark_of(values)
    if isinstance(mark, Hidden) and weight.shape[1] == len(mark.weight):
        return _anew(result, lambda leaf: mode.learnt.token_mlp(mark, weight, result))
    if not mode.learnt.is_tokens(values):
        carry(func, args, kwargs, result)
        return result
    if len(weight) == weight.shape[1]:
        return _anew(result, lambda leaf: mode.learnt.token_linear(values, weight, leaf))
    set_mark(result, Hidden(weight, values))
    return result


def _addition(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """A layer's answer meets what went around it."""
    sides = [each for each in args[:2] if isinstance(each, Tensor)]
    lengths = [each.detach().clone() for each in sides] if func.__name__ in ("__iadd__", "add_") else sides
    result = func(*args, **kwargs)
    branches = [branches_of(each) for each in sides]
    meets = len(sides) == 2 and sides[0].shape == sides[1].shape and not any(map(_is_learnt, sides))
    if meets and bool(branches[0]) != bool(branches[1]):
        around, branch = lengths if branches[1] else reversed(lengths)
        for layer in branches[0] | branches[1]:
            mode.notes.residual(layer, around, branch)
        if result is sides[0] or result is sides[1]:
            set_branches(result, frozenset())
        return result
    carry(func, args, kwargs, result)
    return result


def _division(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """By a number a token, or times its reciprocal."""
    result = _carried(func, args, kwargs)
    if len(args) > 1 and all(isinstance(each, Tensor) for each in args[:2]):
        over = "div" in func.__name__
        for whole, part in (args[:2], args[1::-1]):
            for layer in branches_of(whole) if part.shape[-1:] == (1,) else ():
                with mode.silent():
                    mode.attentions.divided(layer, part if over else part.reciprocal())
    return result


def _recurrent(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """LSTM, GRU and plain."""
    mode.notes.unseen(f"a recurrent network ({func.__name__.upper()}) mixes along a line, and not linearly")
    with torch.no_grad():
        output, *states = func(*args, **kwargs)
    return output.requires_grad_(), *states


def _largest(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """max_pool2d."""
    result = func(*args, **kwargs)
    if isinstance(result, Tensor):
        if result.shape == args[0].shape:
            mode.notes.unseen("it takes the largest value of a window, which is not linear")
        mode.notes.layouts.convolved(result)
    return result


def _fourier(mode: Interception, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
    """What comes back from frequencies."""
    mode.notes.unseen("it mixes through a Fourier transform, which is not seen through")
    with torch.no_grad():
        output = func(*args, **kwargs)
    return output.requires_grad_()


def _anew(output: Tensor, tell: Callable[[Tensor], int]) -> Tensor:
    """What a mixer gave, at the beginning of a new graph. `tell` gives the number of its layer."""
    leaf = output.detach().requires_grad_()
    layer = tell(leaf)
    begun = leaf.clone()
    set_branches(begun, frozenset((layer,)))
    return begun


_HANDLERS: dict[str, Handler] = {
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
    "softmax": _softmax,
    **dict.fromkeys(("matmul", "__matmul__", "bmm", "mm"), _matmul),
    "einsum": _einsum,
    "conv2d": _convolution,
    "avg_pool2d": _pooling,
    "linear": _linear,
    **dict.fromkeys(("add", "__add__", "__radd__", "__iadd__", "add_"), _addition),
    **dict.fromkeys(("div", "div_", "true_divide", "__truediv__", "__itruediv__"), _division),
    **dict.fromkeys(("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"), _division),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("max_pool2d", "boolean_dispatch"), _largest),
    **dict.fromkeys(("fft_irfft", "fft_irfft2", "fft_irfftn", "fft_ifft", "fft_ifft2", "fft_ifftn"), _fourier),
}


def _is_learnt(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)
