"""Forms of A of every kind, and beside each the matrix that it stands for, formed by torch in another way."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contagg.affinity.bands import Band, Sparse
from contagg.affinity.forms import Dense, Factors, Form, Product, Sum
from contagg.affinity.scores import Scores

GRID, M = (3, 5), 2
N = 15


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def whole() -> tuple[Form, Tensor]:
    query, key, place = normal(1, M, N, 3), normal(1, M, N, 3), torch.arange(N)[None]
    bias, sink = normal(1, M, N, N), normal(M, 1, 1)
    scores = torch.cat([0.5 * query @ key.mT + bias, sink.expand(1, M, N, 1)], 3).softmax(-1)
    form = Scores(
        query=query, key=key, query_place=place, key_place=place, shape=(N, N), scale=0.5, bias=(bias,), sink=sink
    )
    return form, scores[0, ..., :-1]


def windows() -> tuple[Form, Tensor]:
    """Groups of four places in any order, the last filled up by one; a key shut out, another place twice."""
    place = torch.cat([torch.randperm(N), torch.tensor([-1])]).view(4, 4)
    twice = place.clone()
    twice[1, 2] = twice[1, 0]
    query, key = normal(4, M, 4, 3), normal(4, M, 4, 3)
    shut = torch.zeros(4, 1, 1, 4, dtype=torch.float64)
    shut[2, ..., 1] = -torch.inf
    matrix = torch.zeros(M, N, N, dtype=torch.float64)
    for group in range(4):
        scores = query[group] @ key[group].mT + shut[group]
        scores[..., twice[group] < 0] = -torch.inf
        shares = scores.softmax(-1)
        for row, to in enumerate(place[group].tolist()):
            for column, source in enumerate(twice[group].tolist()):
                if to >= 0 and source >= 0:
                    matrix[:, to, source] += shares[:, row, column]
    form = Scores(query=query, key=key, query_place=place, key_place=twice, shape=(N, N), bias=(shut,))
    return form, matrix


def pooled() -> tuple[Form, Tensor]:
    """Seven gathering places and keys that several places share; one place is in no key."""
    query, key, key_of_place = normal(1, M, 7, 3), normal(1, M, 4, 3), torch.randint(0, 4, (N,))
    key_of_place[3] = -1
    pooling = F.one_hot(key_of_place.clamp_min(0), 4).to(key) * (key_of_place >= 0)[:, None]
    pooling = pooling / pooling.sum(0).clamp_min(1)
    form = Scores(query=query, key=key, query_place=torch.arange(7)[None], key_of_place=key_of_place, shape=(7, N))
    return form, (query @ key.mT).softmax(-1)[0] @ pooling.T


def band(mode: str, dilation: int, size: tuple[int, int]) -> Callable[[], tuple[Form, Tensor]]:
    def make() -> tuple[Form, Tensor]:
        kernel = normal(M, *size)
        unit = torch.eye(N, dtype=torch.float64).view(N, 1, *GRID)
        reach = [dilation * (side // 2) for side in size]
        after = [dilation * (side - 1) - before for side, before in zip(size, reach, strict=True)]
        padding = (reach[1], after[1], reach[0], after[0])
        padded = F.pad(unit, padding, "constant" if mode in ("zeros", "mean") else mode)
        matrix = F.conv2d(padded.expand(N, M, -1, -1), kernel[:, None], dilation=dilation, groups=M).permute(1, 2, 3, 0)
        matrix = matrix.flatten(1, 2)
        if mode == "mean":
            held = matrix.abs().sum(2, keepdim=True)
            matrix = matrix * kernel.abs().sum((1, 2)).view(M, 1, 1) / held
        return Band(kernel=kernel, grid=GRID, dilation=dilation, padding=mode), matrix  # type: ignore[arg-type]

    return make


def band_of_each_position() -> tuple[Form, Tensor]:
    """Involution: kernels of their own over unfolded neighbours; with a class token before the grid."""
    kernel = normal(N, M, 3, 3)
    unit = torch.eye(N, dtype=torch.float64).view(N, 1, *GRID)
    around = F.unfold(unit, 3, padding=1)  # (N sources, 9, N positions)
    matrix = F.pad(torch.einsum("imk,jki->mij", kernel.flatten(2), around), (1, 0, 1, 0))
    return Band(kernel=kernel, grid=GRID, prefix=1), matrix


def factors() -> tuple[Form, Tensor]:
    left, right = normal(M, 7, 2), normal(M, N, 2)
    return Factors(left=left, right=right), torch.einsum("mir,mjr->mij", left, right)


def dense() -> tuple[Form, Tensor]:
    matrix = normal(M, 7, N)
    return Dense(matrix=matrix), matrix.clone()


def sparse() -> tuple[Form, Tensor]:
    weights, targets = normal(M, N, 3), torch.randint(-1, N, (1, N, 3))
    matrix = torch.zeros(M, N, N, dtype=torch.float64)
    for row in range(N):
        for entry in range(3):
            if targets[0, row, entry] >= 0:
                matrix[:, row, targets[0, row, entry]] += weights[:, row, entry]
    return Sparse(weights=weights, targets=targets, places=N), matrix


def product() -> tuple[Form, Tensor]:
    (second, after), (first, before) = factors(), windows()
    return Product(second=second, first=first), after @ before


def mixture() -> tuple[Form, Tensor]:
    """One head of the first form stands for two of the second's."""
    (first, some), (second, others) = whole(), (Band(kernel=normal(4, 3, 3), grid=GRID), None)
    others = second.rows(torch.arange(N))
    alpha, beta = normal(2), normal(1)
    matrix = alpha.repeat_interleave(2).view(4, 1, 1) * some.repeat_interleave(2, 0) + beta * others
    return Sum(parts=((alpha, first), (beta, second))), matrix


BANDS = [
    pytest.param(band(mode, dilation, size), id=f"{mode} {dilation} {size}")
    for mode in ("zeros", "circular", "reflect", "replicate", "mean")
    for dilation, size in ((1, (3, 3)), (2, (3, 1)), (1, (2, 4)))
]
FORMS = [whole, windows, pooled, band_of_each_position, factors, dense, sparse, product, mixture, *BANDS]
