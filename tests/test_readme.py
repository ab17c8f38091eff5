"""What the README shows works as written."""

import re
from pathlib import Path

from contagg.cli import commands

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_python_block_runs() -> None:
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], names)
    assert names["logits"].shape == (1, 10)
    assert [tuple(m.shape[2:]) for m in names["maps"]] == [(120, 160), (60, 80), (30, 40), (15, 20)]


def test_every_command_is_shown() -> None:
    shown = re.findall(r"^contagg ([a-z][\w-]*(?: [a-z][\w-]*)?)", README, re.MULTILINE)
    assert set(shown) == {"fit", *commands()}
