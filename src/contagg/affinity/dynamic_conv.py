"""Kernels that each position makes for itself of its token: weights of neighbours, or places to gather from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.attention_positions import places
from contagg.affinity.bands import Band
from contagg.affinity.base import Affinity, Grid, Site, as_map, check_fills, clear_columns, split_heads, tokens_on
from contagg.affinity.forms import Form
from contagg.errors import UserError


def window(size: int, device: torch.device) -> Tensor:
    """Offsets (row, column) of the size x size positions around one, (size^2, 2)."""
    return places((size, size), device) - size // 2


def neighbours(tokens: Tensor, grid: Grid, size: int) -> Tensor:
    """What lies around each position, zeros beyond the grid: (B, N, C) -> (B, N, size^2, C)."""
    reach = size // 2
    padded = F.pad(tokens.unflatten(1, grid), (0, 0, reach, reach, reach, reach))
    shifted = [
        padded[:, row : row + grid[0], column : column + grid[1]] for row in range(size) for column in range(size)
    ]
    return torch.stack(shifted, 3).flatten(1, 2)


def scatter(weights: Tensor, targets: Tensor, grid: Grid) -> Tensor:
    """Sums of weights (B, M, R, K) at places (R, K, 2) or (B, M, R, K, 2), (B, M, R, N); what is beyond is left out."""
    row, column = targets.expand(*weights.shape, 2).unbind(-1)
    within = (row >= 0) & (row < grid[0]) & (column >= 0) & (column < grid[1])
    # One spare column holds what lies beyond the grid.
    index = torch.where(within, row * grid[1] + column, grid[0] * grid[1])
    sums = weights.new_zeros(*weights.shape[:3], grid[0] * grid[1] + 1)
    return sums.scatter_add(3, index, weights)[..., :-1]


class _PositionKernels(Affinity):
    """Heads of `head_width` channels share a kernel, a projection of the token, over `size` x `size` positions."""

    dynamic = True

    def __init__(self, site: Site, word: str, size: int, head_width: int, numbers: int) -> None:
        super().__init__()
        self.word = f"{word}{size}"
        if size % 2 == 0:
            raise UserError(f"{self.word}: the size must be odd, so that a position has a centre")
        if site.channels % head_width:
            raise UserError(f"{self.word}: head width {head_width} does not divide {site.channels} channels")
        self.size = size
        self.heads = site.channels // head_width
        self.kernel = nn.Linear(site.channels, self.heads * numbers)

    def projections(self) -> list[nn.Linear]:
        return [self.kernel]


class DynamicConv(_PositionKernels):
    """A_m[i, j] = w_m(x_i)[j - i] inside the window, 0 outside; w is a linear map of the token.

    Li et al., "Involution" (https://arxiv.org/abs/2103.06255), with one layer in the place of its two.
    """

    def __init__(self, site: Site, size: int, head_width: int = 16) -> None:
        super().__init__(site, "dynamic", size, head_width, size**2)
        self.local = size // 2

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_fills(values, grid, self.word)
        kernel = self.kernel(tokens).unflatten(2, (self.heads, 1, -1))
        around = neighbours(values, grid, self.size).unflatten(3, (self.heads, -1)).transpose(2, 3)
        return (kernel @ around.to(kernel.dtype)).flatten(2)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, self.word)
        kernel = split_heads(self.kernel(tokens[:, positions]), self.heads)
        targets = places(grid, tokens.device)[positions][:, None] + window(self.size, tokens.device)
        return clear_columns(scatter(kernel, targets, grid), mask)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        kernel = self.kernel(tokens[0]).unflatten(1, (self.heads, self.size, self.size))
        return Band(kernel=kernel, grid=grid)

    def multiply_adds(self, grid: Grid) -> int:
        channels = self.kernel.in_features
        return tokens_on(grid) * (channels * self.kernel.out_features + self.size**2 * channels)


class OutlookAttention(_PositionKernels):
    """A_m = the sum over centres c of softmax(w_m(x_c)) between the positions of the window around c.

    Yuan et al., "VOLO", Eq. 3 to 5 (https://arxiv.org/abs/2106.13112): the token at c alone says how all positions
    around it gather from each other, so that a position gathers through every window that it lies in.
    """

    def __init__(self, site: Site, size: int, head_width: int | None = None) -> None:
        head_width = head_width or site.head_width
        super().__init__(site, "outlook", size, head_width, size**4)
        self.local = 2 * (size // 2)
        self.scale = head_width**-0.5
        self.attn_drop = site.attn_drop

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_fills(values, grid, self.word)
        shares = F.dropout(self._shares(tokens, mask), self.attn_drop, self.training)
        around = neighbours(values, grid, self.size).unflatten(3, (self.heads, -1)).transpose(2, 3)
        gathered = (shares @ around.to(shares.dtype)).transpose(2, 3).flatten(3).unflatten(1, grid)
        # Each window's answers go back to where they belong, which are the opposite neighbours.
        reach, answer = self.size // 2, torch.zeros_like(values, dtype=shares.dtype).unflatten(1, grid)
        padded = F.pad(gathered, (0, 0, 0, 0, reach, reach, reach, reach))
        for place in range(self.size**2):
            row, column = (2 * reach - offset for offset in divmod(place, self.size))
            answer = answer + padded[:, row : row + grid[0], column : column + grid[1], place]
        return answer.flatten(1, 2)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, self.word)
        offsets, shares = window(self.size, tokens.device), self._shares(tokens, mask)
        found = tokens.new_zeros(1)
        for place, offset in enumerate(offsets):
            centre = places(grid, tokens.device)[positions] - offset
            row, column = centre.unbind(-1)
            within = (row >= 0) & (row < grid[0]) & (column >= 0) & (column < grid[1])
            index = torch.where(within, row * grid[1] + column, 0)
            weights = shares[:, index, :, place].transpose(1, 2) * within[:, None]
            found = found + scatter(weights, centre[:, None] + offsets, grid)
        return clear_columns(found, mask)

    def _shares(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, M, K, K) for windows of K positions; 0 around centres that are in no image."""
        shares = (self.scale * self.kernel(tokens)).unflatten(2, (self.heads, self.size**2, -1)).softmax(-1)
        return shares if mask is None else shares * mask.flatten(1)[:, :, None, None, None]

    def multiply_adds(self, grid: Grid) -> int:
        channels = self.kernel.in_features
        return tokens_on(grid) * channels * (self.kernel.out_features + self.size**4)


class DeformableConv(_PositionKernels):
    """A_m[i] has softmaxed weights at `points` places p_i + p + o_m(x_i), each shared by the four tokens around it.

    p are the points of a square around a position, o and the weights linear maps of the token; zeros lie beyond the
    grid. Zhu et al., "Deformable ConvNets v2" (https://arxiv.org/abs/1811.11168) with the softmax of Wang et al.,
    "InternImage" (https://arxiv.org/abs/2211.05778), whose offsets start at 0 too.
    """

    def __init__(self, site: Site, points: int, head_width: int = 16) -> None:
        size = round(points**0.5)
        if size**2 != points or size % 2 == 0:
            raise UserError(f"deformable{points}: the number of points must be an odd square, such as 9")
        super().__init__(site, "deformable", size, head_width, points)
        self.word = f"deformable{points}"
        self.offset = nn.Linear(site.channels, self.heads * points * 2)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        every = torch.arange(tokens.shape[1], device=tokens.device)
        weights, points = self._points(tokens, grid, every)
        # grid_sample takes (column, row) in units of half the grid.
        half = torch.stack([points.new_full((), length) for length in (grid[1], grid[0])]) / 2
        points = ((points.flip(-1) + 0.5) / half - 1).flatten(0, 1)
        maps = as_map(values, grid).unflatten(1, (self.heads, -1)).flatten(0, 1)
        sampled = F.grid_sample(maps.to(points.dtype), points, align_corners=False).permute(0, 2, 3, 1)
        gathered = (weights.flatten(0, 1)[:, :, None] @ sampled.to(weights.dtype))[:, :, 0]
        return gathered.unflatten(0, (tokens.shape[0], self.heads)).transpose(1, 2).flatten(2)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        weights, points = self._points(tokens, grid, positions)
        corner = points.floor()
        found, part = tokens.new_zeros(1), points - corner
        for row in (0, 1):
            for column in (0, 1):
                share = (part[..., 0] if row else 1 - part[..., 0]) * (part[..., 1] if column else 1 - part[..., 1])
                target = corner.long() + torch.tensor([row, column], device=tokens.device)
                found = found + scatter(weights * share, target, grid)
        return clear_columns(found, mask)

    def _points(self, tokens: Tensor, grid: Grid, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (B, M, R, K), and the rows and columns (B, M, R, K, 2) of the K points, in at least fp32."""
        check_fills(tokens, grid, self.word)
        chosen = tokens[:, positions]
        weights = split_heads(self.kernel(chosen), self.heads).softmax(-1)
        offsets = split_heads(self.offset(chosen), self.heads).unflatten(3, (-1, 2))
        start = places(grid, tokens.device)[positions][:, None] + window(self.size, tokens.device)
        return weights, start + offsets.to(torch.promote_types(offsets.dtype, torch.float32))

    def multiply_adds(self, grid: Grid) -> int:
        channels, outputs = self.kernel.in_features, self.kernel.out_features + self.offset.out_features
        return tokens_on(grid) * channels * (outputs + self.size**2)

    def projections(self) -> list[nn.Linear]:
        return [self.kernel, self.offset]
