"""The released network: its names, and its answers in float64 stage by stage."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from released_names import to_released

import contagg
from contagg.nn.released import from_released

GOLDEN = Path(__file__).parent.parent / "golden"


def drawn(name: str, shape: list[int]) -> np.ndarray:
    """The rule of `golden/README.md` for a tensor of that name."""
    draw = np.random.RandomState(zlib.crc32(name.encode()) % 2**32).standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if name.endswith("running_var"):
        return np.exp(0.2 * draw)
    if name.endswith("sa_weight"):
        return 0.5 * draw
    if len(shape) >= 2:
        return draw / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * draw if name.endswith("weight") else 0.1 * draw


@pytest.fixture(scope="module")
def released() -> dict[str, torch.Tensor]:
    keys = json.loads((GOLDEN / "container_v1_light.keys.json").read_text())
    return {name: torch.tensor(drawn(name, shape)) for name, shape in dict(keys).items()}


@pytest.fixture(scope="module")
def model(released: dict[str, torch.Tensor]) -> torch.nn.Module:
    model = contagg.create("container_v1_light").double().eval()
    model.load_state_dict(from_released(released))
    return model


def relative(got: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(got.numpy() - expected).max() / np.abs(expected).max())


def test_answers_equal_the_released_networks(model: torch.nn.Module) -> None:
    golden = np.load(GOLDEN / "container_v1_light.npz")
    images = torch.tensor(np.random.RandomState(1).standard_normal((2, 3, 224, 224)))
    with torch.no_grad():
        final, maps = model.forward_intermediates(images)
        assert relative(model.forward_head(final), golden["logits"]) < 1e-12
    for index, stage in enumerate(maps, start=1):
        assert relative(stage[0, :8, :4, :4], golden[f"stage{index}"]) < 1e-12
        assert relative(stage.mean((2, 3)), golden[f"stage{index}_mean"]) < 1e-12


def test_names_map_there_and_back(model: torch.nn.Module, released: dict[str, torch.Tensor]) -> None:
    back = to_released(model.state_dict())
    assert set(back) == set(released)
    for name, tensor in released.items():
        assert torch.equal(back[name].to(tensor.dtype), tensor), name
    assert sum(p.numel() for p in model.parameters()) == 20_633_643


def test_the_released_file_loads_where_ours_does(released: dict[str, torch.Tensor], model, tmp_path: Path) -> None:
    path = tmp_path / "container_v1_light.pth"
    torch.save({"model": {name: tensor.float() for name, tensor in released.items()}}, path)
    loaded = timm.create_model("container_v1_light", checkpoint_path=str(path)).double().eval()
    # As released it serves 224 pixels only; this one serves any size.
    images = torch.randn(1, 3, 96, 161, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images), rtol=1e-4, atol=1e-4)
