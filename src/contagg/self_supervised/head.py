"""DINO's projection head. Names of parameters are the original's, so that its checkpoints load.

Shapes: B samples, D features of the backbone, H hidden, P bottleneck, K outputs.
"""

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn


class NormalizedLinear(nn.Module):
    """A linear layer without bias whose K rows have unit length times a gain: (B, P) -> (B, K).

    The gain `weight_g` stays at 1 unless `learn_gain`; DINO's teacher and, by default, its student never learn it.
    """

    def __init__(self, in_features: int, out_features: int, learn_gain: bool = False) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1), requires_grad=learn_gain)
        self.weight_v = nn.Parameter(nn.Linear(in_features, out_features, bias=False).weight.detach())

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight_g * F.normalize(self.weight_v, dim=1))


class DinoHead(nn.Module):
    """Three linear layers with GELU, L2 normalization, and a layer of prototypes: (B, D) -> (B, K).

    Args:
        in_features: D.
        outputs: K.
        hidden: H.
        bottleneck: P.
    """

    def __init__(self, in_features: int, outputs: int = 65536, hidden: int = 2048, bottleneck: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_features, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = NormalizedLinear(bottleneck, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(features), dim=-1))
