"""What was seen of a model on one image, layer by layer, until all of it is known."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from contagg.affinity.base import Grid
from contagg.affinity.forms import Form
from contagg.inspect.forms import RecordedLayer, Recording, Term, Unshown
from contagg.inspect.layouts import Layouts
from contagg.inspect.places import Map, Placed, place, targets
from contagg.inspect.stages import labels

CHANNELS = "it mixes channels, not places: its matrix is channels x channels"
NO_PLACES = "which places its tokens are was not found: they are no map, or made of overlapping places"
NO_PRODUCT = "its weights come from a softmax over tokens, but how they meet what they weigh was not seen"
NO_QUERIES = "which places gather was not found"


@dataclass(kw_only=True)
class Draft:
    """A layer that is ready (`built`), that waits for where its queries lie (`build`), or has no A (`reason`).

    `output` is what it gave and the axis of channels there, `order` the slots of the tokens that its module was given.
    """

    name: str
    built: RecordedLayer | None = None
    reason: str = ""
    build: Callable[[Placed], RecordedLayer | None] | None = None
    output: tuple[Tensor, int] | None = None
    residual: float | None = None
    order: Tensor | None = None


class Notes:
    """All that was seen of one image.

    Attributes:
        layouts: Of the maps so far.
        wanted: Says of a layer's name whether it is recorded.
        errors: (name, error) of each layer, where the layers are checked; else None.
        module: The name of the module that runs.
        given: The maps that the running modules were given, the innermost first.
    """

    def __init__(
        self, layouts: Layouts, wanted: Callable[[str], bool], errors: list[tuple[str, float]] | None = None
    ) -> None:
        self.layouts = layouts
        self.wanted = wanted
        self.errors = errors
        self.module = ""
        self.given: Callable[[], Iterator[Map]] = lambda: iter(())
        self.drafts: list[Draft] = []
        self._weighed: dict[str, None] = {}

    def place(self, operand: Tensor, beside: Placed | None = None) -> Placed | None:
        """Where the tokens of an operand (..., T, d) lie, rather on the grid of `beside` than on another."""
        return place(operand, [*self.given(), *self.layouts.recent()], beside)

    def add(self, draft: Draft) -> int:
        """Note a layer and give its number."""
        if draft.built is not None or draft.build is not None:
            draft.order = next((each.slots for each in self.given() if each.tensor.ndim == 3), None)
        self.drafts.append(draft)
        return len(self.drafts) - 1

    def unseen(self, reason: str) -> int:
        """Note that the running module mixes and has no A."""
        return self.add(Draft(name=self.module, reason=reason))

    def weighed(self, count: int) -> None:
        """Note that a softmax over as many as there are tokens runs: something of the module gathers by it."""
        next(self.given(), None)  # the running module's map is looked for, so that its places count
        if self.layouts.counts(count):
            self._weighed[self.module] = None

    def residual(self, layer: int, around: Tensor, branch: Tensor) -> None:
        """Note x + f(x) for a layer inside f."""
        draft = self.drafts[layer]
        on_map = around.ndim == 4 and draft.built is not None and around.shape[2:] == draft.built.grid
        own, added = (each.detach().norm(dim=1 if on_map else -1) for each in (around, branch))
        draft.residual = (own / (own + added).clamp_min(1e-30)).mean().item()

    def leave(self, output: Any) -> None:
        """A module ends: what it gives may tell where the queries of layers inside it lie."""
        waiting = [draft for draft in self.drafts if draft.build is not None and draft.output is not None]
        if not waiting or not isinstance(output, Tensor) or (found := self.layouts.find(output)) is None:
            return
        tokens = output.movedim(found.channel, -1).flatten(0, -2)
        number = found.slots.clamp_min(0)[:, None].to(tokens.device)
        for draft in waiting:
            assert draft.output is not None and draft.build is not None
            leaf, channel = draft.output
            seen = targets(tokens, number, leaf, channel)
            if seen is not None:
                shape = [length for axis, length in enumerate(leaf.shape) if axis != channel % leaf.ndim]
                queries = Placed(slots=seen.view(shape), grid=found.grid, prefix=found.prefix)
                draft.built, draft.build, draft.output = draft.build(queries), None, None

    def recording(self) -> Recording:
        """All of it, in the order in which it ran."""
        names, times = [], Counter[str]()
        shown = [(draft, draft.built) for draft in self.drafts if draft.built is not None]
        for draft, _ in shown:
            times[draft.name] += 1
            names.append(draft.name if times[draft.name] == 1 else f"{draft.name} {times[draft.name]}")
        layers = [
            replace(built, name=name, label=label, residual=draft.residual, order=draft.order)
            for (draft, built), name, label in zip(shown, names, labels(names), strict=True)
        ]
        unshown = [
            Unshown(name=each.name, reason=each.reason) for each in self.drafts if not each.built and each.reason
        ]
        unshown += [Unshown(name=each, reason=NO_PRODUCT) for each in self._weighed if not self._is_told(each)]
        others = sum(not self.wanted(draft.name) for draft in self.drafts)
        return Recording(layers=layers, unshown=unshown, others=others)

    def _is_told(self, name: str) -> bool:
        """Whether something was noted of a module, or of one that it lies in or holds, such as an nn.Softmax."""
        names = {draft.name for draft in self.drafts}
        return any(f"{a}.".startswith(f"{b}.") for each in names for a, b in ((name, each), (each, name)))


def recorded(name: str, grid: Grid, prefix: int, form: Form, term: str) -> RecordedLayer:
    """A layer of one matrix."""
    return RecordedLayer(
        name=name,
        label=name,
        grid=grid,
        prefix=prefix,
        terms=(Term(name=term, weight=torch.ones(1), form=form),),
    )
