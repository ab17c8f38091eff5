"""The network of Sec. 3.4: four stages of blocks, with timm's interface."""

from typing import Any

from timm.layers import ClassifierHead, to_2tuple
from timm.models._features import feature_take_indices
from timm.models._input import update_model_input_size
from torch import Tensor, nn

from contagg.errors import UserError
from contagg.nn.checkpoint_filter import accept_other_names, checkpoint_filter_fn
from contagg.nn.stages import STAGES, NetworkConfig, build_stages


def start_classifier(head: ClassifierHead) -> None:
    """The released network's start: a truncated normal of 0.02 for linear layers (its projections are convolutions)."""
    if isinstance(head.fc, nn.Linear):
        nn.init.trunc_normal_(head.fc.weight, std=0.02)
        nn.init.zeros_(head.fc.bias)


def check_images(images: Tensor, channels: int) -> None:
    """Raise UserError unless images are (B, channels, H, W)."""
    if images.ndim != 4 or images.shape[1] != channels:
        raise UserError(
            f"images of shape {tuple(images.shape)} given, (batch, {channels}, height, width) expected; "
            "pass `in_chans` when creating the model for another number of channels"
        )


class Container(nn.Module):
    """A context aggregation network with timm's interface.

    Args:
        cfg: what it is made of.
        img_size: the image that learnt positions and static N x N affinities are made for; others serve any size.

    Raises:
        UserError: an image with other than `in_chans` channels, or a grid that a static affinity cannot serve.
    """

    checkpoint_filter_fn = staticmethod(checkpoint_filter_fn)

    def __init__(
        self,
        cfg: NetworkConfig,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = cfg
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.img_size = to_2tuple(img_size)
        self.stages = nn.ModuleList(build_stages(cfg, in_chans, self.img_size, drop_path_rate))
        self.num_features = self.head_hidden_size = cfg.embed_dims[-1]
        self.norm: nn.Module = nn.BatchNorm2d(self.num_features)
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        start_classifier(self.head)
        self.register_load_state_dict_pre_hook(accept_other_names)
        self.feature_info = cfg.feature_info()

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
        self.head.reset(num_classes, global_pool)
        start_classifier(self.head)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resize what was learnt for one grid, static affinities and positions, to the grids of another image size."""
        self.img_size = to_2tuple(img_size)
        for stage, grid in zip(self.stages, self.config.grids(self.img_size), strict=False):
            stage.resize(grid)  # type: ignore[operator]
        update_model_input_size(self, self.img_size)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        mask: Tensor | None = None,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps after the chosen stages, as timm's networks give them; `norm` normalises the last stage's.

        `mask` (B, H, W) is true where a batch holds an image and not its padding, zeros below and right of it. The
        maps are then those of each image alone, and zeros (before `norm`) in its padding.
        """
        if output_fmt != "NCHW":
            raise UserError(f"output_fmt {output_fmt!r}: these networks give 'NCHW' maps")
        check_images(x, self.in_chans)
        take, last = feature_take_indices(len(self.stages), indices)
        maps = []
        for stage in self.stages[: last + 1] if stop_early else self.stages:
            x = stage(x, mask)
            mask = mask if mask is None else stage.embedding.mask(mask)  # type: ignore[union-attr, operator]
            maps.append(x)
        final = self.norm(x) if len(maps) == STAGES else x
        if norm:
            maps[-1] = final
        intermediates = [maps[index] for index in take]
        return intermediates if intermediates_only else (final, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the chosen stages do not need; returns their indices."""
        take, last = feature_take_indices(len(self.stages), indices)
        self.stages = self.stages[: last + 1]
        pruned = last < STAGES - 1
        if prune_norm or pruned:
            self.norm = nn.Identity()
        if pruned:
            self.num_features = self.head_hidden_size = self.config.embed_dims[last]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> the normalised last map (B, C, H/32, W/32), rounded up."""
        check_images(x, self.in_chans)
        for stage in self.stages:
            x = stage(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooling, dropout and classifier; pooled features with `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))
