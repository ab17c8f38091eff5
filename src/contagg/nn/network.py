"""The network of Sec. 3.4: four stages of blocks, with timm's interface."""

import warnings
from typing import Any

import torch
from timm.layers import ClassifierHead, to_2tuple
from timm.models import register_notrace_module
from timm.models._input import update_model_input_size
from torch import Tensor, nn

from contagg.affinity import Affinity
from contagg.nn.aggregation import affinities
from contagg.nn.build import check_values
from contagg.nn.checkpoint_filter import accept_other_names, checkpoint_filter_fn
from contagg.nn.intermediates import check_images, forward_intermediates, least_size, prune_intermediate_layers
from contagg.nn.stages import DropRates, NetworkConfig, build_stages

register_notrace_module(Affinity)  # torch.fx cannot follow what depends on a grid


def start_classifier(head: ClassifierHead) -> None:
    """The released network's start: a truncated normal of 0.02 for linear layers (its projections are convolutions)."""
    if isinstance(head.fc, nn.Linear):
        nn.init.trunc_normal_(head.fc.weight, std=0.02)
        nn.init.zeros_(head.fc.bias)


def warn_off_stride(image_size: tuple[int, int], stride: int) -> None:
    """Say it once where a network is made for images whose last patches are partly zeros."""
    if any(side % stride for side in image_size):
        height, width = image_size
        warnings.warn(
            f"img_size {height} x {width} is no multiple of the stride of {stride}: zeros fill the last patches",
            stacklevel=2,
        )


class Container(nn.Module):
    """A context aggregation network with timm's interface.

    Args:
        cfg: what it is made of.
        num_classes: 0 for pooled features instead of logits.
        img_size: (height, width), or one number for both, of the images that learnt positions and static N x N
            affinities are made for; others serve any size.
        global_pool: timm's word; "" for the map (B, C, H / 32, W / 32).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.
        proj_drop_rate: dropout after the projections of aggregation and MLP.
        attn_drop_rate: dropout of the entries of attention.

    Raises:
        UserError: an image with other than `in_chans` channels, or a grid that a static affinity cannot serve.

    >>> config = NetworkConfig(embed_dims=(8, 8, 16, 32), depths=(1, 1, 1, 1), affinity="dwconv3")
    >>> Container(config, num_classes=5)(torch.zeros(2, 3, 40, 56)).shape
    torch.Size([2, 5])
    """

    checkpoint_filter_fn = staticmethod(checkpoint_filter_fn)
    forward_intermediates = forward_intermediates
    prune_intermediate_layers = prune_intermediate_layers

    def __init__(
        self,
        cfg: NetworkConfig,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = cfg
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.img_size = to_2tuple(img_size)
        drop = DropRates(drop_path_rate, attn_drop_rate, proj_drop_rate)
        self.stages = nn.ModuleList(build_stages(cfg, in_chans, self.img_size, drop))
        self._traits = {"fixed_input_size": any(affinity.grid is not None for affinity in affinities(self))}
        self.num_features = cfg.embed_dims[-1]
        self.norm: nn.Module = nn.BatchNorm2d(self.num_features)
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.head_hidden_size = self.head.num_features
        start_classifier(self.head)
        self.register_load_state_dict_pre_hook(accept_other_names)
        self.feature_info = cfg.feature_info()
        warn_off_stride(self.img_size, self.feature_info[-1]["reduction"])

    def no_weight_decay(self) -> set[str]:
        """Learnt positions; gates, norms and biases have one dimension and are left out by timm's rule."""
        return {name for name, _ in self.named_parameters() if name.endswith("position.embedding")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        blocks: Any = r"^stages\.(\d+)"
        if not coarse:
            blocks = [
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^stages\.(\d+)\.(?:embedding|position)", (0,)),
                (r"^norm", (99999,)),
            ]
        return {"stem": r"^stages\.0\.embedding", "blocks": blocks}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, in_features=self.num_features)
        self.head_hidden_size = self.head.num_features
        start_classifier(self.head)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resize what was learnt for one grid, static affinities and positions, to the grids of another image size."""
        check_values(type(self).__name__, {"img_size": img_size})
        self.img_size = to_2tuple(img_size)
        for stage, grid in zip(self.stages, self.config.grids(self.img_size), strict=False):
            stage.resize(grid)  # type: ignore[operator]
        update_model_input_size(self, self.img_size)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> the normalised last map (B, C, H/32, W/32), rounded up."""
        if not torch.jit.is_scripting():
            check_images(x, self.in_chans, least_size(self))
        for stage in self.stages:
            x = stage(x)
        return self._normalized(x)

    def _normalized(self, x: Tensor) -> Tensor:
        # torch.func.vmap has wrong gradients of a norm of channels_last maps before pooling; the copy is small.
        return self.norm(x.contiguous())

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooling, dropout and classifier; pooled features with `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))
