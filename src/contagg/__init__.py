"""Context aggregation networks. Importing this package registers its models with timm."""

import sys

# The command line checks a recipe before it pays for torch and timm, and imports the models itself afterwards.
if "contagg_cli" not in sys.modules:
    from contagg.models import create
    from contagg.nn.fuse import fuse

    __all__ = ["create", "fuse"]
