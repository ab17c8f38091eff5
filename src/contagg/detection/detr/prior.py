"""SMCA's prior: each head of a query looks around a place that it chooses (Gao et al., 2021, its x and y scales).

B images, M heads, Q queries, D channels, a map of h x w cells.
"""

import math

import torch
from torch import Tensor, nn

SMOOTHING = 8.0


class GaussianPrior(nn.Module):
    """log G_i(x, y) = -(s_ix (c_x + d_ix - x)^2 + s_iy (c_y + d_iy - y)^2) / 8 of each head i, in cells from 0.

    Shift d_i and scale s_i are linear in what the layer is given, the scale squared; the centre c comes from outside.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.shift = nn.Linear(width, 2 * heads)
        self.scale = nn.Linear(width, 2 * heads)
        self.heads = heads

    def start(self) -> None:
        """Begin with scales of 1 everywhere."""
        nn.init.zeros_(self.scale.weight)
        nn.init.ones_(self.scale.bias)

    def forward(self, normed: Tensor, centres: Tensor, mask: Tensor) -> Tensor:
        """The log-prior, and -inf in the padding: (B M, Q, h w), as attention adds it.

        A Gaussian is separable, so that only its sum of two short parts has that size, and there is one of it.

        Args:
            normed: `norm` of the layer's queries, (B, Q, D).
            centres: (B, Q, 2), x and y in cells.
            mask: bool (B, h, w), true where a cell holds something of its image.
        """
        places, scales = (
            layer(normed).unflatten(-1, (self.heads, 2)).permute(3, 0, 2, 1).contiguous()
            for layer in (self.shift, self.scale)
        )  # each (2, B, M, Q), laid out so that what is formed of them needs no copy
        places = places + centres.permute(2, 0, 1)[:, :, None]
        along = [
            -scales[axis, ..., None].square()
            * (places[axis, ..., None] - torch.arange(cells, device=places.device)) ** 2
            for axis, cells in enumerate((mask.shape[2], mask.shape[1]))
        ]  # (B, M, Q, w) and (B, M, Q, h)
        columns, rows = (part / SMOOTHING for part in along)
        logarithm = rows[..., :, None] + columns[..., None, :]
        return logarithm.masked_fill_(~mask[:, None, None], -math.inf).flatten(3).flatten(0, 1)
