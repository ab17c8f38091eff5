"""The picture of the idea: three mixers and a mixture as matrices A, all learnt for one task on photographs.

The task is to take the noise from a photograph of 14 x 14 tokens, which are its mean colours there: each token becomes
A V, where V are the noisy colours. So what differs between the four is A alone, as in Eq. 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from skimage import data as photographs
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from contagg.affinity import Affinity, DepthwiseConv, Mixture, SelfAttention, TokenMLP
from contagg.figures import bare, new_figure, percent
from contagg.inspect.overlay import MARKER, colours, draw_image, draw_overlay, mark, times_uniform

GRID = (14, 14)
MARKED = (5, 5)
"""Row and column of the token whose row of A is drawn over the photograph: an eye of the cat."""
NOISE = 0.2
STEPS, BATCH, RATE = 400, 64, 3e-2
WIDTH = 32
PIXELS = 448
"""Of the shown photograph's side."""
PEAK = 16.0
"""Times uniform at the ends of the scale that all panels share; what is more, a kernel's centre, is cut."""
SCALE = colours(torch.tensor([-PEAK, PEAK]))


class Denoiser(nn.Module):
    """A V for noisy colours V (B, N, 3); A may look at an embedding of them."""

    def __init__(self, affinity: Affinity) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Linear(3, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.affinity = affinity

    def forward(self, noisy: Tensor) -> Tensor:
        """(B, N, 3) -> (B, N, 3)."""
        return self.affinity(noisy, self.embedding(noisy), GRID)


def mixers() -> dict[str, tuple[str, Affinity]]:
    """Title -> (what its A is, the affinity)."""
    return {
        "attention": ("dynamic, dense:\nanother A for each image", SelfAttention(WIDTH)),
        "depthwise conv": ("static, local:\none kernel for all places", DepthwiseConv(3, 5, 3, bias=False)),
        "token MLP": ("static, dense:\na weight for each pair", TokenMLP(3, GRID)),
        "CONTAINER": ("", Mixture(SelfAttention(WIDTH), DepthwiseConv(3, 5, 3, bias=False))),
    }


def learn(affinity: Affinity, seed: int = 0) -> tuple[Denoiser, float]:
    """A trained denoiser, and the share of the noise's mean square that it leaves in the last tenth of the steps."""
    torch.manual_seed(seed)
    model = Denoiser(affinity)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    left = []
    for clean in crops(seed):
        loss = (model(clean + NOISE * torch.randn_like(clean)) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        left.append(loss.item() / NOISE**2)
    return model.eval(), float(np.mean(left[-STEPS // 10 :]))


def crops(seed: int) -> Iterator[Tensor]:
    """STEPS batches of square parts of photographs, (B, N, 3) in [0, 1], of any size from 60 pixels on."""
    random = np.random.default_rng(seed)
    known = [photographs.astronaut(), photographs.coffee(), photographs.rocket(), *load_sample_images().images]
    images = [Image.fromarray(image) for image in known]
    for _ in range(STEPS):
        batch = []
        for image in (images[index] for index in random.integers(len(images), size=BATCH)):
            side = int(random.integers(60, min(image.size) + 1))
            left, top = (int(random.integers(0, length - side + 1)) for length in image.size)
            small = image.resize(GRID, Image.Resampling.BOX, box=(left, top, left + side, top + side))
            batch.append(np.asarray(small, dtype=np.float32) / 255)
        yield torch.from_numpy(np.stack(batch)).flatten(1, 2)


def cat() -> Image.Image:
    """Chelsea the cat (Stefan van der Walt, CC0), squared."""
    image = Image.fromarray(photographs.chelsea())
    return image.crop((60, 0, 360, 300)).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A mixer's A (N, N) for the shown photograph, what to say of it, and the share of noise that it leaves."""

    name: str
    what: str
    a: Tensor
    left: float


def learnt(photograph: Image.Image) -> list[Learnt]:
    """Train the mixers, one after the other, and show them the photograph with its noise."""
    small = np.asarray(photograph.resize(GRID, Image.Resampling.BOX), dtype=np.float32) / 255
    clean = torch.from_numpy(small).flatten(0, 1)[None]
    noisy = clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    found = []
    torch.manual_seed(0)
    for name, (what, affinity) in mixers().items():
        model, left = learn(affinity)
        if isinstance(affinity, Mixture):
            alpha, beta = (weight.item() for weight in affinity.gate())
            what = f"{alpha:.2f} attention\n+ {beta:.2f} convolution"
        with torch.no_grad():
            a = affinity.matrix(model.embedding(noisy), GRID)[0, 0]
        found.append(Learnt(name=name, what=what, a=a, left=left))
    return found


def figure_of(photograph: Image.Image, found: list[Learnt]) -> Figure:
    """Above: the photograph and the matrices; below: the marked token's row of each over the photograph."""
    figure = new_figure(10, 5)
    grid = figure.subplots(2, 1 + len(found))
    stride = PIXELS / GRID[0]
    draw_image(grid[0, 0], photograph, (PIXELS, PIXELS))
    for line in range(1, GRID[0]):
        for draw_line in (grid[0, 0].axhline, grid[0, 0].axvline):
            draw_line(line * stride, color="white", linewidth=0.4, alpha=0.6)
    mark(grid[0, 0], *MARKED, stride)
    grid[0, 0].set_title("14 x 14 tokens", fontsize=11)
    _equation(grid[1, 0])
    for (matrix, over), one in zip(grid[:, 1:].T, found, strict=True):
        _matrix(matrix, one.a)
        matrix.set_title(one.name, fontsize=11)
        matrix.set_xlabel(one.what, fontsize=9)
        row = times_uniform(one.a[MARKED[0] * GRID[1] + MARKED[1]].unflatten(0, GRID))
        draw_overlay(over, row.clamp(-PEAK, PEAK), stride, photograph, (PIXELS, PIXELS), SCALE)
        mark(over, *MARKED, stride)
        over.set_xlabel(f"{percent(one.left, 0)} of the noise left", fontsize=9)
    bar = figure.colorbar(SCALE, ax=grid[:, -1], fraction=0.05, aspect=40, pad=0.03)
    bar.set_ticks([-PEAK, -1, 1, PEAK], labels=[f"−{PEAK:.0f}", "−1", "1", f"{PEAK:.0f}"])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=8)
    bar.set_label("times uniform", fontsize=9, labelpad=0)
    bar.outline.set_visible(False)
    return figure


def _matrix(axes: Axes, a: Tensor) -> None:
    rows = torch.stack([times_uniform(row[None])[0] for row in a])
    axes.imshow(SCALE.to_rgba(rows.numpy()), interpolation="antialiased")
    limits = axes.get_xlim(), axes.get_ylim()
    axes.plot(-4, MARKED[0] * GRID[1] + MARKED[1], ">", color=MARKER, markersize=6, clip_on=False)
    axes.set(xlim=limits[0], ylim=limits[1])
    bare(axes)


def _equation(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.86, "Y = A V", fontsize=20, ha="center", va="center")
    text = (
        "Mixers differ only in A.\nAbove: A, 196 x 196, learnt\nto take noise from photos.\n"
        "Below it: what the marked\ntoken gathers from."
    )
    axes.text(0.5, 0.36, text, fontsize=8.5, ha="center", va="center", linespacing=1.45)
