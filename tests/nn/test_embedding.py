"""Embeddings against what they are made of: linear maps of patches, and plain convolutions in a row."""

import pytest
import torch
from torch import nn

from contagg.affinity.base import as_map
from contagg.errors import UserError
from contagg.nn.embedding import AbsolutePosition, OverlappingEmbedding, PatchEmbedding


def test_patch_embedding_is_a_linear_map_of_each_patch_then_layer_norm() -> None:
    torch.manual_seed(0)
    embedding = PatchEmbedding(3, 16, 4).double()
    images = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    tokens, grid = embedding(images)
    assert grid == (3, 5)
    patch = images[1, :, 8:12, 4:8].flatten()  # row 2, column 1
    expected = embedding.norm(embedding.projection.weight.flatten(1) @ patch + embedding.projection.bias)
    torch.testing.assert_close(tokens[1, 2 * 5 + 1], expected)


def test_sizes_off_the_stride_are_filled_with_zeros_at_the_far_edges() -> None:
    embedding = PatchEmbedding(3, 8, 4)
    images = torch.randn(1, 3, 9, 13)
    filled = torch.zeros(1, 3, 12, 16)
    filled[:, :, :9, :13] = images
    tokens, grid = embedding(images)
    assert grid == (3, 4) and torch.equal(tokens, embedding(filled)[0])


def test_absolute_positions_serve_other_grids_and_can_be_resized() -> None:
    position = AbsolutePosition(4, (4, 6))
    zeros = torch.zeros(1, 54, 4)
    served = position(zeros, (6, 9))
    position.resize((6, 9))
    assert position.embedding.requires_grad
    torch.testing.assert_close(position(zeros, (6, 9)), served)
    assert torch.equal(position(zeros, (6, 9)), position.embedding)


@pytest.mark.parametrize(("patch", "count", "stride"), [(1, 1, 1), (2, 1, 2), (4, 2, 2), (8, 3, 2)])
def test_an_overlapping_embedding_is_convolutions_in_a_row(patch: int, count: int, stride: int) -> None:
    torch.manual_seed(0)
    embedding = OverlappingEmbedding(5, 14, patch, "relu").eval().double()
    plain: list[nn.Module] = []
    for index, halving in enumerate(embedding.halvings):
        nn.init.normal_(halving.norm.running_mean)
        nn.init.uniform_(halving.norm.running_var, 0.5, 2)
        convolution = nn.Conv2d(5 if index == 0 else 7, 14 if index == count - 1 else 7, 3, stride, 1, bias=False)
        convolution.weight = halving.convolution.weight
        plain += [convolution, halving.norm, *([nn.ReLU()] if index < count - 1 else [])]
    assert len(embedding.halvings) == count
    images = torch.randn(2, 5, 23, 37, dtype=torch.float64)
    tokens, grid = embedding(images)
    assert grid == (-(-23 // patch), -(-37 // patch))
    torch.testing.assert_close(as_map(tokens, grid), nn.Sequential(*plain).eval()(images))


def test_an_overlapping_embedding_halves() -> None:
    with pytest.raises(UserError, match="patch size 6 must be a power of 2"):
        OverlappingEmbedding(3, 8, 6, "gelu")
