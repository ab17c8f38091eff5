"""What is A? Each affinity gives rows of A on request, and A V without forming A."""

from contagg.affinity.attention import SelfAttention
from contagg.affinity.base import Affinity, Grid
from contagg.affinity.convolution import Convolution
from contagg.affinity.mixture import Mixture
from contagg.affinity.mlp import MLP
from contagg.affinity.words import Site, build_affinity

__all__ = ["MLP", "Affinity", "Convolution", "Grid", "Mixture", "SelfAttention", "Site", "build_affinity"]
