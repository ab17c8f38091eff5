"""What gathers by weights that are learnt: depthwise convolutions, averages, layers over tokens."""

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from contagg.affinity.base import Grid
from contagg.affinity.forms import Dense, Factors, Form
from contagg.inspect import convolutions
from contagg.inspect.checking import map_error, slope_error, token_error
from contagg.inspect.marks import Hidden
from contagg.inspect.notes import NO_PLACES, Draft, Notes, recorded


class Learnt:
    """Tells `notes` of them. Each method gives the layer's number."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def depthwise(self, options: Mapping[str, Any], output: Tensor) -> int:
        """A convolution that keeps grid and channels, without its bias."""
        self._note(options["input"], output)
        band = convolutions.convolution_band(options, (output.shape[2], output.shape[3]))
        if band is None:
            return self.notes.unseen("its kernel is dilated or padded in a way that no band holds")
        if self.notes.errors is not None:
            rest = {key: value for key, value in options.items() if key not in ("input", "bias")}
            error = map_error(band, options["input"][:1], lambda v: F.conv2d(v, **rest))
            self.notes.errors.append((self.notes.module, error))
        return self._static(band.grid, band)

    def convolved(self, options: Mapping[str, Any], output: Tensor) -> None:
        """Any other convolution: no A, but a grid."""
        self._note(options["input"], output)
        weight, stride = options["weight"], convolutions.pair(options.get("stride", 1))
        if output.ndim != 4 or max(weight.shape[2:]) == 1 or min(stride) >= max(weight.shape[2:]):
            return
        if weight.shape[1] > 1:
            self.notes.unseen("a convolution over all channels mixes channels with places: it has no one matrix")
        else:
            self.notes.unseen("a convolution that changes the grid")

    def pooling(self, options: Mapping[str, Any], output: Tensor) -> int:
        """An average over windows that keeps the grid."""
        self._note(options["input"], output)
        band = convolutions.average_band(options, (output.shape[2], output.shape[3]), output.detach())
        if self.notes.errors is not None:
            rest = {key: value for key, value in options.items() if key != "input"}
            error = map_error(band, options["input"], lambda v: F.avg_pool2d(v, **rest))
            self.notes.errors.append((self.notes.module, error))
        return self._static(band.grid, band)

    def is_tokens(self, values: Tensor) -> bool:
        """Whether the last axis of values (..., d, N) is one of tokens."""
        if values.ndim < 3 or not self.notes.layouts.counts(values.shape[-1]) or not values.requires_grad:
            return False
        found = self.notes.place(values.mT)
        return found is not None and found.token_of_slot is None and _is_line(found.slots)

    def token_linear(self, values: Tensor, weight: Tensor, output: Tensor) -> int:
        """A learnt N x N."""

        def form(order: Tensor) -> Form:
            return Dense(matrix=weight.detach()[order][:, order][None])

        def error(made: Form, order: Tensor) -> float:
            return token_error(made, values, order, lambda v: F.linear(v, weight))

        return self._over_tokens(values, form, "static", error)

    def token_mlp(self, hidden: Hidden, weight: Tensor, output: Tensor) -> int:
        """Two layers over tokens with a function between: its slope at this image, the mean over channels.

        The slope differs from channel to channel, and a matrix a channel would be hundreds. The mean of them is exact.
        """
        slope = hidden.slope.flatten(0, -2).mean(0)[:, None] if isinstance(hidden.slope, Tensor) else hidden.slope
        right = hidden.weight.detach() * slope

        def form(order: Tensor) -> Form:
            return Factors(left=weight.detach()[order][None], right=right[:, order].mT[None])

        def error(made: Form, order: Tensor) -> float:
            return slope_error(made, hidden.tokens, order, output)

        return self._over_tokens(hidden.tokens, form, "linearised", error)

    def _over_tokens(
        self, values: Tensor, form: Callable[[Tensor], Form], term: str, error: Callable[[Form, Tensor], float]
    ) -> int:
        notes, name = self.notes, self.notes.module
        if (found := notes.place(values.mT)) is None:
            return notes.unseen(NO_PLACES)
        if not notes.wanted(name):
            return notes.add(Draft(name=name))
        order = found.slots.reshape(-1, found.slots.shape[-1])[0].argsort()
        made = form(order)
        if notes.errors is not None:
            notes.errors.append((name, error(made, order)))
        return notes.add(Draft(name=name, built=recorded(name, found.grid, found.prefix, made, term)))

    def _static(self, grid: Grid, form: Form) -> int:
        name = self.notes.module
        built = recorded(name, grid, 0, form, "static") if self.notes.wanted(name) else None
        return self.notes.add(Draft(name=name, built=built))

    def _note(self, values: Tensor, output: Tensor) -> None:
        if output.ndim == 4 and len(output) == 1:
            self.notes.layouts.convolved(output)
        elif output.ndim == 4 and output.requires_grad and values.requires_grad:
            self.notes.layouts.batched(values, output)


def _is_line(slots: Tensor) -> bool:
    """Whether all of slots (..., T) have the same and different tokens."""
    lines = slots.reshape(-1, slots.shape[-1])
    return bool((lines == lines[0]).all()) and len(lines[0].unique()) == lines.shape[1] and bool((lines >= 0).all())
