"""Kinds that are wrong in one thing each, and the check that must notice it."""

from collections.abc import Callable

import torch
from average import Average
from dilated import DilatedConv
from torch import nn

from contagg.affinity import Affinity, DepthwiseConv, SelfAttention, Site, TokenMLP
from contagg.affinity.base import by_matrix


class OtherWhileTraining(Average):
    def forward(self, values, tokens, grid, mask=None):
        return super().forward(values, tokens, grid, mask) * (1.5 if self.training else 1)


class SeesOtherImages(Average):
    """A number of the whole batch, as a norm over the batch would bring in."""

    dynamic = True

    def forward(self, values, tokens, grid, mask=None):
        return (1 + tokens.mean()) * super().forward(values, tokens, grid, mask)

    def rows(self, tokens, grid, positions, mask=None):
        return (1 + tokens.mean()) * super().rows(tokens, grid, positions, mask).expand(len(tokens), -1, -1, -1)


class Heads(Average):
    heads = 7


class Flipped(DepthwiseConv):
    def rows(self, tokens, grid, positions, mask=None):
        return super().rows(tokens, grid, positions, mask).flip(3)


class Detached(SelfAttention):
    def forward(self, values, tokens, grid, mask=None):
        return super().forward(values, tokens.detach(), grid, mask)


class Sorted(SelfAttention):
    def rows(self, tokens, grid, positions, mask=None):
        return super().rows(tokens, grid, positions.sort().values, mask)


class WritesAnotherDown(SelfAttention):
    def form(self, tokens, grid):
        return super().form(tokens.flip(1), grid)


class ClaimsToBeStatic(SelfAttention):
    dynamic = False


class ClaimsToBeNear(DilatedConv):
    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.reach = self.local
        self.local = 1

    def forward(self, values, tokens, grid, mask=None):
        self.local = self.reach
        answer = super().forward(values, tokens, grid, mask)
        self.local = 1
        return answer

    def rows(self, tokens, grid, positions, mask=None):
        self.local = self.reach
        answer = super().rows(tokens, grid, positions, mask)
        self.local = 1
        return answer


class ForgetsClassToken(SelfAttention):
    def rows(self, tokens, grid, positions, mask=None):
        rows = super().rows(tokens, grid, positions, mask)
        return rows if tokens.shape[1] == grid[0] * grid[1] else torch.cat([0 * rows[..., :1], rows[..., 1:]], 3)


class SeesPadding(SelfAttention):
    def forward(self, values, tokens, grid, mask=None):
        return super().forward(values, tokens, grid)


class CountsPadding(Average):
    def forward(self, values, tokens, grid, mask=None):
        return super().forward(values, tokens, grid)

    def rows(self, tokens, grid, positions, mask=None):
        return super().rows(tokens, grid, positions)


class NeverResized(TokenMLP):
    def resize(self, grid):
        self.grid = grid


class OneHeadOfTwo(DepthwiseConv):
    def rows(self, tokens, grid, positions, mask=None):
        return super().rows(tokens, grid, positions, mask)[:, :1]


class FoldsWithoutHoles(DilatedConv):
    def fold(self, gate):
        plain = DepthwiseConv(len(self.weight), self.kernel_size).to(self.weight)
        plain.load_state_dict(self.state_dict())
        return plain.fold(gate)


class FoldsItself(DepthwiseConv):
    def fold(self, gate):
        self.weight.data.mul_(gate.view(-1, 1, 1, 1))
        self.bias.data.mul_(gate if len(gate) == 1 else gate.repeat_interleave(self.head_width))
        return self


class MergesWithoutTheOther(DepthwiseConv):
    def merge(self, other):
        return self


class ReadsTokensOtherwise(SelfAttention):
    """It says that projections alone read the tokens, but they are bent before."""

    def forward(self, values, tokens, grid, mask=None):
        return super().forward(values, tokens.tanh(), grid, mask)

    def rows(self, tokens, grid, positions, mask=None):
        return super().rows(tokens.tanh(), grid, positions, mask)


class CostsNothing(SelfAttention):
    def multiply_adds(self, grid):
        return super().multiply_adds(grid) // 2


class FormsTheMatrix(SelfAttention):
    def forward(self, values, tokens, grid, mask=None):
        return by_matrix(self, values, tokens, grid, mask)


class OnePrecision(SelfAttention):
    def forward(self, values, tokens, grid, mask=None):
        answer = super().forward(values, tokens, grid, mask)
        return torch.zeros_like(values).index_add(1, torch.arange(values.shape[1]), answer)


class StaysOnTheCPU(Average):
    def rows(self, tokens, grid, positions, mask=None):
        every = torch.arange(tokens.shape[1], device="cpu")
        return super().rows(tokens, grid, positions, mask) * (every[:, None] >= 0).to(tokens.dtype).T


class LosesANumber(Average):
    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.register_buffer("scale", 0.5 + torch.rand(1), persistent=False)

    def forward(self, values, tokens, grid, mask=None):
        return self.scale * super().forward(values, tokens, grid, mask)


class Unused(DepthwiseConv):
    def __init__(self, site: Site) -> None:
        super().__init__(site.channels)
        self.extra = nn.Parameter(torch.zeros(1))


class NotANumberFarOut(Average):
    def rows(self, tokens, grid, positions, mask=None):
        rows = super().rows(tokens, grid, positions, mask)
        return rows * torch.nan if tokens.shape[1] > 100 else rows


class NeedsContent(Average):
    def rows(self, tokens, grid, positions, mask=None):
        if not tokens.any():
            raise ValueError("no tokens")
        return super().rows(tokens, grid, positions, mask)


class Breaks(Average):
    def forward(self, values, tokens, grid, mask=None):
        if values.sum().item() > 1e9:
            values = values / 2
        return super().forward(values, tokens, grid, mask)


class OneSize(Average):
    def forward(self, values, tokens, grid, mask=None):
        count = 2 if grid[0] == 5 else 1
        return super().forward(count * values, tokens, grid, mask) / count


class Bessel(Average):
    def forward(self, values, tokens, grid, mask=None):
        return super().forward(values, tokens, grid, mask) + torch.special.bessel_j1(torch.zeros_like(values))


class TwiceWrong(CountsPadding):
    def multiply_adds(self, grid):
        return 1


WRONG: list[tuple[str, Callable[[Site], Affinity], str | None]] = [
    ("attributes", Heads, "7 heads do not divide 64 channels"),
    ("values", lambda site: Flipped(site.channels), "forward and A V"),
    ("values", OtherWhileTraining, "forward while training"),
    ("values", SeesOtherImages, "forward of an image alone and in a batch"),
    ("gradients", lambda site: Detached(site.channels), "gradients of tokens"),
    ("rows_and_columns", lambda site: Sorted(site.channels), "rows and the matrix"),
    ("form", lambda site: WritesAnotherDown(site.channels), "rows of the form"),
    ("dependence", lambda site: ClaimsToBeStatic(site.channels), "dynamic is False, but A changes"),
    ("reach", ClaimsToBeNear, "local is 1, but tokens 2 away"),
    ("prefix_tokens", lambda site: ForgetsClassToken(site.channels), "with a class token"),
    ("padded_batch", lambda site: SeesPadding(site.channels), "an image of"),
    ("padded_batch", CountsPadding, "rows gather from where a mask holds no image"),
    ("grids", lambda site: NeverResized(site.channels, site.grid), "learnt on a grid|35"),
    ("mixture", lambda site: OneHeadOfTwo(site.channels, head_width=32), None),
    ("fold", FoldsWithoutHoles, "forward of fold of"),
    ("fold", lambda site: FoldsItself(site.channels), "before and after fold"),
    ("merge", lambda site: MergesWithoutTheOther(site.channels), "merged of two, and their sum"),
    ("multiply_adds", lambda site: CostsNothing(site.channels), "a counter finds"),
    ("memory", lambda site: FormsTheMatrix(site.channels), "forms_matrix is False, but .* N x N numbers"),
    ("autocast", lambda site: OnePrecision(site.channels), "same scalar type"),
    ("device", StaysOnTheCPU, "device"),
    ("state_dict", LosesANumber, "saved and loaded"),
    ("training", Unused, "extra has no gradient"),
    ("fuse", FoldsWithoutHoles, "a network, fused"),
    ("fuse", lambda site: ReadsTokensOtherwise(site.channels), "a network, fused"),
    ("statistics", NotANumberFarOut, "not finite"),
    ("figures", NeedsContent, "no tokens"),
    ("compile_without_breaks", Breaks, None),
    ("export", OneSize, "height|specialize"),
    ("onnx", Bessel, "^the network cannot be exported to ONNX: .*bessel.*$"),
]
