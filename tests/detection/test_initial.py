"""A detector's backbone begins from the released file."""

from pathlib import Path

import pytest
import torch

import contagg
from contagg.detection.backbone import Features
from contagg.detection.initial import load_backbone
from contagg.errors import UserError
from contagg.nn.released import to_released


def test_the_released_file_is_loaded_and_what_it_lacks_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = contagg.create("container_v1_light").eval()
    path = tmp_path / "released.pth"
    torch.save({"model": to_released(network.state_dict())}, path)
    features = Features("container_v1_light", [4, 8, 16, 32], frozen=True).eval()
    said = load_backbone(features, str(path))
    wanted = len(features.body.state_dict())
    assert said.startswith(
        f"backbone: {wanted} of {wanted} tensors loaded from {path}; not in the file: none; not used:"
    )
    assert "head.fc.weight" in said
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network.forward_intermediates(images, intermediates_only=True)
        for got, its in zip(features(images), expected, strict=True):
            torch.testing.assert_close(got, its)
    with pytest.raises(
        UserError, match=r"model\.init_weights .*released\.pth: .* is \(.*\) there and \(.*\) in the backbone"
    ):
        load_backbone(Features("container_text", [4, 8, 16, 32], frozen=True), str(path))
