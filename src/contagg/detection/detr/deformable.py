"""Deformable DETR of one level (Zhu et al., 2021): transformers' layers, begun and dropped out as in the original.

The library's model is given the map instead of images: its way of taking backbones replaces their BatchNorms.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DeformableDetrConfig, DeformableDetrModel, TimmBackboneConfig

from contagg.detection.detr.config import SetConfig
from contagg.errors import UserError

GROUPS = 32


class DeformableCore(nn.Module):
    """From the backbone's map to what the queries answer, see `contagg.detection.detr.network.Answers`."""

    def __init__(self, channels: int, config: SetConfig) -> None:
        super().__init__()
        if config.width % GROUPS:
            raise UserError(f"model.detr.width {config.width} must be a multiple of {GROUPS} for Deformable DETR")
        self.projection = nn.Conv2d(channels, config.width, 1)
        self.norm = nn.GroupNorm(GROUPS, config.width)
        self.model = _library(config)
        self._start()

    def forward(self, features: Tensor, mask: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """As `AttendingCore.forward`."""
        features = group_norm_masked(self.projection(features), mask, self.norm)
        found = self.model(pixel_values=features, pixel_mask=mask)
        return found.intermediate_hidden_states.transpose(0, 1), found.init_reference_points.logit(1e-5)

    def _start(self) -> None:
        """The original's initial weights; the library's own are right for what is left out here."""
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.model.query_position_embeddings.weight)
        for layer in (*self.model.encoder.layers, *self.model.decoder.layers):
            for linear in (layer.mlp.fc1, layer.mlp.fc2):
                linear.reset_parameters()  # for the bias
                nn.init.xavier_uniform_(linear.weight)
        attention: Any
        for attention in (layer.self_attn for layer in self.model.decoder.layers):
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
                nn.init.xavier_uniform_(linear.weight, gain=0.5**0.5)  # as one matrix of three times the rows
                nn.init.zeros_(linear.bias)
            nn.init.xavier_uniform_(attention.o_proj.weight)
            nn.init.zeros_(attention.o_proj.bias)


class _Given(nn.Module):
    """Stands in the place of the library's backbone: what it is given is the map."""

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The map and where it holds something."""
        return [(pixel_values, pixel_mask)]


def _library(config: SetConfig) -> DeformableDetrModel:
    stand_in: Any = {"backbone": "container_light_tiny", "out_indices": [3]}  # it must have one; replaced below
    model = DeformableDetrModel(
        DeformableDetrConfig(
            backbone_config=TimmBackboneConfig(**stand_in),
            num_feature_levels=1,
            num_queries=config.queries,
            d_model=config.width,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.heads,
            decoder_attention_heads=config.heads,
            encoder_ffn_dim=config.feedforward,
            decoder_ffn_dim=config.feedforward,
            encoder_n_points=config.points,
            decoder_n_points=config.points,
            dropout=config.dropout,
            attention_dropout=config.dropout,
            activation_dropout=config.dropout,
        )
    )
    model.backbone = _Given()  # type: ignore[assignment]
    model.input_proj = nn.ModuleList([nn.Identity()])
    model.encoder.dropout = 0.0  # the library would also drop from the map itself
    return model


def start_boxes(last: nn.Linear) -> None:
    """Let the box head's last layer begin with boxes at their reference points, with sides of 0.12 of the image."""
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    nn.init.constant_(last.bias[2:], -2.0)


def group_norm_masked(features: Tensor, mask: Tensor, norm: nn.GroupNorm) -> Tensor:
    """GroupNorm of a map (B, D, h, w) whose statistics are those of its mask (B, h, w), as if an image were alone."""
    if not torch.compiler.is_exporting() and mask.all():  # which a graph could not ask
        return norm(features)
    counted = mask.to(features.dtype)[:, None, None]
    grouped = features.unflatten(1, (norm.num_groups, -1))
    number = counted.sum((2, 3, 4), keepdim=True) * grouped.shape[2]
    mean = (grouped * counted).sum((2, 3, 4), keepdim=True) / number
    variance = ((grouped - mean).square() * counted).sum((2, 3, 4), keepdim=True) / number
    normed = ((grouped - mean) / (variance + norm.eps).sqrt()).flatten(1, 2)
    return normed * norm.weight[:, None, None] + norm.bias[:, None, None]
