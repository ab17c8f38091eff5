"""Other rules' scores, in cases with a known answer."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import contagg
from contagg.cli import main as command
from contagg.errors import UserError
from contagg.placement.places import find_places
from tools.rivals import alpha_share, change, main, sharpness


def test_alpha_is_the_dynamic_parts_share() -> None:
    network = contagg.create("container_tiny", affinity="attention + dwconv3", num_classes=2)
    place = find_places(network)[0]
    for affinity, weight in place.mixture(network).terms():
        weight.data.fill_(-3.0 if affinity.dynamic else 1.0)
    assert alpha_share(place, network) == pytest.approx(0.75)


def test_attention_to_all_alike_is_not_sharp() -> None:
    attention = contagg.create("container_tiny", affinity="attention").stages[0].blocks[0].aggregation.affinity
    tokens = torch.randn(2, 15, 32)
    for projection in attention.projections():
        nn.init.zeros_(projection.weight)
    assert sharpness(attention, tokens, (3, 5)) == pytest.approx(0, abs=1e-6)

    class Ends:
        """Half of its weight on the first token, half on the last, with a sign."""

        def rows(self, tokens: torch.Tensor, grid: object, positions: torch.Tensor) -> torch.Tensor:
            rows = torch.zeros(1, 1, len(positions), tokens.shape[1])
            rows[..., 0], rows[..., -1] = 0.5, -0.5
            return rows

    assert sharpness(Ends(), tokens, (3, 5)) == pytest.approx(1 - math.log(2) / math.log(15), rel=1e-5)


def test_what_turns_tokens_changes_them() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    assert change(tokens, tokens) == pytest.approx(0)
    assert change(tokens, torch.tensor([[[-1.0, 1.0], [2.0, -2.0]]])) == pytest.approx(1)


def test_a_trained_run_gets_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = tmp_path / "run", tmp_path / "rivals.json"
    keys = ["--model.options.affinity", "attention + dwconv3", "--model.options.embed_dims", "[32, 32, 32, 32]"]
    keys += [
        "--model.options.depths",
        "[1, 1, 1, 1]",
        "--optimization.epochs",
        "1",
        "--optimization.warmup_epochs",
        "0",
        "--model.name",
        "container_tiny",
    ]
    command(["fit", "-c", "digits", *keys, "--run.folder", str(run), "--run.seed", "7"])
    main([str(file), str(run)])
    main([str(file), str(run)])
    [row] = json.loads(file.read_text())
    assert row["seed"] == 7 and set(row["scores"]) == {"alpha", "entropy", "cosine", "importance"}
    for rule, scores in row["scores"].items():
        assert list(scores) == ["1.1", "2.1", "3.1", "4.1"]
        assert all(math.isfinite(score) and (rule == "importance" or 0 < score < 1) for score in scores.values())
    assert "importance" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"no run folder of contagg fit"):
        main([str(file), str(tmp_path)])
