"""What a model mixes on one image, as a `Recording`: of our own networks by their kinds."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from contagg.inspect.forms import RecordedLayer, Recording, Term, Unshown
from contagg.inspect.recording import Layer, RecordedAggregation, layers, record


@torch.no_grad()
def see(model: nn.Module, image: Tensor, wanted: Callable[[str], bool] = lambda name: True) -> Recording:
    """Run a model in eval mode on an image (1, C, H, W).

    Args:
        wanted: Which layers, by their modules' names.
    """
    every = layers(model)
    with _Lengths(model, every) as lengths, record(model, lambda one: one.has_affinity and wanted(one.name)) as found:
        model(image)
    shown, hidden = [], []
    for layer in found:
        recorded = _recorded(layer, lengths.share(layer.name))
        if isinstance(recorded, Unshown):
            hidden.append(recorded)
        else:
            shown.append(recorded)
    hidden += [Unshown(name=layer.name, reason=_channels(layer)) for layer in every if not layer.has_affinity]
    return Recording(layers=shown, unshown=hidden)


def _channels(layer: Layer) -> str:
    return "a full or grouped convolution mixes channels as well as places, so that it has no A"


def _recorded(layer: RecordedAggregation, residual: float | None) -> RecordedLayer | Unshown:
    terms = []
    for term in layer.terms():
        form = term.affinity.form(layer.tokens, layer.grid)
        if form is None:
            kind, count = type(term.affinity).__name__, layer.tokens.shape[1]
            return Unshown(
                name=layer.name,
                reason=f"A of {kind} has no smaller form, and of {count} tokens it is too large",
            )
        terms.append(Term(name=term.name, weight=term.weight, form=form))
    return RecordedLayer(
        name=layer.name,
        label=layer.label,
        grid=layer.grid,
        prefix=layer.prefix,
        terms=tuple(terms),
        residual=residual,
    )


class _Lengths:
    """While a model runs, mean lengths of the vectors of each block's own tokens and of what its layer adds to them.

    A block's own tokens are what its first norm is given.
    """

    def __init__(self, model: nn.Module, every: Sequence[Layer]) -> None:
        self.own: dict[str, float] = {}
        self.added: dict[str, float] = {}
        self._hooks: list[RemovableHandle] = []
        modules = dict(model.named_modules())
        for layer in every:
            parts = layer.name.split(".")
            norms = (".".join([*parts[:length], "norm1"]) for length in range(len(parts) - 1, 0, -1))
            norm = next((modules[name] for name in norms if name in modules), None)
            if norm is not None:
                self._hooks.append(norm.register_forward_hook(self._keep(self.own, layer.name, of_input=True)))
                self._hooks.append(layer.module.register_forward_hook(self._keep(self.added, layer.name)))

    def _keep(self, where: dict[str, float], name: str, *, of_input: bool = False) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            vectors = inputs[0] if of_input else output
            where[name] = float(vectors.float().norm(dim=1 if vectors.ndim == 4 else -1).mean())

        return hook

    def __enter__(self) -> "_Lengths":
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def share(self, name: str) -> float | None:
        """|x| / (|x| + |f(x)|); None where the layer has no norm before it."""
        if name not in self.own or name not in self.added:
            return None
        own, added = self.own[name], self.added[name]
        return own / max(own + added, 1e-30)
