"""An image is answered alike alone and padded in a batch: exactly, through every kind of layer."""

import pytest
import torch
import torch.nn.functional as F

import contagg
from contagg.affinity import SelfAttention
from contagg.affinity.base import image_grids

SIZES = [(45, 77), (70, 33), (96, 96)]


def padded(images: list[torch.Tensor], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of size x size, and where its images are."""
    full = [F.pad(image, (0, size - image.shape[2], 0, size - image.shape[1])) for image in images]
    mask = torch.zeros(len(images), size, size, dtype=torch.bool)
    for which, image in zip(mask, images, strict=True):
        which[: image.shape[1], : image.shape[2]] = True
    return torch.stack(full), mask


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"affinity": "attention + dwconv5"},
        {"position": "absolute", "img_size": 64},
        {"embedding": "overlapping", "layer_scale": 0.5},
        {"norm_placement": "res_post"},
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_padding_changes_nothing(options: dict, checkpointing: bool) -> None:
    torch.manual_seed(0)
    network = contagg.create("container_light_tiny", num_classes=0, **options).double().eval()
    network.set_grad_checkpointing(checkpointing)
    for name, buffer in network.named_buffers():
        if "running_mean" in name:  # otherwise a normalised 0 would stay 0
            buffer.normal_()
    images = [torch.randn(3, *size, dtype=torch.float64) for size in SIZES]
    batch, mask = padded(images, 128)
    maps = network.forward_intermediates(batch, intermediates_only=True, mask=mask)
    for stride, together in zip((4, 8, 16, 32), maps, strict=True):
        assert together.shape[2:] == (128 // stride, 128 // stride)
    for index, image in enumerate(images):
        for stride, alone, together in zip(
            (4, 8, 16, 32), network.forward_intermediates(image[None], intermediates_only=True), maps, strict=True
        ):
            height, width = alone.shape[2:]
            assert (height, width) == (-(-image.shape[1] // stride), -(-image.shape[2] // stride))
            torch.testing.assert_close(together[index, :, :height, :width], alone[0], rtol=1e-10, atol=1e-10)
            assert not together[index, :, height:].any() and not together[index, :, :, width:].any()


def test_without_the_mask_padding_is_seen() -> None:
    """What the mask is for: attention gathers from padding."""
    torch.manual_seed(0)
    network = contagg.create("container_light_tiny", num_classes=0).double().eval()
    batch, _ = padded([torch.randn(3, 64, 64, dtype=torch.float64)], 128)
    alone = network.forward_features(batch[:, :, :64, :64])
    assert not torch.allclose(network.forward_features(batch)[:, :, :2, :2], alone, rtol=1e-3)


def test_the_rows_of_attention_leave_padding_out() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(64).double()
    mask = torch.zeros(2, 5, 7, dtype=torch.bool)
    mask[0, :3, :4] = mask[1] = True
    grid = (5, 7)
    assert image_grids(mask) == [(3, 4), (5, 7)]
    tokens, values = torch.randn(2, 2, 35, 64, dtype=torch.float64)
    matrix = attention.matrix(tokens, grid, mask)
    assert not matrix[0][:, :, ~mask[0].flatten()].any()
    heads = (matrix @ values.unflatten(2, (2, 32)).transpose(1, 2)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(values, tokens, grid, mask), heads)
