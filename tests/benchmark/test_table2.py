import re
from argparse import Namespace
from pathlib import Path

import pytest

from contagg.benchmark.table2 import ROWS, Row, counted, counts, table
from contagg.errors import UserError
from contagg.models import CONFIGS

PAGE = Path(__file__).parents[2] / "docs" / "which-network.md"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model)
def test_counts_are_the_papers(row: Row) -> None:
    parameters, cost = counted(row)
    assert parameters == pytest.approx(row.parameters, rel=0.005)
    if row.multiply_adds is not None:
        assert cost == pytest.approx(row.multiply_adds, rel=0.03)


def test_the_table_has_a_line_a_row() -> None:
    lines = table().splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert "CONTAINER-LIGHT" in lines[-1] and "20.008" in lines[-1]


def test_the_page_s_table_of_arrangements_is_what_the_command_counts(capsys: pytest.CaptureFixture[str]) -> None:
    rows = re.findall(r"^\| `(\w+_like)` \|(.+?)\|.*\| ([\d.]+)M \| ([\d.]+) G \|$", PAGE.read_text(), re.MULTILINE)
    assert [name for name, *_ in rows] == [name for name in CONFIGS if name.endswith("_like")]
    counts(Namespace(models=[name for name, *_ in rows], size=(224, 224)))
    counted = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert counted == [[name, parameters, cost] for name, _, parameters, cost in rows]
    for name, words, *_ in rows:
        used = {word for stage in CONFIGS[name].blocks for word in stage}
        assert set(re.findall(r"`([^`]+)`", words)) == used, name


def test_counts_of_another_size_and_of_one_that_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    counts(Namespace(models=["vit_tiny_patch16_224", "container_light_tiny"], size=(32, 64)))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "vit_tiny_patch16_224",
        "container_light_tiny",
    ]
    with pytest.raises(UserError, match=r"mixer_s16_224, images of \(32, 64\): Input height \(32\) doesn't match"):
        counts(Namespace(models=["mixer_s16_224"], size=(32, 64)))
