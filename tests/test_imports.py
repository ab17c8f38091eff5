"""Imports point one way, and a command line that only checks a recipe does not pay for torch."""

import ast
import subprocess
import sys
from pathlib import Path

import contagg

ROOT = Path(contagg.__file__).parent
ORDER = (
    ("errors",),
    ("names",),
    ("files", "output", "yaml_file", "config", "device"),
    ("figures",),
    ("affinity",),
    ("nn",),
    ("models",),
    ("checkpoints",),
    ("arguments",),
    ("data", "tasks"),
    ("benchmark", "inspect"),
    ("explorer", "training", "export"),
    ("classification", "detection", "self_supervised", "testing"),
    ("lab", "placement"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def imported(path: Path) -> set[str]:
    """The parts of contagg that a file imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module] if node.module != "contagg" else [f"contagg.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        names |= {module.split(".")[1] for module in modules if module.startswith("contagg.")}
    return names


def test_imports_point_one_way() -> None:
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        assert part in LEVEL, f"{path}: give {part!r} a place in the order"
        for other in imported(path):
            if other != part:
                assert LEVEL[other] < LEVEL[part], f"{path} imports {other}, which is not below {part}"


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, contagg_cli, contagg.cli; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
