"""What is A? Each affinity gives rows of A on request, and A V without forming A."""

from contagg.affinity.attention import SelfAttention
from contagg.affinity.base import Affinity, Grid, Site
from contagg.affinity.depthwise_conv import DepthwiseConv
from contagg.affinity.mixture import Mixture
from contagg.affinity.registry import build_affinity, list_affinities, register_affinity
from contagg.affinity.token_mlp import TokenMLP

__all__ = [
    "Affinity",
    "DepthwiseConv",
    "Grid",
    "Mixture",
    "SelfAttention",
    "Site",
    "TokenMLP",
    "build_affinity",
    "list_affinities",
    "register_affinity",
]
