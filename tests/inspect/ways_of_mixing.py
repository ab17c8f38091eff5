"""Small networks in which one mixer stands, in each of the ways that people write one."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mix(nn.Module):
    """What a case does with its parts."""

    def __init__(self, mix: Callable[[nn.Module, Tensor], Tensor], parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.mix, self.parts = mix, nn.ModuleDict(parts)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mix(self.parts, tokens)


class Net(nn.Module):
    """A convolution to a grid of 4 x 5, then x + f(norm x), with `tokens` class tokens before the grid."""

    def __init__(
        self, mix: Callable[[nn.Module, Tensor], Tensor], parts: dict[str, nn.Module], tokens: int = 0
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.norm = nn.LayerNorm(8)
        self.mixer = Mix(mix, parts)
        self.first = nn.Parameter(torch.randn(1, tokens, 8))
        for parameter in self.mixer.parameters():
            nn.init.normal_(parameter, std=0.7)

    def forward(self, image: Tensor) -> Tensor:
        tokens = torch.cat([self.first, self.stem(image).flatten(2).mT], 1)
        return (tokens + self.mixer(self.norm(tokens))).mean(1)


def heads(tokens: Tensor, count: int = 2) -> Tensor:
    return tokens.unflatten(-1, (count, -1)).transpose(-2, -3)


def joined(tokens: Tensor) -> Tensor:
    return tokens.transpose(-2, -3).flatten(-2)


def qkv() -> dict[str, nn.Module]:
    return {"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)}


def plain(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = map(heads, parts["qkv"](x).chunk(3, -1))
    return parts["proj"](joined(F.scaled_dot_product_attention(query, key, value)))


def causal(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = map(heads, parts["qkv"](x).chunk(3, -1))
    return parts["proj"](joined(F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3)))


def by_hand(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = map(heads, parts["qkv"](x).chunk(3, -1))
    weights = (torch.einsum("bhid,bhjd->bhij", query, key) * 0.5).softmax(-1)
    weights = weights / (weights.sum(-1, keepdim=True) + 1)
    return parts["proj"](torch.einsum("bhij,bhjd->bihd", weights, value).flatten(2))


def by_dots(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = map(heads, parts["qkv"](x).chunk(3, -1))
    weights = torch.einsum("...id, ...jd -> ...ij", query, key).softmax(-1)
    return parts["proj"](joined(torch.einsum("...ij,...jd->...id", weights, value)))


def without_arrow(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = parts["qkv"](x)[0].chunk(3, -1)
    return parts["proj"](torch.einsum("ij,jk", (query @ key.mT).softmax(-1), value))[None]


def by_mm(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = parts["qkv"](x)[0].chunk(3, -1)
    return parts["proj"](torch.mm(torch.mm(query, key.T).softmax(-1), value))[None]


def in_pieces(parts: nn.Module, x: Tensor) -> Tensor:
    """Queries a few rows of the grid at a time, as where the memory is short."""
    query, key, value = map(heads, parts["qkv"](x).chunk(3, -1))
    pieces = [(piece @ key.mT).softmax(-1) @ value for piece in query.split(10, -2)]
    return parts["proj"](joined(torch.cat(pieces, -2)))


def summed(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = map(heads, parts["qkv"](x).chunk(3, -1))
    return parts["proj"](joined(((query @ key.mT).softmax(-1)[..., None] * value[..., None, :, :]).sum(-2)))


def by_a_module(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = map(heads, parts["qkv"](x).chunk(3, -1))
    return parts["proj"](joined(parts["softmax"](query @ key.mT) @ value))


def linear(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = map(heads, parts["qkv"](x).chunk(3, -1))
    return parts["proj"](joined(query.softmax(-1) @ (key.softmax(-2).mT @ value)))


def agents(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = map(heads, parts["qkv"](x).chunk(3, -1))
    middle = query.mean(2, keepdim=True) + torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    gathered = (middle @ key.mT).softmax(-1) @ value
    return parts["proj"](joined((query @ middle.mT).softmax(-1) @ gathered))


def padded_windows(parts: nn.Module, x: Tensor) -> Tensor:
    """4 x 5 tokens in windows of 3 x 3; the keys of what fills up take their share."""
    grid = F.pad(x.unflatten(1, (4, 5)), (0, 0, 0, 1, 0, 2))
    cut = grid.unfold(1, 3, 3).unfold(2, 3, 3).permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(0, 2)
    query, key, value = map(heads, parts["qkv"](cut).chunk(3, -1))
    out = joined(F.scaled_dot_product_attention(query, key, value))
    out = out.view(1, 2, 2, 3, 3, 8).transpose(2, 3).reshape(1, 6, 6, 8)[:, :4, :5]
    return parts["proj"](out.flatten(1, 2))


def torchs(parts: nn.Module, x: Tensor) -> Tensor:
    return parts["mha"](x, x, x, need_weights=False)[0]


def torchs_first(parts: nn.Module, x: Tensor) -> Tensor:
    tokens = x.transpose(0, 1)
    return parts["mha"](tokens, tokens, tokens)[0].transpose(0, 1)


def convolved(parts: nn.Module, x: Tensor) -> Tensor:
    return parts["conv"](x.mT.unflatten(2, (4, 5))).flatten(2).mT


def over_tokens(parts: nn.Module, x: Tensor) -> Tensor:
    return parts["linear"](x.mT).mT


def mlp_over_tokens(parts: nn.Module, x: Tensor) -> Tensor:
    return parts["out"](F.gelu(parts["in"](x.mT))).mT


def channels(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = (heads(each).mT for each in parts["qkv"](x).chunk(3, -1))
    return parts["proj"](joined(((query @ key.mT).softmax(-1) @ value).mT))


def recurrent(parts: nn.Module, x: Tensor) -> Tensor:
    return parts["lstm"](x)[0]


def hidden_norm(parts: nn.Module, x: Tensor) -> Tensor:
    query, key, value = map(heads, parts["qkv"](x).chunk(3, -1))
    return parts["proj"](joined(query @ F.relu(key.mT @ value)))


def fourier(parts: nn.Module, x: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x.unflatten(1, (4, 5)), dim=(1, 2)), s=(4, 5), dim=(1, 2)).flatten(1, 2)
