"""What mixes with what in any model, on one image: one way to see, for ours and for anyone's.

Our aggregations write themselves down. What else mixes is seen by the mode of `contagg.inspect.interception`; which
place of the image each token is, is found from gradients, so that such a model runs with gradients on, block by block.

>>> import timm
>>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
>>> recording = see(model, torch.randn(1, 3, 32, 32))
>>> for layer in recording.layers:
...     print(layer.name, layer.grid, layer.prefix, layer.heads)
blocks.0.attn (2, 2) 1 3
blocks.1.attn (2, 2) 1 3
>>> recording.layers[0].mixed.rows(torch.tensor([4])).shape  # of the last token, a head a row
torch.Size([3, 1, 5])
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contagg.checkpoints.models import run_model
from contagg.errors import UserError, nearest
from contagg.inspect.aggregations import Layer, aggregations, written_down
from contagg.inspect.forms import Recording
from contagg.inspect.interception import Interception
from contagg.inspect.layouts import Layouts
from contagg.inspect.marks import set_branches
from contagg.inspect.notes import Draft, Notes
from contagg.inspect.places import Map
from contagg.inspect.quiet import quiet
from contagg.inspect.view import InParts, Tell

_SCARCE = ("not enough memory", "can't allocate memory", "out of memory")
"""In what torch says where the memory is full."""


def see(
    model: nn.Module,
    image: Tensor,
    wanted: Callable[[str], bool] = lambda name: True,
    errors: list[tuple[str, float]] | None = None,
    tell: Tell = lambda layers, done: None,
) -> Recording:
    """Show a model one image (1, C, H, W) in eval mode, and write down what mixes in it.

    Args:
        wanted: Which layers to write down, by their modules' names.
        errors: Is given (name, difference) for each of anyone's layers: of an entry of A from what the layer itself
            gives where the values of one place are changed, at most.
        tell: Is told how far it is, after each of the model's blocks.

    Raises:
        UserError: the model takes no such image, is compiled or in bfloat16, or the memory does not hold what it forms.
    """
    if isinstance(model, InParts):
        return model.see(image, wanted, tell)
    _require_open(model, image)
    own: dict[nn.Module, Layer] = {layer.module: layer for layer in aggregations(model)}
    layouts = Layouts(image.detach().clone().requires_grad_())
    notes = Notes(layouts, wanted, errors)
    mode = Interception(notes)
    watch = _Own(mode, own) if own else _Anyone(mode, model)
    with quiet(model), watch.hooked(model), _told(model, mode, tell), torch.set_grad_enabled(not own), mode:
        try:
            run_model(model, layouts.image.clone())
        except (UserError, MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or any(words in str(error) for words in _SCARCE):
                raise UserError(f"{_size(image)} is too large for the memory; show a smaller one") from error
            raise
    return notes.recording()


def wanted_modules(model: nn.Module, names: Sequence[str]) -> Callable[[str], bool]:
    """Whether a layer lies in one of the modules, for `see`. UserError for one that the model has not."""
    known = [name for name, _ in model.named_modules()]
    for name in names:
        if name not in known:
            raise UserError(f"layers {name!r}: {type(model).__name__} has no such module.{nearest(name, known)}")
    return lambda layer: any(f"{layer}.".startswith(f"{name}.") for name in names)


@dataclass(kw_only=True)
class Frame:
    """A module that runs, and the map that it was given: found when it is asked for."""

    name: str
    given: Tensor | None = None
    found: Map | None = None
    asked: bool = False


class _Anyone:
    """Follows which modules run, and what they are given; blocks begin a new graph, which keeps it small."""

    def __init__(self, mode: Interception, model: nn.Module) -> None:
        self.mode = mode
        self.frames: list[Frame] = []
        self.blocks = _blocks(model)
        mode.notes.given = self.maps

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as hooks:
            for name, module in model.named_modules():
                before = self._before(name, module in self.blocks)
                hooks.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(self._after))
            yield

    def maps(self) -> Iterator[Map]:
        """That the running modules were given, the innermost first."""
        for frame in reversed(self.frames):
            if not frame.asked and frame.given is not None:
                frame.found, frame.asked = self.mode.notes.layouts.find(frame.given), True
            if frame.found is not None:
                yield frame.found

    def _before(self, name: str, is_block: bool) -> Callable[..., Any]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            with self.mode.silent():
                frame = Frame(name=name)
                self.frames.append(frame)
                self.mode.notes.module = name
                given = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.requires_grad), None)
                frame.given = given
                if given is None or not is_block or (cut := self.mode.notes.layouts.cut(given)) is None:
                    return None
                frame.found, frame.asked = cut, True
                begun = cut.tensor.clone()
                return (
                    tuple(begun if each is given else each for each in args),
                    {key: begun if each is given else each for key, each in kwargs.items()},
                )

        return enter

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        with self.mode.silent():
            self.mode.notes.leave(output)
            self.frames.pop()
            self.mode.notes.module = self.frames[-1].name if self.frames else ""


class _Own:
    """Has each aggregation of ours write itself down; the sums that they go into are seen by the mode."""

    def __init__(self, mode: Interception, own: dict[nn.Module, Layer]) -> None:
        self.mode, self.own = mode, own
        self.running: list[str] = []

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as hooks:
            for module in self.own:
                hooks.enter_context(module.register_forward_pre_hook(self._before))
                hooks.enter_context(module.register_forward_hook(self._after))
            for name, module in model.named_modules():
                hooks.enter_context(module.register_forward_pre_hook(self._enter(name)))
                hooks.enter_context(module.register_forward_hook(self._leave))
            yield

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self.running.append(name)
            self.mode.notes.module = name

        return enter

    def _leave(self, *_: Any) -> None:
        self.running.pop()
        self.mode.notes.module = self.running[-1] if self.running else ""

    def _before(self, *_: Any) -> None:
        """What happens inside is told by the form alone."""
        self.mode.muted += 1

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.mode.muted -= 1
        layer, notes = self.own[module], self.mode.notes
        draft = Draft(name=layer.name)
        if notes.wanted(layer.name):
            with self.mode.silent():
                draft.built, draft.reason = written_down(layer, args[0].detach(), args[1])
        set_branches(output, frozenset((notes.add(draft),)))


@contextmanager
def _told(model: nn.Module, mode: Interception, tell: Tell) -> Iterator[None]:
    """Tells of each block that ends."""
    blocks, ended = _blocks(model), set[nn.Module]()

    def after(module: nn.Module, *_: Any) -> None:
        ended.add(module)
        with mode.silent():
            layers = [draft.built for draft in mode.notes.drafts if draft.built is not None]
            tell(layers, len(ended) / len(blocks))

    with ExitStack() as hooks:
        for block in blocks:
            hooks.enter_context(block.register_forward_hook(after))
        yield


def _require_open(model: nn.Module, image: Tensor) -> None:
    """UserError for a model in which nothing can be seen."""
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError(f"{name} is compiled by torch.jit, which nothing sees into; show the module it was made of")
    if image.dtype == torch.bfloat16:
        raise UserError(f"{name} is in bfloat16, too coarse to tell which places its tokens are; show model.float()")


def _blocks(model: nn.Module) -> set[nn.Module]:
    """The members of lists of modules that are made of several themselves."""
    return {
        member
        for module in model.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for member in module
        if sum(1 for _ in member.modules()) > 3
    }


def _size(image: Tensor) -> str:
    return f"an image of {image.shape[2]} x {image.shape[3]} pixels"
