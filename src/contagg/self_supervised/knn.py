"""k nearest neighbours by cosine: how well features tell classes apart without training anything on them.

Shapes: Q queries and N images of the bank with features of D numbers, K classes.
The bank may be spread over processes, and similarities are only ever computed for a part of it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from contagg.data.sampling import IGNORE_INDEX
from contagg.device import processes, require_finite
from contagg.errors import UserError, plural

QUERIES, BANK = 1024, 32768
"""Similarities computed at once: 128 MiB in float32."""


class Features:
    """Unit-length features of images and their labels, gathered batch by batch into memory taken once.

    Args:
        length: Images in all (of this process).
    """

    def __init__(self, length: int) -> None:
        self.length, self.filled = length, 0
        self.labels = torch.full((length,), IGNORE_INDEX)
        self._features = torch.zeros(0)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Features (B, D) of any length, labels (B,) or IGNORE_INDEX."""
        require_finite({"what the network answers": features}, "no neighbours")
        if not self.filled:
            self._features = torch.zeros(self.length, features.shape[1])
        end = self.filled + len(labels)
        self._features[self.filled : end] = F.normalize(features.float(), dim=1).cpu()
        self.labels[self.filled : end] = labels.cpu()
        self.filled = end

    @property
    def features(self) -> Tensor:
        """(N, D), float32, on the CPU."""
        return self._features

    def counted(self) -> "Features":
        """Without what is IGNORE_INDEX."""
        kept = self.labels != IGNORE_INDEX
        if bool(kept.all()):
            return self
        rest = Features(int(kept.sum()))
        if rest.length:
            rest.add(self._features[kept], self.labels[kept])
        return rest


def check_neighbours(neighbours: Sequence[int], images: int) -> None:
    """UserError if there are more neighbours asked for than images in the bank."""
    if max(neighbours) > images:
        raise UserError(f"{max(neighbours)} nearest neighbours are more than the {plural(images, 'training image')}")


def accuracies(
    queries: Features, bank: Features, neighbours: Sequence[int], temperature: float, device: torch.device
) -> dict[int, float]:
    """For each k the fraction of all processes' queries whose class wins the vote of their k neighbours.

    A neighbour votes for its class with exp(cosine / temperature). Each process brings its part of the queries, equally
    many (IGNORE_INDEX where it has fewer), and its part of the bank.

    Raises:
        UserError: k is more than the images of the bank, or no query can be counted.
    """
    bank = bank.counted()
    total = int(_reduced(torch.tensor(bank.length, device=device), dist.ReduceOp.SUM))
    check_neighbours(neighbours, total)
    labels = _gathered(queries.labels.to(device)).cpu()
    largest = torch.cat([labels, bank.labels]).max().to(device)
    classes = 1 + int(_reduced(largest, dist.ReduceOp.MAX))
    counted = int((labels != IGNORE_INDEX).sum())
    if not counted:
        raise UserError("there is no image to find neighbours of")
    right = dict.fromkeys(neighbours, 0)
    # Processes hold equally many queries, so that they take the same rounds.
    for begin in range(0, queries.length, QUERIES):
        part = _gathered(queries.features[begin : begin + QUERIES].to(device))
        truth = _gathered(queries.labels[begin : begin + QUERIES].to(device))
        similarities, votes = nearest(part, bank, max(neighbours), device)
        similarities, votes = _best_of_all(similarities, votes, max(neighbours))
        for k in neighbours:
            taken = vote(similarities[:, :k], votes[:, :k], classes, temperature)
            right[k] += int(((taken == truth) & (truth != IGNORE_INDEX)).sum())
    return {k: count / counted for k, count in right.items()}


def nearest(queries: Tensor, bank: Features, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and labels (Q, k) of the nearest images, nearest first; -inf and IGNORE_INDEX beyond a smaller bank."""
    best = queries.new_full((len(queries), k), -torch.inf)
    labels = torch.full((len(queries), k), IGNORE_INDEX, device=device)
    for begin in range(0, bank.length, BANK):
        part = bank.features[begin : begin + BANK].to(device)
        cosines = torch.cat([best, queries @ part.T], dim=1)
        of_part = bank.labels[begin : begin + BANK].to(device).expand(len(queries), -1)
        best, where = cosines.topk(k, dim=1)
        labels = torch.cat([labels, of_part], dim=1).gather(1, where)
    return best, labels


def vote(similarities: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """The class (Q,) with the largest sum of exp(similarity / temperature) over its neighbours (Q, k)."""
    # Relative to the nearest: exp(1 / 0.07) is 1.6e6, and the sums keep their digits.
    weights = ((similarities - similarities[:, :1]) / temperature).exp()
    scores = weights.new_zeros(len(weights), classes)
    return scores.scatter_add_(1, labels.clamp(min=0), weights).argmax(dim=1)


def _best_of_all(similarities: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of the k that each process found."""
    if processes() == 1:
        return similarities, labels
    every = _gathered(similarities[None]).movedim(0, 1).flatten(1)
    best, where = every.topk(k, dim=1)
    return best, _gathered(labels[None]).movedim(0, 1).flatten(1).gather(1, where)


def _gathered(tensor: Tensor) -> Tensor:
    """All processes' tensors of one shape, one after the other."""
    if processes() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(processes())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _reduced(tensor: Tensor, how: Any) -> Tensor:
    if processes() > 1:
        dist.all_reduce(tensor, op=how)
    return tensor
