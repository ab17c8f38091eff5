"""The explorer's page of a detector: its queries' cross-attention and prior, the surest first."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_cross_attention import model, saved

from contagg.cli import main
from contagg.detection.detr.cross_attention import cross_attention
from contagg.detection.detr.explored import explored_queries
from contagg.errors import UserError


def test_a_query_s_row_is_its_cross_attention() -> None:
    detector, image = model("smca_detr"), torch.rand(3, 61, 83)
    explored = explored_queries(detector, image, ["cup", "hat", "shoe"], "a detector")
    surest = int(cross_attention(detector, image).probabilities.amax(1).argmax())
    for number, layer in enumerate(explored.recording.layers, start=1):
        found = cross_attention(detector, image, number)
        assert layer.grid == (8, 11) and len(layer.targets) == 5
        assert layer.targets[0].startswith(f"{surest + 1}: ")
        row = layer.mixed.rows(torch.tensor([0]))[:, 0]
        torch.testing.assert_close(row, found.attention[:, surest].flatten(1))
        (prior,) = layer.beside
        assert found.prior is not None
        torch.testing.assert_close(prior.form.rows(torch.tensor([0]))[:, 0], found.prior[:, surest].flatten(1))
    assert explored.recording.unshown and all(0 < each.entropy <= 1 for each in explored.measures)
    assert not explored_queries(model("detr"), image, ["cup", "hat", "shoe"], "a").recording.layers[0].beside


def test_the_command_takes_a_detector_s_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, picture, out = saved("smca_detr", tmp_path / "a.safetensors"), tmp_path / "a.png", tmp_path / "page.html"
    Image.new("RGB", (83, 61), "teal").save(picture)
    main(["inspect", "explore", weights, str(picture), "-o", str(out), "--json", str(tmp_path / "a.json")])
    assert "2 layers, 1 cannot be shown" in capsys.readouterr().out
    page = out.read_text(encoding="utf-8")
    assert "decoder layer 2" in page and any(name in page for name in (": cup ", ": hat ", ": shoe "))
    (numbers,) = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert numbers["model"] == "a.safetensors"  # a page is handed on, and a path tells of its maker's folders
    assert numbers["layers"][1]["distance"] is None and 0 < numbers["layers"][1]["entropy"] <= 1


def test_detectors_without_such_queries_are_named() -> None:
    with pytest.raises(UserError, match="detr and smca_detr alone"):
        explored_queries(model("deformable_detr"), torch.rand(3, 64, 64), ["cup"], "a detector")
