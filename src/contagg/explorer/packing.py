"""Forms of A as small numbers in one piece of bytes, from which the page rebuilds rows and columns.

What grows with the image, queries and keys above all, is kept in 8 bits: a vector of the last dimension as whole
numbers from -127 to 127 times a scale of its own, so that no entry moves by more than 1/254 of the vector's largest.
-128 stands for -inf. What is small, as a kernel that all places share, is kept in float32.
"""

import base64
import math
import zlib
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from contagg.affinity.bands import Band, Sparse
from contagg.affinity.forms import Dense, Factors, Form, Product, Sum
from contagg.affinity.scores import Scores

KINDS: dict[type[Form], str] = {
    Scores: "scores",
    Band: "band",
    Dense: "dense",
    Factors: "factors",
    Sparse: "sparse",
    Product: "product",
    Sum: "sum",
}
STEPS = 127
EXACT = 2**16
"""Numbers of a tensor up to which it is kept in float32."""

AnyForm = TypeVar("AnyForm", bound=Form)


class Store:
    """Arrays one after the other, each at a multiple of four bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._kept: dict[bytes, dict[str, Any]] = {}
        self.length = 0

    def add(self, array: np.ndarray) -> dict[str, Any]:
        """Where it lies; an array that has been added before lies where it was."""
        content = np.ascontiguousarray(array).tobytes()
        key = f"{array.dtype.str}{array.shape}".encode() + content
        if key not in self._kept:
            self._kept[key] = {"at": self.length, "type": array.dtype.name, "shape": list(array.shape)}
            padding = -len(content) % 4
            self._parts.append(content + bytes(padding))
            self.length += len(content) + padding
        return self._kept[key]

    def text(self) -> str:
        """All of it, compressed, in base 64."""
        return base64.b64encode(zlib.compress(b"".join(self._parts), 9)).decode()


def pack(form: Form, store: Store) -> dict[str, Any]:
    """What a form is, with its tensors in the store."""
    packed: dict[str, Any] = {"kind": KINDS[type(form)], "heads": form.heads, "shape": list(form.shape)}
    for field in fields(form):  # type: ignore[arg-type]
        value = getattr(form, field.name)
        if value is not None and field.name != "shape":
            packed[field.name] = _packed(value, store)
    if isinstance(form, Scores):
        packed["normaliser"] = store.add(normaliser(rounded(form)).numpy())
    return packed


@torch.no_grad()
def normaliser(form: Scores) -> Tensor:
    """The logarithm of the sum of each query's exponentials, float32 (G, M, n), without which a column needs all rows.

    -inf where no key counts.
    """
    found = torch.full(form.query.shape[:3], -math.inf)
    for group in range(form.query.shape[0]):
        for some in torch.arange(form.query.shape[2]).split(form.at_once):
            found[group, :, some] = form.scores(group, some).float().logsumexp(-1)
    return found


def bytes_of(value: Any) -> int:
    """What a form's tensors take in a store, before it is compressed, without scales and normalisers."""
    if isinstance(value, Tensor):
        return value.numel() if value.is_floating_point() and value.numel() > EXACT else 4 * value.numel()
    if is_dataclass(value):
        return sum(bytes_of(getattr(value, field.name)) for field in fields(value))
    return sum(map(bytes_of, value)) if isinstance(value, tuple) else 0


def _packed(value: Any, store: Store) -> Any:
    if isinstance(value, Tensor):
        return pack_tensor(value, store)
    if is_dataclass(value):
        return pack(value, store)  # type: ignore[arg-type]
    if isinstance(value, tuple):
        return [_packed(each, store) for each in value]
    return value


def pack_tensor(tensor: Tensor, store: Store) -> dict[str, Any]:
    """A tensor in the store: whole numbers in 32 bits, small tensors in float32, others in 8 bits with scales."""
    if not tensor.is_floating_point():
        return store.add(tensor.numpy().astype(np.int32))
    if tensor.numel() <= EXACT:
        return store.add(tensor.detach().float().numpy())
    steps, scale = _quantised(tensor)
    return store.add(steps.numpy().astype(np.int8)) | {"scale": store.add(scale.numpy())}


def _quantised(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from -128 to 127 and the scale of each vector, float32 (...,)."""
    tensor = tensor.detach().float()
    shut = tensor == -math.inf
    finite = tensor.masked_fill(shut, 0)
    scale = finite.abs().amax(-1) / STEPS
    steps = (finite / scale.clamp_min(1e-38)[..., None]).round()
    return steps.masked_fill(shut, -STEPS - 1), scale


def rounded(form: AnyForm) -> AnyForm:
    """The form that the page rebuilds: what is lost in 8 bits is lost in it too."""
    changed = {}
    for field in fields(form):  # type: ignore[arg-type]
        changed[field.name] = _rounded(getattr(form, field.name))
    return replace(form, **changed)  # type: ignore[type-var]


def _rounded(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_floating_point() or value.numel() <= EXACT:
            return value.detach().float() if value.is_floating_point() else value
        steps, scale = _quantised(value)
        return (steps * scale[..., None]).masked_fill(steps < -STEPS, -math.inf)
    if isinstance(value, Form):
        return rounded(value)
    return tuple(_rounded(each) for each in value) if isinstance(value, tuple) and not _are_numbers(value) else value


def _are_numbers(value: tuple[Any, ...]) -> bool:
    return all(isinstance(each, int) for each in value)


@torch.no_grad()
def rounding_error(form: Form, positions: Tensor) -> float:
    """How far 8 bits move rows: the largest sum of |differences| over the sum of |entries|, of the rows given."""
    exact = form.rows(positions).float()
    moved = (rounded(form).rows(positions) - exact).abs().sum(-1)
    return float((moved / exact.abs().sum(-1).clamp_min(1e-30)).max())
