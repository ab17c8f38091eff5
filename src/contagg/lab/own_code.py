"""What code of one's own an arm's mixers are: rows of a mixer that was changed since are no runs of what it is now."""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator

from torch import nn

from contagg.nn.aggregation import affinities

_NOT_OWN = {"contagg", "torch", "builtins", "abc", "typing"}


def own_code(network: nn.Module) -> dict[str, str]:
    """Of each class outside this package that its affinities are made of, by module and name, a hash of its code.

    Comments and layout do not count. What a class calls beside its own methods is not looked at.
    """
    return {f"{kind.__module__}.{kind.__qualname__}": code for kind in _kinds(network) if (code := _hash(kind))}


def _kinds(network: nn.Module) -> Iterator[type]:
    for affinity in affinities(network):
        for module in affinity.modules():
            yield from (kind for kind in type(module).__mro__ if kind.__module__.split(".")[0] not in _NOT_OWN)


def _hash(kind: type) -> str:
    """Empty where there is no source."""
    try:
        text = ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(kind))))
    except (OSError, TypeError, SyntaxError):
        return ""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
