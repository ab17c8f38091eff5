"""The documentation builds without a warning: its links lead somewhere, and each module of the reference is there."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def build(site: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    """--quiet would hide warnings from --strict."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    built = build(tmp_path / "site")
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "index.html").is_file()


def test_a_link_that_leads_nowhere_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nowhere](nowhere.md)")
    settings = (ROOT / "mkdocs.yml").read_text().split("plugins:")[0]
    (tmp_path / "mkdocs.yml").write_text(settings.replace("docs_dir: docs", f"docs_dir: {tmp_path / 'docs'}"))
    built = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert built.returncode == 1 and "nowhere.md" in built.stderr


def test_every_page_is_in_the_navigation_and_nothing_is_fetched() -> None:
    content = (ROOT / "mkdocs.yml").read_text()
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert pages == set(re.findall(r"[\w/-]+\.md", content.split("nav:")[1]))
    assert yaml.safe_load(content)["theme"]["font"] is False


def test_every_file_that_a_page_names_is_there() -> None:
    """What a run or a person writes is not: those are named here."""
    written = {
        "my_mixers.py",
        "pyproject.toml",
        "runs.json",
        "metrics.csv",
        "recipe.yaml",
        "config.json",
        "._x.png",
        "teacher.png",
        "last.safetensors",
        "NAME.py",
        "data.yaml",
        "images.json",
    }
    written |= {"placement.csv", "placement.json", "placement.png", "placed.yaml"}
    below = ("", "src", "src/contagg", "docs", "tests")
    files = {
        path.name for folder in ("src", "tests", "docs", "tools", "recipes") for path in (ROOT / folder).rglob("*.*")
    }
    named = 0
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for word in re.findall(r"`([\w./-]+\.(?:py|md|yaml|yml|csv|json|png|toml))(?:::\w+)?`", page.read_text()):
            named += 1
            here = any((ROOT / folder / word).exists() for folder in below) if "/" in word else word in files
            assert here or Path(word).name in written, f"{page.name} names {word}, which is not there"
    assert named > 100


def test_each_table_of_a_folder_names_its_files() -> None:
    """A page's table "file in `FOLDER`" names what lies there, or a path from the package on."""
    tables = 0
    for page in sorted((ROOT / "docs").glob("*.md")):
        for folder, rows in re.findall(r"\| file in `([\w/]+)` \|.*\n\|[-|]+\n((?:\|.*\n)+)", page.read_text()):
            tables += 1
            for word in re.findall(r"`([\w/]+\.py)`", "\n".join(row.split("|")[1] for row in rows.splitlines())):
                place = ROOT / "src" / "contagg" if "/" in word else ROOT / folder
                assert (place / word).is_file(), f"{page.name}: {word} does not lie in {folder}"
    assert tables


def promised_tests() -> list[tuple[str, str]]:
    """(file, test) of each that docs/reliability.md names; a test without a file is in the row's file before it."""
    found = []
    for line in (ROOT / "docs" / "reliability.md").read_text().splitlines():
        file = ""
        for named, test in re.findall(r"`(?:([\w/]*test_\w+\.py)(?:::)?)?(test_\w+)?`", line):
            file = named or file
            if file or test:
                found.append((file, test))
    return found


def test_each_promise_names_a_test_that_is_there() -> None:
    promised = promised_tests()
    assert len(promised) > 30
    for file, test in promised:
        assert file, f"{test} has no file before it"
        paths = [path for path in (ROOT / "tests").rglob(Path(file).name) if str(path).endswith("/" + file)]
        assert len(paths) == 1, f"{file} is {[str(path) for path in paths]}"
        names = {node.name for node in ast.walk(ast.parse(paths[0].read_text())) if isinstance(node, ast.FunctionDef)}
        assert any(name.startswith("test_") for name in names), f"{file} tests nothing"
        assert not test or test in names, f"{file} has no {test}"


def test_each_promise_is_held_by_a_test() -> None:
    promises = (ROOT / "docs" / "reliability.md").read_text().partition("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][1:]
    assert rows and [row for row in rows if not re.search(r"test_\w+\.py", row)] == []
