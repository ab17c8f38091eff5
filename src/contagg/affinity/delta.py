"""The gated delta rule of Gated DeltaNet (Yang, Kautz and Hatamizadeh, https://arxiv.org/abs/2412.06464), chunked as in
DeltaNet (Yang et al., https://arxiv.org/abs/2406.06484), in two directions that are summed.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid, clear_columns, single, tokens_on
from contagg.affinity.recurrent import Visits, carried, check_tokens, full_precision
from contagg.errors import UserError

CHUNK = 32
BASE = 8
"""Sides of the blocks at which a triangle is inverted by a polynomial."""


class DeltaRule(Affinity):
    """S_t = g_t S_t-1 (1 - r_t k_t k_t^T) + r_t v_t k_t^T, y_t = S_t q_t / sqrt(d), heads of `head_width` = d channels.

    The state is a memory that answers keys with values: a value replaces what its key found, at a rate r in (0, 1), and
    all fades by g in (0, 1). Keys and queries have unit length; both directions share them.

    With D[i, j] = g_j+1 ... g_i for j up to i, else 0, A = (Q K^T o D / sqrt(d)) (1 + strictly_lower(r K K^T o D))^-1
    diag(r). Serves any grid and prefix tokens.
    """

    dynamic = True

    def __init__(self, channels: int, head_width: int = 32, prefix: int = 0) -> None:
        super().__init__()
        if channels % head_width:
            raise UserError(f"delta/{head_width}: head width {head_width} does not divide {channels} channels")
        self.heads, self.head_width, self.prefix = channels // head_width, head_width, prefix
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.gates = nn.Linear(channels, 2 * 2 * self.heads)  # rate and fading, of both directions
        steps = torch.empty(2, self.heads).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.step_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.log_decay = nn.Parameter(torch.empty(2, self.heads).uniform_(1, 16).log())

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_tokens(values, grid, self.prefix, "delta")
        visits = Visits(tokens, grid, 2, CHUNK)
        projected = self.query(tokens), self.key(tokens), self.gates(tokens)
        with full_precision(tokens):
            query, key, rate, faded = self._parts(projected, visits, mask)
            value = self._by_head(visits.chunks(values.to(query)))
            found = self._found(query, key, value, rate, faded)
            return visits.summed(found.movedim(2, 4).flatten(4)).to(values.dtype)

    def _by_head(self, chunks: Tensor) -> Tensor:
        """(B, D, K, L, M d) -> (B, D, M, K, L, d)."""
        return chunks.unflatten(4, (self.heads, -1)).movedim(4, 2)

    def _parts(
        self, projected: tuple[Tensor, Tensor, Tensor], visits: Visits, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries and keys (B, D, M, K, L, d), rates (B, D, M, K, L, 1), log g (B, D, M, K, L), in order of visits."""
        query, key, gates = (single(each) for each in projected)
        query, key = (F.normalize(self._by_head(visits.chunks(each)), dim=-1) for each in (query, key))
        rate, step = self._by_head(visits.chunks_of_each(gates)).unbind(5)
        held = visits.held(mask)[:, :, None]
        step = F.softplus(step + self.step_bias[..., None, None]) * held  # neither faded nor replaced
        faded = -self.log_decay.exp()[..., None, None] * step
        return query * self.head_width**-0.5, key, (rate.sigmoid() * held)[..., None], faded

    def _found(self, query: Tensor, key: Tensor, value: Tensor, rate: Tensor, faded: Tensor) -> Tensor:
        """(B, D, M, K, L, d): what the memory answers."""
        passed = faded.cumsum(-1)
        decay = _since(passed)
        kept, end = passed.exp()[..., None], passed[..., -1:].exp()[..., None]
        replaced = (rate * decay * (key @ key.mT)).tril(-1)
        # What is written in a chunk: `written` where the memory was empty, less `known` times the memory.
        written, known = (unit_lower_inverse(replaced) @ torch.cat([rate * value, rate * kept * key], -1)).chunk(2, -1)
        late = (key * decay[..., -1, :, None]).mT
        transition = end * torch.eye(self.head_width, device=key.device, dtype=key.dtype) - late @ known
        memory = carried(_replaced, transition.movedim(3, 0), (late @ written).movedim(3, 0)).movedim(0, 3)
        written = written - known @ memory
        return kept * (query @ memory) + (decay * (query @ key.mT)) @ written

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """By solving a triangular system of N equations; this forms N x N."""
        check_tokens(tokens, grid, self.prefix, "delta")
        visits, count = Visits(tokens, grid, 2, CHUNK), tokens.shape[1]
        parts = self._parts((self.query(tokens), self.key(tokens), self.gates(tokens)), visits, mask)
        query, key, rate, faded = (part.flatten(3, 4)[:, :, :, :count] for part in parts)
        decay = _since(faded.cumsum(-1))
        replaced = (rate * decay * (key @ key.mT)).tril(-1)
        every: list[Tensor] = []
        for order, place in enumerate(visits.place):
            chosen = place[positions]
            found = decay[:, order, :, chosen] * (query[:, order, :, chosen] @ key[:, order].mT)
            system = replaced[:, order]
            rows = torch.linalg.solve_triangular(system, found, upper=False, left=False, unitriangular=True)
            every.append((rows * rate[:, order].mT)[..., place])
        return clear_columns(sum(every[1:], every[0]).to(tokens.dtype), mask)

    def multiply_adds(self, grid: Grid) -> int:
        count, channels, width = tokens_on(grid, self.prefix), self.query.in_features, self.head_width
        projected = count * channels * (2 * channels + self.gates.out_features)
        chunks = math.ceil(count / CHUNK)
        inverse = 4 * CHUNK * BASE**2 + CHUNK * (CHUNK**2 - BASE**2) // 3
        within = inverse + 5 * CHUNK**2 * width + 4 * CHUNK * width**2
        return projected + 2 * self.heads * (chunks * within + (chunks - 1) * width**3)

    def projections(self) -> list[nn.Linear]:
        return [self.query, self.key, self.gates]


def _since(passed: Tensor) -> Tensor:
    """Sums of logarithms (..., L) -> what is left at i of what came at j, (..., L, L), 0 for j after i."""
    later = torch.ones(passed.shape[-1], passed.shape[-1], dtype=torch.bool, device=passed.device).triu(1)
    return (passed[..., None] - passed[..., None, :]).masked_fill(later, -torch.inf).exp()


def _replaced(memory: Tensor, transition: Tensor, added: Tensor) -> Tensor:
    return added + transition @ memory


def unit_lower_inverse(lower: Tensor) -> Tensor:
    """(1 + lower)^-1 of strictly lower triangles (..., L, L), L = 8, 16, 32, ...; by halves, so that no power grows."""
    size = lower.shape[-1]
    if size == BASE:
        one = torch.eye(BASE, device=lower.device, dtype=lower.dtype)
        square = lower @ lower  # the eighth power is 0
        return (one - lower) @ (one + square) @ (one + square @ square)
    half = size // 2
    corners = torch.stack([lower[..., :half, :half], lower[..., half:, half:]], -3)
    first, second = unit_lower_inverse(corners).unbind(-3)
    below = -second @ lower[..., half:, :half] @ first
    return torch.cat([F.pad(first, (0, half)), torch.cat([below, second], -1)], -2)
