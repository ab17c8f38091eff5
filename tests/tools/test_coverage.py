"""The command that tells in which networks layers are shown."""

import pytest
import timm
import torch
from torch import nn

from contagg.errors import UserError
from tools.coverage import TIMM, cover, line, networks, table


def small(name: str, **options: object) -> tuple[nn.Module, int]:
    return timm.create_model(name, img_size=32, **options), 32


def test_a_line_says_what_is_shown_and_how_exactly() -> None:
    found = cover("vit", lambda: small("vit_tiny_patch16_224", depth=2))
    assert [layer.name for layer in found.recording.layers] == ["blocks.0.attn", "blocks.1.attn"]
    assert 0 < max(found.errors) < 1e-5
    assert line(found).startswith("| vit | 2 | 2 Scores | ") and line(found).endswith(" |  |")


def test_what_is_not_shown_has_its_reason() -> None:
    found = cover("lstm", lambda: (nn.Sequential(nn.Conv2d(3, 4, 3, 3), nn.Flatten(2), nn.LSTM(4, 4)), 8))
    assert "a recurrent network (LSTM)" in line(found) and "| 0 | none | - | - |" in line(found)


def test_a_wrong_matrix_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of another scale are seen in the difference."""
    import contagg.inspect.attentions as attentions

    right = attentions.scores
    monkeypatch.setattr(
        attentions, "scores", lambda where, q, k, s, *rest, **more: right(where, q, k, 2 * s, *rest, **more)
    )
    torch.manual_seed(0)
    assert max(cover("vit", lambda: small("vit_tiny_patch16_224", depth=1)).errors) > 1e-3


def test_names() -> None:
    assert len(set(TIMM)) == 49 and len(networks()) == 59
    with pytest.raises(UserError, match="'vit' is none of"):
        list(table(["vit"]))


@pytest.mark.slow
def test_48_of_49_families_and_all_of_the_other_libraries() -> None:
    for name, make in networks().items():
        found = cover(name, make)
        assert bool(found.recording.layers) == (name != "sequencer2d_s"), name
        assert max(found.errors) < 1e-5, name
