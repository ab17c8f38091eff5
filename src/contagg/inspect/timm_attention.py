"""timm's own attention seen as our affinity, so that a plain DeiT can stand beside ours in a figure."""

import torch
from timm.layers.attention import Attention
from timm.models import VisionTransformer
from torch import Tensor, nn

from contagg.affinity import Grid, SelfAttention
from contagg.errors import UserError


def is_plain_attention(module: nn.Module) -> bool:
    """Whether a module's A is softmax(Q K^T / sqrt d) over all its channels: queries and keys are not normalised."""
    return (
        type(module) is Attention
        and isinstance(module.q_norm, nn.Identity)
        and module.attn_dim == module.qkv.in_features
    )


def grid_of(model: nn.Module, tokens: Tensor) -> Grid:
    """The grid of tokens (B, N, C), which timm's attention is not told. UserError where it is not known."""
    if isinstance(model, VisionTransformer):
        height, width = model.patch_embed.grid_size
        if tokens.shape[1] == model.num_prefix_tokens + height * width:
            return height, width
    raise UserError(
        f"the grid of {tokens.shape[1]} tokens of {type(model).__name__} is not known; give timm's vision "
        "transformers an image of the size that they were made for"
    )


def whole_patches(model: nn.Module, size: Grid) -> Grid:
    """The image size nearest to `size` that a vision transformer's patches fill; some refuse any other."""
    if not isinstance(model, VisionTransformer):
        return size
    height, width = (
        max(1, round(pixels / patch)) * patch for pixels, patch in zip(size, model.patch_embed.patch_size, strict=True)
    )
    return height, width


@torch.no_grad()
def self_attention_of(attention: nn.Module) -> SelfAttention:
    """The affinity with the query and key projections of timm's joint one."""
    joint: nn.Linear = attention.qkv  # type: ignore[assignment]
    channels = joint.in_features
    affinity = SelfAttention(channels, attention.head_dim).to(joint.weight)  # type: ignore[arg-type]
    for index, projection in enumerate((affinity.query, affinity.key)):
        part = slice(index * channels, (index + 1) * channels)
        projection.weight.copy_(joint.weight[part])
        if joint.bias is None:
            projection.bias.zero_()
        else:
            projection.bias.copy_(joint.bias[part])
    return affinity
