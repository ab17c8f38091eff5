"""Every mixer side by side: what one token of a photograph gathers from, and the facts of each A, all measured.

Each mixer learns one task in a few hundred steps: to take the noise from parts of the photograph, seen as a small grid
of mean colours. What a token gathers, A V with V a linear map of the noisy tokens, is added to it, as in a block: so
what differs between mixers is A alone. Without steps A is that of untrained weights.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from contagg.affinity import Affinity, Grid, Site, build_affinity, list_affinities
from contagg.affinity.base import tokens_on
from contagg.errors import named
from contagg.inspect.overlay import times_uniform
from contagg.nn.aggregation import Aggregation

CHANNELS = 64
"""As many as the widest head of the example words, `attention/64`."""
TOKENS = 216
"""About as many as the grid has: 12 x 18 for a photograph of 2 to 3."""
NOISE = 0.2
BATCH = 16
RATE = 1e-2

BANDS = {"dynamic": "dynamic\nA follows the image", "static": "static\none A for all images"}
GROUPS = {"some": "some tokens", "few": "all, through few", "all": "all tokens"}

LAWS: dict[str, Callable[[float], float]] = {
    "N": lambda n: n,
    "N log N": lambda n: n * math.log(n),
    "N^1.5": lambda n: n**1.5,
    "N^2": lambda n: n**2,
}


@dataclass(frozen=True, kw_only=True)
class Mixer:
    """A word's A for one photograph, and what was measured of it.

    Attributes:
        word: Its name.
        row: (H, W), in times uniform, what the marked token gathers from: the mean over heads, of sizes where several
            heads have both signs.
        dynamic: Whether A depends on the image.
        reach: The farthest that a token gathers from, in tokens of the grid; None where nothing bounds it.
        distance: How far it gathers from on average over all tokens, in tokens, weighted by |A|.
        rank: Of A, the median over heads: singular values above a thousandth of the largest.
        through: The most that its rank can be, seen for tokens that have nothing in common, before anything is learnt.
        filled: The share of A's entries that are not 0.
        law: How multiply-adds grow with N, "0" where there are none.
        multiply_adds: On a grid of 56 x 56 of 64 channels, values' and output projections aside.
        one_grid: Whether it serves the grid alone that it was made for.
        parameters: Of 64 channels on this grid.
        noise_left: The share of the noise's mean square that it left at the end; None without steps.
    """

    word: str
    row: Tensor
    dynamic: bool
    reach: int | None
    distance: float
    rank: int
    through: int
    filled: float
    law: str
    multiply_adds: int
    one_grid: bool
    parameters: int
    noise_left: float | None

    @property
    def family(self) -> tuple[str, str]:
        """Of BANDS and of GROUPS: whether A follows the image, and which tokens it gathers from."""
        if self.reach is not None or self.filled < 0.25:
            group = "some"
        else:
            group = "few" if self.through < self.row.numel() / 2 else "all"
        return "dynamic" if self.dynamic else "static", group


class Denoiser(nn.Module):
    """Clean colours (B, N, 3) from noisy ones by one aggregation."""

    def __init__(self, affinity: Affinity) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Linear(3, CHANNELS), nn.GELU(), nn.Linear(CHANNELS, CHANNELS))
        self.norm = nn.LayerNorm(CHANNELS)
        self.aggregation = Aggregation(CHANNELS, affinity)
        self.colour = nn.Linear(CHANNELS, 3)

    def forward(self, noisy: Tensor, grid: Grid) -> Tensor:
        """(B, N, 3) -> (B, N, 3)."""
        tokens = self.embedding(noisy)
        return self.colour(tokens + self.aggregation(self.norm(tokens), grid))

    def seen(self, noisy: Tensor) -> Tensor:
        """What the aggregation is given, (B, N, CHANNELS)."""
        return self.norm(self.embedding(noisy))


def grid_of(image: Image.Image) -> Grid:
    """About TOKENS squares that fill an image."""
    rows = max(3, round(math.sqrt(TOKENS * image.height / image.width)))
    return rows, max(3, round(TOKENS / rows))


def parts(image: Image.Image, grid: Grid, steps: int, seed: int) -> Iterator[Tensor]:
    """Batches of parts of an image, of its shape and any size down to a fifth of it, (B, N, 3) in [-1, 1]."""
    random = np.random.default_rng(seed)
    for _ in range(steps):
        batch = []
        for share in random.uniform(0.2, 1.0, size=BATCH):
            width, height = share * image.width, share * image.height
            left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
            batch.append(colours_of(image, grid, (left, top, left + width, top + height)))
        yield torch.cat(batch)


def colours_of(image: Image.Image, grid: Grid, box: tuple[float, float, float, float] | None = None) -> Tensor:
    """The mean colours of an image's squares, (1, N, 3) in [-1, 1]."""
    small = image.resize((grid[1], grid[0]), Image.Resampling.BOX, box=box)
    return torch.from_numpy(np.asarray(small, dtype=np.float32)).flatten(0, 1)[None] / 127.5 - 1


def measure(word: str, image: Image.Image, token: tuple[int, int], steps: int, seed: int = 0) -> Mixer:
    """Learn, and take A of the whole image.

    Args:
        word: An affinity's, or a mixture's.
        image: In mode RGB.
        token: Row and column on `grid_of(image)`.
        steps: Of the task; 0 leaves the weights as they are made.

    Raises:
        UserError: the word is wrong.
    """
    grid = grid_of(image)
    torch.manual_seed(seed)
    affinity = build_affinity(word, Site(channels=CHANNELS, grid=grid))
    model = Denoiser(affinity)
    through = rank(_far_apart(affinity, grid), 1e-8)
    left = _learn(model, image, grid, steps, seed) if steps else None
    model.double().eval()
    noisy = colours_of(image, grid).double()
    noisy += NOISE * torch.randn(noisy.shape, generator=torch.Generator().manual_seed(seed), dtype=noisy.dtype)
    with torch.no_grad():
        matrix = affinity.matrix(model.seen(noisy), grid)[0]
    found = rank(matrix, 1e-3)
    mixed = matrix.abs() if len(matrix) > 1 and (matrix < 0).any() else matrix
    return Mixer(
        word=word,
        row=times_uniform(mixed.mean(0)[token[0] * grid[1] + token[1]].unflatten(0, grid)),
        dynamic=affinity.dynamic,
        reach=affinity.local,
        distance=mean_distance(matrix, grid),
        rank=found,
        through=max(through, found),
        filled=float((matrix != 0).double().mean()),
        law=cost_law(affinity),
        multiply_adds=affinity.multiply_adds((56, 56)),
        one_grid=affinity.grid is not None,
        parameters=sum(parameter.numel() for parameter in affinity.parameters()),
        noise_left=left,
    )


@torch.no_grad()
def _far_apart(affinity: Affinity, grid: Grid) -> Tensor:
    """A (M, N, N) for tokens that have nothing in common, by the weights that it is made with."""
    tokens = 4 * torch.randn(1, tokens_on(grid), CHANNELS, dtype=torch.float64)
    return copy.deepcopy(affinity).double().eval().matrix(tokens, grid)[0]


def _learn(model: Denoiser, image: Image.Image, grid: Grid, steps: int, seed: int) -> float:
    """The share of noise that is left, in the mean over the last tenth of the steps."""
    noise = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps + 1)
    left = []
    for clean in parts(image, grid, steps, seed):
        loss = (model(clean + NOISE * torch.randn(clean.shape, generator=noise), grid) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        left.append(loss.item() / NOISE**2)
    return float(np.mean(left[-max(1, steps // 10) :]))


def mean_distance(matrix: Tensor, grid: Grid) -> float:
    """Of A (M, N, N): how far all tokens gather from, in tokens, by shares of |A| within a row."""
    places = torch.cartesian_prod(*(torch.arange(length, dtype=matrix.dtype) for length in grid))
    share = matrix.abs() / matrix.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)
    return float((share * torch.cdist(places, places)).sum(-1).mean())


def rank(matrix: Tensor, least: float) -> int:
    """The median over heads of the singular values of A (M, N, N) that are above a part of the largest."""
    values = torch.linalg.svdvals(matrix)
    return int((values > least * values[:, :1]).sum(1).median())


def cost_law(affinity: Affinity) -> str:
    """Which of LAWS multiply-adds follow as the grid grows; "N^x" by measured x where it is none of them."""
    few, many = (affinity.multiply_adds((side, side)) for side in (2**14, 2**15))
    if not many:
        return "0"
    growth = math.log(many / few)
    off = {name: abs(growth - math.log(law(4**15) / law(4**14))) for name, law in LAWS.items()}
    best = min(off, key=lambda name: off[name])
    return best if off[best] < 0.01 else f"N^{growth / math.log(4):.2f}"


def all_words(chosen: Sequence[str] = ()) -> list[str]:
    """Those chosen, or examples of every word that is registered. UserError for one that names no affinity."""
    words = list(dict.fromkeys(chosen)) or list_affinities()
    for word in chosen:
        with named(f"the mixer {word!r}"):
            build_affinity(word, Site(channels=CHANNELS, grid=(3, 4)))
    return words
