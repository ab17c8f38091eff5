"""Context aggregation networks. Importing this package registers its models with timm."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contagg.affinity import list_affinities, register_affinity
    from contagg.explorer.exploring import explore
    from contagg.models import create
    from contagg.nn.fuse import fuse

_PUBLIC = {
    "create": "contagg.models",
    "explore": "contagg.explorer.exploring",
    "fuse": "contagg.nn.fuse",
    "list_affinities": "contagg.affinity",
    "register_affinity": "contagg.affinity",
}

__all__ = ["create", "explore", "fuse", "list_affinities", "register_affinity"]


def __getattr__(name: str) -> Any:
    import importlib
    import importlib.metadata

    if name == "__version__":
        return importlib.metadata.version("contagg")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'contagg' has no attribute {name!r}")


def _is_command() -> bool:
    """Whether the command line is starting, as `contagg` or as `python -m contagg`.

    It checks a recipe before it pays for torch and timm, and imports the models itself afterwards.
    """
    by_module = sys.argv[:1] == ["-m"] and not {"contagg", "-mcontagg"}.isdisjoint(sys.orig_argv)
    return "contagg_cli" in sys.modules or by_module


if not _is_command():
    import contagg.models  # noqa: F401
