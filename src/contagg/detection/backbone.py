"""A feature pyramid on any timm-registered backbone with features.

Shapes: B images of H x W pixels, H and W multiples of 32. A batch whose images fill only parts of it has a fourth
channel, 1 where an image is and 0 in its padding.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from timm.layers import Format
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from contagg.detection.padding import PaddingMask
from contagg.errors import UserError
from contagg.models import create
from contagg.nn.network import Container


class Features(nn.Module):
    """The maps of a backbone at chosen strides, (B, C, H / stride, W / stride) each.

    With `frozen`, its BatchNorms stay as they are: evaluation mode whatever `train()` says, affine without gradient.

    Args:
        name: Of the backbone, ours or timm's.
        strides: Wanted of it.
        options: Of its constructor.

    Raises:
        UserError: an unknown name, or a backbone without features at these strides.
    """

    def __init__(self, name: str, strides: Sequence[int], frozen: bool, **options: Any) -> None:
        super().__init__()
        self.name = name
        self.body = _with_features(name, strides, options)
        self.strides = tuple(strides)
        self.channels: list[int] = self.body.feature_info.channels()  # type: ignore[operator, union-attr]
        self.frozen = frozen
        for norm in self._frozen_norms():
            norm.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "Features":
        """As usual, but for frozen BatchNorms."""
        super().train(mode)
        for norm in self._frozen_norms():
            norm.eval()
        return self

    def _frozen_norms(self) -> list[nn.Module]:
        """As they are now: run.synchronize_batchnorm puts others in their places."""
        norms = (module for module in self.body.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
        return list(norms) if self.frozen else []

    def checkpoint(self) -> None:
        """Recompute blocks in the backward pass: less memory, more time."""
        body = self.body.model if isinstance(self.body, FeatureGetterNet) else self.body
        body.set_grad_checkpointing()  # type: ignore[operator]

    def forward(self, batch: Tensor) -> list[Tensor]:
        """(B, 3 or 4, H, W) -> a map a stride, finest first; with a mask, padding is 0 in them.

        Raises:
            UserError: the backbone takes no images of this size.
        """
        images, mask = split_mask(batch)
        body: Any = self.body
        maps: Any
        if mask is not None and isinstance(body, FeatureGetterNet) and isinstance(body.model, Container):
            options: Any = {"indices": body.out_indices, "stop_early": True, "intermediates_only": True}
            maps = body.model.forward_intermediates(images, mask=mask, **options)
        else:
            maps = self._of_any_other(images)
        return [self._checked(found, level, images) for level, found in enumerate(maps)]

    def _of_any_other(self, images: Tensor) -> Any:
        try:
            return self.body(images)
        except AssertionError as error:  # how timm's refuse a size
            raise UserError(
                f"backbone {self.name!r} takes no images of {images.shape[2]} x {images.shape[3]} pixels: {error} "
                "model.options may help, such as strict_img_size false or img_size"
            ) from error

    def _checked(self, found: Tensor, level: int, images: Tensor) -> Tensor:
        """A map with its channels first, which some of timm's put last. UserError if its stride is not the declared."""
        if self.body.output_fmt == Format.NHWC:
            found = found.permute(0, 3, 1, 2)
        expected = tuple(length // self.strides[level] for length in images.shape[2:])
        if tuple(found.shape[2:]) != expected:
            raise UserError(
                f"the backbone's map at stride {self.strides[level]} is {tuple(found.shape)}, not {expected}"
            )
        return found


def _with_features(name: str, strides: Sequence[int], options: dict[str, Any]) -> nn.Module:
    try:
        everything = create(name, features_only=True, **options)
        found = everything.feature_info.reduction()  # type: ignore[operator, union-attr]
        if not set(strides) <= set(found):
            raise UserError(f"backbone {name!r} has features at strides {found}; a pyramid needs {list(strides)}")
        # Of several maps of one stride the last has seen most.
        last = dict(zip(found, everything.feature_info.out_indices, strict=True))  # type: ignore[union-attr, arg-type]
        indices = [last[stride] for stride in strides]
        return create(name, features_only=True, out_indices=indices, **options)
    except UserError:
        raise
    except Exception as error:  # each of timm's networks refuses wrong values in its own way
        raise UserError(f"backbone {name!r} cannot be made with features: {error}") from error


def split_mask(batch: Tensor) -> tuple[Tensor, Tensor | None]:
    """Images (B, 3, H, W), and where they are, bool (B, H, W), or None where all is filled."""
    return batch[:, :3], batch[:, 3] > 0.5 if batch.shape[1] > 3 else None


class P6P7(ExtraFPNBlock):
    """RetinaNet's two coarsest levels, from C5. (torchvision's takes P5 instead where the channels happen to agree.)"""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, channels, 3, 2, 1)
        self.p7 = nn.Conv2d(channels, channels, 3, 2, 1)
        for layer in (self.p6, self.p7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Append P6 and P7 to the levels `p`, given the backbone's maps `c`."""
        p6 = self.p6(c[-1])
        return [*p, p6, self.p7(F.relu(p6))], [*names, "p6", "p7"]


class MaxP6(ExtraFPNBlock):
    """Mask R-CNN's coarsest level: every second cell of P5."""

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Append P6 to the levels `p`."""
        return [*p, F.max_pool2d(p[-1], kernel_size=1, stride=2)], [*names, "pool"]


class PyramidBackbone(nn.Module):
    """Features and a pyramid on them, as torchvision's detectors take them.

    Attributes:
        out_channels: Of each level.
        strides: Of each level, the extra ones included.
        padding_mask: For the heads that work on the levels.
    """

    def __init__(self, features: Features, channels: int, extra: ExtraFPNBlock) -> None:
        super().__init__()
        self.features = features
        self.pyramid = FeaturePyramidNetwork(features.channels, channels, extra)
        self.out_channels = channels
        levels = len(features.strides) + (2 if isinstance(extra, P6P7) else 1)
        self.strides = tuple(features.strides[0] * 2**level for level in range(levels))
        self.padding_mask = PaddingMask()
        self.padding_mask.zero_padding(self.pyramid)

    def forward(self, batch: Tensor) -> "OrderedDict[str, Tensor]":
        """(B, 3 or 4, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride)) by level, "0" first."""
        maps = self.features(batch)
        self.padding_mask.mask = split_mask(batch)[1]
        levels = self.pyramid({str(number): level for number, level in enumerate(maps)})
        for stride, level in zip(self.strides, levels.values(), strict=True):
            assert level.shape[2:] == tuple(math.ceil(length / stride) for length in batch.shape[2:])
        return levels
