"""DETR's transformer (Carion et al., 2020), and with a prior on its cross-attention SMCA's (Gao et al., 2021).

B images, Q queries, D channels, L decoder layers, a map of h x w = N cells. Tensors are named as in the originals, so
that their files load; SMCA's own, which are `norm4` and `point1` to `point3` there, have names of ours.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.detection.detr.prior import GaussianPrior


def perceptron(width: int, outputs: int) -> nn.Sequential:
    """Three linear maps with ReLU between: (..., width) -> (..., outputs)."""
    return nn.Sequential(
        nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


class EncoderLayer(nn.Module):
    """Self-attention over the map, then two linear maps; each added to its input and normalised."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, cells: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D) twice and bool (B, N) -> (B, N, D)."""
        placed = cells + positions
        gathered, _ = self.self_attn(placed, placed, cells, key_padding_mask=~mask, need_weights=False)
        cells = self.norm1(cells + self.dropout(gathered))
        return self.norm2(cells + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(cells))))))


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention to the map, two linear maps; each added to its input and normed.

    Attributes:
        prior: Where cross-attention should look; None does not say.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, prior: GaussianPrior | None) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.prior = prior

    def forward(self, tokens: Tensor, queries: Tensor, keys: Tensor, memory: Tensor, **masks: Tensor) -> Tensor:
        """(B, Q, D).

        Args:
            tokens, queries: What the queries have gathered so far, and who they are, (B, Q, D).
            keys, memory: The map with and without its positions, (B, N, D).
            masks: Of the cross-attention: `key_padding_mask` bool (B, N), or `attn_mask` (B heads, Q, N), added.
        """
        asked = tokens + queries
        gathered, _ = self.self_attn(asked, asked, tokens, need_weights=False)
        tokens = self.norm1(tokens + self.dropout(gathered))
        gathered, _ = self.multihead_attn(tokens + queries, keys, memory, need_weights=False, **masks)
        tokens = self.norm2(tokens + self.dropout(gathered))
        return self.norm3(tokens + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(tokens))))))


class Encoder(nn.Module):
    """Layers one after the other."""

    def __init__(self, layers: list[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, cells: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D) twice and bool (B, N) -> (B, N, D)."""
        for layer in self.layers:
            cells = layer(cells, positions, mask)
        return cells


class Decoder(nn.Module):
    """Layers one after the other, each answer normalised by one norm, and the unnormalised one handed on.

    Attributes:
        centre: From a query to a place, before the sigmoid; None where boxes begin from nothing.
    """

    def __init__(self, layers: list[DecoderLayer], width: int, centre: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)
        self.centre = centre

    def forward(
        self, queries: Tensor, keys: Tensor, memory: Tensor, mask: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See `SetTransformer.forward`; queries (B, Q, D), keys and memory (B, N, D)."""
        tokens = torch.zeros_like(queries)
        answers, centres = [], None
        for layer in cast(list[DecoderLayer], self.layers):
            masks = {"key_padding_mask": ~mask.flatten(1)}
            if layer.prior is not None and self.centre is not None:
                normed = layer.prior.norm(tokens + queries)
                centres = self.centre(normed) if centres is None else centres
                masks = {"attn_mask": layer.prior(normed, centres.sigmoid() * sizes[:, None], mask)}
            tokens = layer(tokens, queries, keys, memory, **masks)
            answers.append(self.norm(tokens))
        return torch.stack(answers), centres


class SetTransformer(nn.Module):
    """DETR's, or with `prior` SMCA's."""

    def __init__(
        self,
        width: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        feedforward: int,
        dropout: float,
        prior: bool,
    ) -> None:
        super().__init__()
        sizes = (width, heads, feedforward, dropout)
        priors = [GaussianPrior(width, heads) if prior else None for _ in range(decoder_layers)]
        self.encoder = Encoder([EncoderLayer(*sizes) for _ in range(encoder_layers)])
        self.decoder = Decoder(
            [DecoderLayer(*sizes, each) for each in priors], width, perceptron(width, 2) if prior else None
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for each in priors:
            if each is not None:
                each.start()

    def forward(
        self, features: Tensor, positions: Tensor, mask: Tensor, queries: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """What each layer's queries answer, (L, B, Q, D), and SMCA's centres before the sigmoid, (B, Q, 2).

        Args:
            features: The map, (B, D, h, w).
            positions: Their encoding, alike.
            mask: bool (B, h, w), true where a cell holds something of its image.
            queries: (Q, D).
            sizes: Each image's width and height in cells, padding left out, (B, 2); need not be whole.
        """
        placed = positions.flatten(2).transpose(1, 2)
        memory = self.encoder(features.flatten(2).transpose(1, 2), placed, mask.flatten(1))
        return self.decoder(queries.expand(len(features), -1, -1), memory + placed, memory, mask, sizes)
