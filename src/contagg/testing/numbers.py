"""Checks of an affinity by itself."""

import copy
import io
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contagg.affinity.attention import SelfAttention
from contagg.affinity.base import Affinity
from contagg.affinity.depthwise_conv import DepthwiseConv
from contagg.affinity.mixture import GateWord, Mixture
from contagg.affinity.registry import Site
from contagg.benchmark.cost import flop_counter
from contagg.errors import UserError, plural
from contagg.testing.case import GRID, OTHER_GRIDS, Case, Skipped, by_matrix, cut, moved, padded, same


def attributes(case: Case) -> None:
    """`heads` divides the channels; `dynamic`, `local`, `grid`, `prefix` and `bias` are what they should be."""
    affinity = case.drawn()
    assert isinstance(affinity.heads, int) and affinity.heads > 0, f"heads is {affinity.heads!r}"
    assert case.channels % affinity.heads == 0, f"{affinity.heads} heads do not divide {case.channels} channels"
    assert isinstance(affinity.dynamic, bool), f"dynamic is {affinity.dynamic!r}, neither True nor False"
    local, grid = affinity.local, affinity.grid
    assert local is None or (isinstance(local, int) and local >= 0), f"local is {local!r}"
    assert grid is None or tuple(grid) == GRID, f"grid is {grid!r} of an affinity made for {GRID}"
    bias = affinity.bias
    assert bias is None or isinstance(bias, Tensor), f"bias is {bias!r}: a tensor, None or a property that gives one"
    assert bias is None or bias.shape == (case.channels,), f"bias has the shape {tuple(bias.shape)}"


def values(case: Case) -> None:
    """`forward` is A V + bias by head and image, on grids of prime and unequal sides; it leaves its inputs alone."""
    for grid in (GRID, *OTHER_GRIDS):
        affinity, (values, tokens) = case.drawn(grid), case.inputs(grid)
        given = values.clone(), tokens.clone()
        fast = affinity(values, tokens, grid)
        assert torch.equal(values, given[0]) and torch.equal(tokens, given[1]), "forward changes what it is given"
        assert fast.dtype == values.dtype, f"forward gives {fast.dtype} of {values.dtype}"
        same(fast, by_matrix(affinity, values, tokens, grid), f"forward and A V + bias on {grid}")
        same(affinity(values[:1], tokens[:1], grid), fast[:1], f"forward of an image alone and in a batch on {grid}")
        same(affinity.train()(values, tokens, grid), fast, "forward while training, without dropout, and afterwards")


def gradients(case: Case) -> None:
    """The gradients of `forward` are those of A V + bias: for values, tokens and every parameter that is learnt."""
    affinity = case.drawn()
    values, tokens = (tensor.requires_grad_() for tensor in case.inputs())
    weight = torch.randn_like(values)
    named = {name: parameter for name, parameter in affinity.named_parameters() if parameter.requires_grad}
    learnt, names = [values, tokens, *named.values()], ["values", "tokens", *named]
    found = []
    for answer in (affinity(values, tokens, GRID), by_matrix(affinity, values, tokens, GRID)):
        found.append(torch.autograd.grad((answer * weight).sum(), learnt, allow_unused=True))
    for name, got, expected in zip(names, *found, strict=True):
        if got is not None or expected is not None:
            zeros = torch.zeros_like(got if expected is None else expected)
            same(zeros if got is None else got, zeros if expected is None else expected, f"gradients of {name}", 1e-8)


def rows_and_columns(case: Case) -> None:
    """`rows` and `columns` at positions are those of `matrix`, in any order."""
    affinity, (_, tokens) = case.drawn(), case.inputs()
    matrix, positions = affinity.matrix(tokens, GRID), torch.tensor([34, 0, 17, 17])
    images = len(tokens) if affinity.dynamic else 1
    assert matrix.shape == (images, affinity.heads, 35, 35), f"the matrix of 2 images is {tuple(matrix.shape)}"
    same(affinity.rows(tokens, GRID, positions), matrix[:, :, positions], "rows and the matrix")
    same(affinity.columns(tokens, GRID, positions), matrix[..., positions], "columns and the matrix")


def form(case: Case) -> None:
    """What `form` writes down gives rows and columns as `matrix` has them, also on a grid that reaches farther."""
    positions = torch.tensor([34, 0, 17, 17])
    for grid in (GRID, (11, 13)):
        affinity, (_, tokens) = case.drawn(grid), case.inputs(grid, batch=1)
        with torch.no_grad():
            written, matrix = affinity.form(tokens, grid), affinity.matrix(tokens, grid)[0]
        if written is None:
            raise Skipped("form is None")
        same(written.rows(positions), matrix[:, positions], f"rows of the form on {grid} and the matrix")
        same(written.columns(positions), matrix[..., positions], f"columns of the form on {grid} and the matrix")


def dependence(case: Case) -> None:
    """A depends on the tokens where `dynamic` says so, and only there; never on the values."""
    affinity, (values, tokens) = case.drawn(), case.inputs()
    one, other = affinity(values, tokens, GRID), affinity(values, tokens.flip(0) + 1, GRID)
    moves = not torch.allclose(one, other, rtol=1e-9, atol=1e-9)
    assert moves == affinity.dynamic, (
        f"dynamic is {affinity.dynamic}, but A {'changes' if moves else 'stays'} with tokens"
    )
    offset = affinity(torch.zeros_like(values), tokens, GRID)
    same(affinity(-2 * values, tokens, GRID) - offset, -2 * (one - offset), "forward is linear in the values")


def reach(case: Case) -> None:
    """Where `local` is given, nothing farther is gathered from."""
    grid = (11, 13)
    affinity, (_, tokens) = case.drawn(grid), case.inputs(grid)
    if affinity.local is None:
        raise Skipped("local is None")
    row = affinity.rows(tokens, grid, torch.tensor([5 * 13 + 6]))[:, :, 0].unflatten(2, grid)
    offsets = [(torch.arange(length) - middle).abs() for length, middle in zip(grid, (5, 6), strict=True)]
    far = torch.maximum(offsets[0][:, None], offsets[1][None]) > affinity.local
    farthest = int(torch.maximum(offsets[0][:, None], offsets[1][None])[row.abs().amax((0, 1)) > 0].max())
    assert not row[..., far].any(), f"local is {affinity.local}, but tokens {farthest} away are gathered from"


def prefix_tokens(case: Case) -> None:
    """With a class token before the grid it answers by its matrix as well, or says that it serves none."""
    try:
        affinity, (values, tokens) = case.drawn(prefix=1), case.inputs(prefix=1)
        fast = affinity(values, tokens, GRID)
    except UserError as refusal:
        raise Skipped(str(refusal)) from None
    except Exception as error:
        raise AssertionError(
            f"with a class token: {error!r}; serve it, or refuse it with contagg.affinity.base.check_fills"
        ) from error
    same(fast, by_matrix(affinity, values, tokens, GRID), "forward and A V + bias with a class token")


def padded_batch(case: Case) -> None:
    """In a padded batch an image is answered as it is alone, by `forward` and by `rows`."""
    whole, sizes = (7, 8), ((7, 8), (5, 3), (2, 7))
    affinity = case.drawn(whole)
    mask = torch.zeros(len(sizes), *whole, dtype=torch.bool)
    alone = []
    for place, (height, width) in zip(mask, sizes, strict=True):
        place[:height, :width] = True
        alone.append(case.inputs((height, width), batch=1))
    values, tokens = (
        torch.cat([padded(pair[index], size, whole, 0.0) for pair, size in zip(alone, sizes, strict=True)])
        for index in (0, 1)
    )
    together, matrix = affinity(values, tokens, whole, mask), affinity.matrix(tokens, whole, mask)
    outside = ~mask.flatten(1)[:, None, None].expand(-1, matrix.shape[1], matrix.shape[2], -1)
    assert not matrix.expand(len(sizes), -1, -1, -1)[outside].any(), "rows gather from where a mask holds no image"
    slow = by_matrix(affinity, values, tokens, whole, mask)
    for index, (size, (value, token)) in enumerate(zip(sizes, alone, strict=True)):
        one, what = slice(index, index + 1), f"an image of {size} in a batch padded to {whole}"
        same(cut(together[one], whole, size), cut(slow[one], whole, size), f"forward and A V + bias of {what}")
        if affinity.serves(size):
            same(cut(together[one], whole, size), affinity(value, token, size), f"forward alone and of {what}")


def grids(case: Case) -> None:
    """It serves what `serves` says, refuses other grids with a UserError, and serves them after `resize`."""
    affinity, other = case.drawn(), (4, 9)
    before = affinity.matrix(case.inputs()[1], GRID)
    assert affinity.serves(GRID), f"made for {GRID}, it does not serve it"
    values, tokens = case.inputs(other)
    if not affinity.serves(other):
        try:
            affinity(values, tokens, other)
        except UserError:
            pass
        else:
            raise AssertionError(f"it says that it does not serve {other}, but answers")
    affinity.resize(GRID)
    if not affinity.dynamic:
        same(affinity.matrix(case.inputs()[1], GRID), before, "A before and after a resize to the same grid")
    affinity.resize(other)
    assert affinity.serves(other), f"resized to {other}, it does not serve it"
    same(affinity(values, tokens, other), by_matrix(affinity, values, tokens, other), "forward and A V + bias, resized")


def mixture(case: Case) -> None:
    """Mixed with a local and with a dynamic one, with one weight or one a head, it answers by the mixture's matrix."""
    values, tokens = case.inputs()
    gates: tuple[GateWord, ...] = ("free", "sigmoid/head")
    for gate in gates:
        partners = (DepthwiseConv(case.channels, 3), SelfAttention(case.channels, case.channels // 4))
        for mixed in (Mixture(case.drawn(), partners[0], gate), Mixture(partners[1], case.drawn(), gate)):
            mixed = mixed.double()
            moved(mixed)
            same(mixed(values, tokens, GRID), by_matrix(mixed, values, tokens, GRID), f"a mixture with gate {gate}")


def fold(case: Case) -> None:
    """An inference form holds the gate, one or one a head, and leaves the affinity as it was."""
    affinity, (values, tokens) = case.drawn(), case.inputs()
    plain = affinity(values, tokens, GRID)
    for count in sorted({1, affinity.heads}):
        gate = torch.linspace(0.3, -1.7, count, dtype=torch.float64)
        folded = affinity.fold(gate)
        same(affinity(values, tokens, GRID), plain, "an affinity before and after fold")
        if folded is not None:
            channel = gate.repeat_interleave(case.channels // count)
            same(
                folded(values, tokens, GRID),
                channel * plain,
                f"forward of fold of {plural(count, 'gate')}, and the gates times it",
            )
            same(folded(values, tokens, GRID), by_matrix(folded, values, tokens, GRID), "a folded one and its matrix")


def merge(case: Case) -> None:
    """What two inference forms merge to is their sum."""
    values, tokens = case.inputs()
    convolution = DepthwiseConv(case.channels, 3).double()
    moved(convolution)
    one = torch.ones(1, dtype=torch.float64)
    first, *others = [affinity.fold(one) or affinity for affinity in (case.drawn(), case.drawn(), convolution)]
    for second in others:
        expected = first(values, tokens, GRID) + second(values, tokens, GRID)
        for merged in (first.merge(second), second.merge(first)):
            if merged is not None:
                same(merged(values, tokens, GRID), expected, f"{type(merged).__name__} merged of two, and their sum")


def multiply_adds(case: Case) -> None:
    """Closed form and counter agree on two grids."""
    for grid in (GRID, (11, 3)):
        affinity, (values, tokens) = case.drawn(grid), case.inputs(grid, batch=1)
        with sdpa_kernel(SDPBackend.MATH), flop_counter(affinity) as counter:
            affinity(values, tokens, grid)
        counted, said = counter.get_total_flops() // 2, affinity.multiply_adds(grid)
        assert said == counted, f"multiply_adds says {said} on {grid}, a counter finds {counted}"


def memory(case: Case) -> None:
    """What `forward` holds grows with N, not with N^2, unless `forms_matrix` says so."""
    grids, held = [(side, side) for side in (12, 24, 36)], []  # whole windows of 4; of 7 nearly
    for grid in grids:
        affinity, inputs = case.drawn(grid).float(), [tensor.float() for tensor in case.inputs(grid, batch=1)]
        if affinity.forms_matrix:
            return
        with torch.no_grad(), _Formed() as formed:
            affinity(*inputs, grid)
        held.append(formed.numbers)
    tokens = [math.prod(grid) for grid in grids]
    slopes = [(held[i + 1] - held[i]) / (tokens[i + 1] - tokens[i]) for i in (0, 1)]
    squares = (slopes[1] - slopes[0]) / (tokens[2] - tokens[0])
    assert squares < 0.5, f"forms_matrix is False, but {squares:.1f} N x N numbers are formed in `forward`"


class _Formed(TorchDispatchMode):
    """Counts the numbers that operations write to memory of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        given, made = (
            {each.untyped_storage().data_ptr(): each for each in tree_leaves(of) if isinstance(each, Tensor)}
            for of in ((args, kwargs), answer)
        )
        self.numbers += sum(each.numel() for place, each in made.items() if place not in given)
        return answer


def autocast(case: Case) -> None:
    """Under bfloat16 autocast it answers nearly as in fp32, forward and backward."""
    affinity, inputs = case.drawn().float(), [tensor.float() for tensor in case.inputs()]
    values = inputs[0].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        low = affinity(values, inputs[1], GRID)
    low.float().square().sum().backward()
    low = low.detach()
    assert values.grad is not None and values.grad.isfinite().all(), "gradients under autocast are not finite"
    high = affinity(values.detach(), inputs[1], GRID).detach()
    error = float((low.float() - high).norm() / high.norm())
    assert error < 0.05, f"under bfloat16 autocast answers differ from fp32's by {100 * error:.0f} %"


def device(case: Case) -> None:
    """It works where its inputs are: on the meta device whatever is made on the CPU meets tensors of another."""
    for prefix in (0, 1):
        affinity, (values, tokens) = case.drawn(prefix=prefix).to("meta"), case.inputs(prefix=prefix)
        positions = torch.tensor([34, 0, 17], device="meta")
        try:
            answers = [affinity(values.to("meta"), tokens.to("meta"), GRID)]
            answers += [ask(tokens.to("meta"), GRID, positions) for ask in (affinity.rows, affinity.columns)]
        except UserError:
            if prefix:
                continue  # it serves no class tokens
            raise
        assert all(answer.is_meta for answer in answers), "it answers on another device than that of its inputs"


def state_dict(case: Case) -> None:
    """What is saved, loaded without pickle and copied answers alike."""
    affinity, (values, tokens) = case.drawn(), case.inputs()
    expected = affinity(values, tokens, GRID)
    content = io.BytesIO()
    torch.save(affinity.state_dict(), content)
    content.seek(0)
    other: Affinity = case.make(Site(channels=case.channels, grid=GRID)).double().eval()
    other.load_state_dict(torch.load(content, weights_only=True))
    same(other(values, tokens, GRID), expected, "answers with weights saved and loaded")
    same(copy.deepcopy(affinity)(values, tokens, GRID), expected, "answers of a copy")
