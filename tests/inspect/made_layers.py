"""A layer of given matrices."""

import torch
from torch import Tensor

from contagg.affinity.forms import Form
from contagg.inspect.forms import RecordedLayer, Term

GRID = (7, 11)
N = 77


def layer(*forms: Form, grid: tuple[int, int] = GRID, prefix: int = 0, residual: float | None = 0.5) -> RecordedLayer:
    terms = tuple(Term(name=f"term {index}", weight=torch.tensor([0.5]), form=form) for index, form in enumerate(forms))
    return RecordedLayer(name="a", label="a", grid=grid, prefix=prefix, terms=terms, residual=residual)


def sizes(form: Form) -> Tensor:
    return form.rows(torch.arange(form.shape[0])).abs().mean(0)
