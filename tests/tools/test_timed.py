"""Arguments and files that timing tools share."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from tools.timed import read_arguments, write_rows


@dataclass
class Row:
    word: str
    seconds: float


def test_threads_are_taken_and_both_files_hold_the_rows(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        words = [str(tmp_path), "--threads", "1", "--forms", "b"]
        given = read_arguments(words, "what it does", rounds=7, forms=["a", "b"], precisions=["fp32"])
        assert (given.folder, given.rounds, torch.get_num_threads()) == (tmp_path, 7, 1)
        assert (given.forms, given.precisions) == (["b"], ["fp32"])
    finally:
        torch.set_num_threads(before)
    write_rows(given.folder, "toy", [Row("a", 0.5)], {"rounds": given.rounds, "command": "pytest"})
    assert (tmp_path / "toy.csv").read_text().split() == ["word,seconds", "a,0.5"]
    content = json.loads((tmp_path / "toy.json").read_text())
    assert content == {"command": "python -m tools.toy", "rounds": 7, "rows": [{"word": "a", "seconds": 0.5}]}
