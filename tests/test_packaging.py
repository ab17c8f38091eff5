"""What a wheel holds is enough for the quickstart, from any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel's content, unpacked as pip does."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "target"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for path in source.rglob("*"):
        path.chmod(path.stat().st_mode | 0o200)  # also where the checkout is read-only
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    [wheel] = wheels.glob("contagg-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_the_quickstart_starts_elsewhere(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    words = [sys.executable, "-m", "contagg", "fit", "-c", "digits", "--print_config"]
    run = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "name: digits" in run.stdout and "container_light_tiny" in run.stdout, run.stderr
    where = "import contagg.errors; print(contagg.errors.__file__)"
    run = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stdout.startswith(str(installed))


def test_types_are_there_and_tools_are_not(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names == {"contagg", "contagg_cli.py"}
    assert (installed / "contagg" / "py.typed").is_file()


def test_any_folders_of_tests_run_together(tmp_path: Path) -> None:
    """Each with its conftest.py; all of them at once were collected, two named on the command line were not."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "conftest.py").touch()
        (tmp_path / name / f"test_{name}.py").write_text("def test_nothing() -> None: ...")
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    done = subprocess.run([*command, "one", "two"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout
