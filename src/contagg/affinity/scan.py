"""The selective state space of Mamba (Gu and Dao, https://arxiv.org/abs/2312.00752), and VMamba's cross scan (Liu et
al., https://arxiv.org/abs/2401.10166), which sums four orders.

As in Mamba-2 (https://arxiv.org/abs/2405.21060) a channel's states decay alike, which makes a chunk matrix products;
the step is one a channel, as in Mamba, so that A is a matrix a channel. It is Mamba-2 with heads of one channel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid, clear_columns, single, tokens_on
from contagg.affinity.recurrent import Visits, carried, check_tokens, full_precision

CHUNK = 16
MOST_FORGOTTEN = 4.0
"""A step keeps e^-4 of a state, 1.8 %, at least: what a chunk scales by, e^(16 * 4), is far within fp32."""


class SelectiveScan(Affinity):
    """h_t = e^(a d_t) h_t-1 + d_t b_t v_t, y_t = c_t h_t + skip v_t: step d (N, C), b and c (N, states) from tokens.

    A[i, j] = (c_i . b_j) e^(a (d_j+1 + ... + d_i)) d_j for j up to i in the order of visits, a matrix a channel; with
    several orders their sum. Serves any grid and prefix tokens.
    """

    dynamic = True

    def __init__(self, channels: int, states: int = 16, directions: int = 1, prefix: int = 0) -> None:
        super().__init__()
        self.heads, self.states, self.directions, self.prefix = channels, states, directions, prefix
        self.rank = math.ceil(channels / 16)
        self.project = nn.Linear(channels, directions * (self.rank + 2 * states))
        # As in VMamba. A grows with the square of the tokens: by torch's own start 18 untrained blocks overflow.
        nn.init.trunc_normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)
        self.step = nn.Parameter(torch.empty(directions, self.rank, channels).uniform_(-1, 1) * self.rank**-0.5)
        # As in Mamba: steps from 0.001 to 0.1, of equal weight by their logarithm, and decays from e^-1 to e^-16.
        steps = torch.empty(directions, channels).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.step_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.log_decay = nn.Parameter(torch.empty(directions, channels).uniform_(1, 16).log())
        self.skip = nn.Parameter(torch.ones(channels))

    @property
    def word(self) -> str:
        return f"{'cross ' if self.directions == 4 else ''}scan{self.states}"

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_tokens(values, grid, self.prefix, self.word)
        visits = Visits(tokens, grid, self.directions, CHUNK)
        projected = self.project(tokens)
        with full_precision(tokens):
            steps, decays, source, target = self._parts(projected, visits, mask)
            passed = decays.cumsum(3)
            kept = passed.exp()  # (B, D, K, L, C): of a state at the chunk's begin
            # Not divided by `kept`: the gradient of that would divide by its square.
            scaled = steps * visits.chunks(values.to(steps)) * (-passed).exp()
            end = kept[:, :, :, -1:]
            added = end * (source.mT @ scaled)
            states = carried(_decayed, end.movedim(2, 0), added.movedim(2, 0)).movedim(0, 2)
            found = kept * ((target @ source.mT).tril() @ scaled + target @ states)
            return (visits.summed(found) + self.skip * values).to(values.dtype)

    def _parts(self, projected: Tensor, visits: Visits, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Steps and logarithms of decays (B, D, K, L, C), b and c (B, D, K, L, states), in the order of visits."""
        parts = visits.chunks_of_each(single(projected))
        low, source, target = parts.split([self.rank, self.states, self.states], 4)
        steps = single(torch.einsum("bdklr,drc->bdklc", low, self.step.to(low))) + self.step_bias[:, None, None]
        steps = F.softplus(steps) * visits.held(mask)[..., None]  # no step, nothing forgotten and nothing added
        decays = (-self.log_decay.exp()[:, None, None] * steps).clamp(min=-MOST_FORGOTTEN)
        return steps, decays, source, target

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        check_tokens(tokens, grid, self.prefix, self.word)
        visits, count = Visits(tokens, grid, self.directions, CHUNK), tokens.shape[1]
        parts = [part.flatten(2, 3)[:, :, :count] for part in self._parts(self.project(tokens), visits, mask)]
        rows = (positions[:, None] == torch.arange(count, device=tokens.device)) * self.skip[:, None, None]
        for order, (steps, decays, source, target) in enumerate(zip(*(part.unbind(1) for part in parts), strict=True)):
            place = visits.place[order]
            passed, steps = decays.cumsum(1).mT[:, :, place], steps.mT[:, :, place]  # (B, C, N), by token
            products = target[:, place[positions]] @ source[:, place].mT
            later = place > place[positions][:, None]
            since = (passed[:, :, positions, None] - passed[:, :, None]).masked_fill(later, -torch.inf)
            rows = rows + products[:, None] * since.exp() * steps[:, :, None]
        return clear_columns(rows.to(tokens.dtype), mask)

    def multiply_adds(self, grid: Grid) -> int:
        count = tokens_on(grid, self.prefix)
        visited = self.directions * CHUNK * math.ceil(count / CHUNK)
        projected = count * self.heads * self.project.out_features + visited * self.rank * self.heads
        return projected + visited * (CHUNK * (self.states + self.heads) + 2 * self.states * self.heads)

    def projections(self) -> list[nn.Linear]:
        return [self.project]


def _decayed(state: Tensor, kept: Tensor, added: Tensor) -> Tensor:
    return torch.addcmul(added, kept, state)
