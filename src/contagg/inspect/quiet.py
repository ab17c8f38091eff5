"""A model of anyone's while it is looked at: nothing learns, nothing is compiled, and all of it is left as it was."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """In eval mode, without gradients of what is learnt, on torch's open and eager paths.

    Each module gets its own mode back: a frozen norm inside a model that trains stays in eval mode.
    """
    training = [module for module in model.modules() if module.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for parameter in learnt:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def ends_gradients(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether this is what `torch.no_grad` calls when it begins."""
    return getattr(func, "__name__", "") == "_set_grad_enabled" and not any(args)


class GradientsStay(TorchFunctionMode):
    """A model's own `torch.no_grad` does nothing: gradients by the pixels are wanted of a frozen backbone as well."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return None if ends_gradients(func, args) else func(*args, **(kwargs or {}))
