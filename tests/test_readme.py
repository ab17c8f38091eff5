"""What the README shows works as written."""

import re
from pathlib import Path

import pytest

from contagg.cli import commands, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_block_runs() -> None:
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], names)
    assert names["logits"].shape == (1, 10)
    assert [tuple(m.shape[2:]) for m in names["maps"]] == [(120, 160), (60, 80), (30, 40), (15, 20)]


def test_every_command_is_shown() -> None:
    section = README.split("## The command line")[1]
    shown = re.findall(r"^contagg ([a-z][\w-]*(?: [a-z][\w-]*)?)", section, re.MULTILINE)
    assert set(shown) == {"fit", *commands()}


def test_the_packaged_weights_say_of_the_photographs_what_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    shown = README.split("$ contagg predict container_light_tiny.caltech101 docs/pictures/photo_*.jpg\n")[1].split(
        "```"
    )[0]
    main(["predict", "container_light_tiny.caltech101", *sorted(map(str, Path("docs/pictures").glob("photo_*.jpg")))])
    assert capsys.readouterr().out == shown


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.yaml"), ROOT / "Makefile"]
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"(?:^|`|bin/|; |  )contagg ([a-z][\w-]*)(?: ([\w-]+))?", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_pages_are_commands(page: Path) -> None:
    """Where code says `contagg` and a word, the word, or it and the next, name a command."""
    text = page.read_text()
    code = "\n".join(CODE.findall(text)) if page.suffix == ".md" else text
    known = {"fit", *commands()}
    below = {name.split()[0] for name in known if " " in name}
    for first, second in CALL.findall(code):
        wanted = f"{first} {second}" if first in below and second else first
        assert wanted in known | below | {"COMMAND"}, f"{page.name}: contagg {first} {second}"
