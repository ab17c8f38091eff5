"""What gathers by weights that depend on the image: attention in its many ways."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from contagg.affinity.forms import Factors, Form
from contagg.inspect.checking import Again, attention_error
from contagg.inspect.forms import RecordedLayer
from contagg.inspect.marks import Pair
from contagg.inspect.notes import CHANNELS, NO_PLACES, NO_QUERIES, Draft, Notes, recorded
from contagg.inspect.operands import Sides, factors, formed, rows_divided, scores, sides
from contagg.inspect.places import Placed
from contagg.inspect.products import Weighing

Output = tuple[Tensor, int]
"""What a layer gave, and the axis of channels there."""


class Attentions:
    """Tells `notes` of them. Each method gives the layer's number."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self._halves: dict[int, Draft] = {}
        self._sums: dict[int, Tensor] = {}

    def attention(self, options: Mapping[str, Any], output: Tensor | None) -> int:
        """softmax(scale q k^T + bias) v, as torch's function takes it."""
        query, key, value, bias = (options.get(name) for name in ("query", "key", "value", "attn_mask"))
        assert query is not None and key is not None and value is not None
        scale = query.shape[-1] ** -0.5 if options.get("scale") is None else float(options["scale"])
        if options.get("enable_gqa"):
            key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
        causal = bool(options.get("is_causal"))

        def form(where: Sides) -> Form:
            return scores(where, query, key, scale, bias, causal=causal)

        def again(values: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, values, bias, is_causal=causal, scale=scale)

        return self._gathered(query, value, form, again, None if output is None else (output, -1))

    def weighed(self, weighing: Weighing, query: Tensor | None, output: Tensor) -> int:
        """Weights that the model formed, times values."""
        weights, value = weighing.weights, weighing.values
        if query is not None and query.shape[-2] != weights.shape[-2]:
            query = None
        into = None if weighing.channel is None else (output, weighing.channel)
        return self._gathered(query, value, lambda where: formed(where, weights), lambda v: weights @ v, into)

    def factored(self, left: Tensor, pair: Pair, seen: Tensor, output: Tensor) -> int:
        """left (right v): attention without a softmax, or through agents. `seen` is what right v became.

        Where the last channel of v is 1, what comes of it divides the others.
        """
        if (first := self._halves.pop(id(pair), None)) is not None:
            first.build, first.output, first.reason = None, None, ""
        right, value = pair.left, pair.right
        product = right.detach() @ value.detach()
        factor = _proportion(product, seen.detach()) if product.shape == seen.shape else None
        if factor is None:
            return self.notes.unseen("something that is not linear stands between its two products")
        ones = bool((value[..., -1] == 1).all())

        def form(where: Sides) -> Form | None:
            return factors(where, left, right.mT, normalised=ones)

        def again(values: Tensor) -> Tensor:
            gathered = left @ (right @ values)
            return gathered / gathered[..., -1:] if ones else gathered

        layer = self._gathered(left, value, form, again, (output, -1), fixed=int(ones))
        if not ones:
            self._sums[layer] = factor * (left.detach() @ right.detach().sum(-1, keepdim=True))
        return layer

    def divided(self, layer: int, divisor: Tensor) -> None:
        """What a layer gave is divided: where by its rows' sums, that is the last step of a linear attention."""
        sums, draft = self._sums.get(layer), self.notes.drafts[layer]
        if sums is None or draft.built is None or sums.shape != divisor.shape:
            return
        (term,) = draft.built.terms
        if isinstance(term.form, Factors) and torch.allclose(divisor.detach(), sums, rtol=1e-3):
            form = rows_divided(term.form)
            draft.built = replace(draft.built, terms=(replace(term, form=form),))

    def half(self, pair: Pair, layer: int) -> None:
        """What a layer gave may be the first half of another: then it is none by itself."""
        self._halves[id(pair)] = self.notes.drafts[layer]

    def is_half(self, pair: Pair) -> bool:
        """Whether what a product gave is of no places, so that only another product makes a layer of it."""
        first = self._halves.get(id(pair))
        return first is None or first.built is None

    def _gathered(
        self,
        query: Tensor | None,
        values: Tensor,
        form: Callable[[Sides], Form | None],
        again: Again,
        output: Output | None,
        fixed: int = 0,
    ) -> int:
        notes, name = self.notes, self.notes.module
        found = None if query is None else notes.place(query)
        placed = notes.place(values, found)
        if placed is None:
            return notes.unseen(CHANNELS if values.ndim > 2 and notes.place(values.mT) else NO_PLACES)
        if not notes.wanted(name):
            return notes.add(Draft(name=name))

        def build(queries: Placed) -> RecordedLayer | None:
            where = sides(queries, placed)
            made = None if where is None else form(where)
            if where is None or made is None:
                return None
            if notes.errors is not None:
                notes.errors.append((name, attention_error(made, where, values, placed, again, fixed=fixed)))
            return _layer(name, where, made)

        if found is None or not _one_each(found.slots):
            return notes.add(Draft(name=name, build=build, output=output, reason=NO_QUERIES))
        if output is not None:
            notes.layouts.gathered(*output, found)
        return notes.add(Draft(name=name, built=build(found), reason="its keys were pooled inside windows"))


def multi_head(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What nn.MultiheadAttention's function forms of its arguments, by the names of torch's attention."""
    given = [arguments[name].movedim(0, 1) for name in ("query", "key", "value")]
    if arguments["use_separate_proj_weight"]:
        weights = [arguments[f"{letter}_proj_weight"] for letter in "qkv"]
    else:
        weights = arguments["in_proj_weight"].chunk(3)
    biases = [None] * 3 if arguments["in_proj_bias"] is None else arguments["in_proj_bias"].chunk(3)
    heads = arguments["num_heads"]
    query, key, value = (
        F.linear(tokens, weight, bias).unflatten(-1, (heads, -1)).transpose(1, 2)
        for tokens, weight, bias in zip(given, weights, biases, strict=True)
    )
    mask = arguments["attn_mask"]
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, -torch.inf)  # true shuts out, here alone
    if (hidden := arguments["key_padding_mask"]) is not None:
        shut = hidden if hidden.dtype != torch.bool else torch.zeros_like(query[..., 0, 0]).new_zeros(hidden.shape)
        shut = shut.masked_fill(hidden, -torch.inf) if hidden.dtype == torch.bool else shut
        mask = shut[:, None, None] if mask is None else mask + shut[:, None, None]
    return {"query": query, "key": key, "value": value, "attn_mask": mask}


def _layer(name: str, where: Sides, form: Form) -> RecordedLayer:
    (grid, prefix), (target, before) = where.source, where.target
    layer = recorded(name, grid, prefix, form, "dynamic")
    if where.target == where.source:
        return layer
    if target is None:
        names = ["class token"] if before == 1 else [f"class token {number + 1}" for number in range(before)]
        return replace(layer, targets=tuple(names))
    return replace(layer, target_grid=target, target_prefix=before)


def _proportion(one: Tensor, other: Tensor) -> Tensor | None:
    """What `one` times makes `other`; None where nothing does."""
    factor = (one * other).sum() / one.square().sum().clamp_min(1e-30)
    return factor if bool((other - factor * one).norm() <= 1e-3 * other.norm()) else None


def _one_each(slots: Tensor) -> bool:
    """Whether no place gathers twice. Queries that windows share come from one place and go to many."""
    axes = range(slots.ndim - 2, -1, -1)
    heads = [a for a in axes if slots.shape[a] > 1 and bool((slots == slots.narrow(a, 0, 1)).all())]
    one = slots.select(heads[0], 0) if heads else slots
    held = one[one >= 0]
    return len(held) > 0 and len(held.unique()) == len(held)
