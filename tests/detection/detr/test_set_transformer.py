"""DETR's and SMCA's transformer: the originals' answers in float64, and one against the other."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from contagg.detection.detr.positions import sine_positions
from contagg.detection.detr.prior import GaussianPrior
from contagg.detection.detr.transformer import DecoderLayer, EncoderLayer, SetTransformer

GOLDEN = Path(__file__).parents[2] / "golden"
OURS = {"norm4": "prior.norm", "point2": "prior.shift", "point3": "prior.scale"}


def named(original: str) -> str:
    """Our name of an original's tensor."""
    if "point1" in original:
        number = 2 * int(original.split(".")[-2])
        return f"decoder.centre.{number}.{original.split('.')[-1]}"
    for theirs, ours in OURS.items():
        original = original.replace(theirs, ours)
    return original


def drawn(name: str, shape: list[int]) -> torch.Tensor:
    draw = np.random.RandomState(zlib.crc32(name.encode()) % 2**32).standard_normal(shape)
    if len(shape) >= 2:
        return torch.tensor(draw / np.sqrt(np.prod(shape[1:])))
    return torch.tensor(1 + 0.1 * draw if name.endswith("weight") else 0.1 * draw)


def golden_model(name: str) -> SetTransformer:
    model = SetTransformer(256, 8, 1, 3, 128, 0.1, prior=name == "smca").double().eval()
    keys = json.loads((GOLDEN / f"{name}_transformer.keys.json").read_text())
    model.load_state_dict({named(key): drawn(key, shape) for key, shape in keys})
    return model


def golden_inputs() -> dict[str, torch.Tensor]:
    draw = lambda seed, shape: torch.tensor(np.random.RandomState(seed).standard_normal(shape))  # noqa: E731
    mask = torch.ones(2, 5, 7, dtype=torch.bool)
    mask[1, 4:], mask[1, :, 5:] = False, False
    return {
        "features": draw(1, (2, 256, 5, 7)),
        "positions": draw(2, (2, 256, 5, 7)),
        "mask": mask,
        "queries": draw(3, (11, 256)),
        "sizes": torch.tensor([[224, 160], [160, 128]]).double() / 32,
    }


def relative(got: torch.Tensor, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    return float(np.abs(got.numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", ["detr", "smca"])
def test_answers_equal_the_originals(name: str) -> None:
    golden = np.load(GOLDEN / f"{name}_transformer.npz")
    with torch.no_grad():
        hidden, centres = golden_model(name)(**golden_inputs())
    assert relative(hidden[..., :16], golden["hidden"]) < 1e-8
    assert relative(hidden.mean(-1), golden["hidden_mean"]) < 1e-8
    if name == "smca":
        assert centres is not None and relative(centres, golden["points"]) < 1e-8
    else:
        assert centres is None


def test_without_prior_and_centre_smca_is_detr_to_the_bit() -> None:
    smca, detr = golden_model("smca"), golden_model("detr")
    smca.decoder.centre = None
    for layer in smca.decoder.layers:
        layer.prior = None
    assert smca.load_state_dict(detr.state_dict())
    with torch.no_grad():
        first, second = smca(**golden_inputs()), detr(**golden_inputs())
    assert torch.equal(first[0], second[0]) and first[1] is None


class Large(TorchDispatchMode):
    """Counts the storages that have `size` elements or more."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.kept = size, {}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= self.size:
                self.kept[tensor.untyped_storage()._cdata] = tensor
        return out


def test_the_prior_is_the_formula_and_is_formed_once() -> None:
    torch.manual_seed(0)
    prior = GaussianPrior(12, 3).double()
    normed, centres = torch.randn(2, 5, 12).double(), 6 * torch.rand(2, 5, 2).double()
    mask = torch.ones(2, 7, 11, dtype=torch.bool)
    mask[1, 6:], mask[1, :, 9:] = False, False
    with Large(2 * 3 * 5 * 7 * 11) as large:
        got = prior(normed, centres, mask)
    assert len(large.kept) == 1
    got = got.view(2, 3, 5, 7, 11)
    shift, scale = prior.shift(normed).view(2, 5, 3, 2), prior.scale(normed).view(2, 5, 3, 2) ** 2
    for image, head, query, y, x in [(0, 0, 0, 0, 0), (0, 2, 4, 6, 10), (1, 1, 3, 5, 8), (1, 2, 0, 2, 7)]:
        place, by = centres[image, query] + shift[image, query, head], scale[image, query, head]
        expected = -(by[0] * (place[0] - x) ** 2 + by[1] * (place[1] - y) ** 2) / 8
        torch.testing.assert_close(got[image, head, query, y, x], expected)
    assert got.isinf().sum() == 3 * 5 * (7 * 11 - 6 * 9)
    prior.start()
    assert torch.equal(prior.scale(normed), torch.ones(2, 5, 6).double())


def test_positions_end_where_the_image_ends() -> None:
    mask = torch.ones(2, 5, 7, dtype=torch.bool)
    mask[1, 3:], mask[1, :, 4:] = False, False
    both = sine_positions(mask, 16, torch.float64)
    alone = sine_positions(torch.ones(1, 3, 4, dtype=torch.bool), 16, torch.float64)
    assert both.shape == (2, 16, 5, 7)
    torch.testing.assert_close(both[1:, :, :3, :4], alone)
    # y in the first half of the channels; at wavelength 1 row 2 of 3 is 4 pi / 3 along.
    assert both[1, 0, 1, 0].item() == pytest.approx(np.sin(4 * np.pi / 3), abs=1e-5)
    assert both[1, 9, 0, 0].item() == pytest.approx(np.cos(np.pi / 2), abs=1e-5)


def test_bfloat16_is_finite_and_trains() -> None:
    model = SetTransformer(16, 2, 1, 2, 24, 0.0, prior=True)
    inputs = golden_inputs()
    inputs |= {key: inputs[key][:, :16].float() for key in ("features", "positions", "queries")}
    with torch.autocast("cpu", torch.bfloat16):
        hidden, _ = model(**inputs | {"sizes": inputs["sizes"].float()})
    hidden.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("prior", [False, True])
def test_matrices_begin_as_xavier_has_them(prior: bool) -> None:
    """torch's own start of a linear map is three times as narrow where it widens, and the originals never learnt so."""
    torch.manual_seed(0)
    model = SetTransformer(64, 8, 1, 2, 512, 0.1, prior)
    checked = 0
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or name.endswith("prior.scale.weight"):
            continue
        bound = (6 / sum(weight.shape)) ** 0.5
        assert weight.abs().max() <= bound
        assert weight.numel() < 256 or weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name
        checked += weight.numel() >= 256
    assert checked >= 4 + 2 * 6
    scales = [module.scale.weight for module in model.modules() if isinstance(module, GaussianPrior)]
    assert len(scales) == 2 * prior and not any(weight.any() for weight in scales)


@pytest.mark.parametrize("prior", [False, True])
def test_attention_drops_too(prior: bool) -> None:
    """What is drawn is left to the attention alone: self-attention of the encoder, both of the decoder."""
    torch.manual_seed(0)
    model = SetTransformer(32, 4, 1, 1, 16, 0.5, prior)
    attentions = [module for module in model.modules() if isinstance(module, torch.nn.MultiheadAttention)]
    assert len(attentions) == 3
    for module in attentions:
        torch.nn.init.normal_(module.in_proj_bias)  # the decoder's first queries ask for nothing but this
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    features, positions = torch.randn(2, 2, 32, 5, 7)
    inputs = (features, positions, torch.ones(2, 5, 7, dtype=torch.bool), torch.randn(6, 32), torch.ones(2, 2))
    for chosen in attentions:
        for module in attentions:
            module.train(module is chosen)
        one, other = (model(*inputs)[0] for _ in range(2))
        assert not torch.equal(one, other)
    model.eval()
    assert torch.equal(model(*inputs)[0], model(*inputs)[0])


def test_outputs_and_hidden_numbers_drop() -> None:
    """Of the two linear maps the hidden numbers too; with all dropped, what is left is the norm of the input."""
    torch.manual_seed(0)
    cells, positions = torch.randn(2, 2, 15, 32)
    nothing = torch.zeros(2, 15, dtype=torch.bool)
    encoder, decoder = EncoderLayer(32, 4, 16, 0.5), DecoderLayer(32, 4, 16, 0.5, None)
    for layer, inputs in ((encoder, (cells, positions, ~nothing)), (decoder, (cells, positions, cells, cells))):
        hidden: list[torch.Tensor] = []
        layer.linear2.register_forward_pre_hook(lambda module, given, kept=hidden: kept.append(given[0]))
        layer.train()(*inputs)
        active = hidden[0][hidden[0] != 0]
        layer.eval()(*inputs)
        assert (hidden[0] == 0).double().mean() - (hidden[1] == 0).double().mean() > 0.15
        assert active.mean().item() > 1.5 * hidden[1][hidden[1] != 0].mean().item()
        layer.train().dropout.p = 1.0
        answer = layer(*inputs)
        for name in ("norm1", "norm2", "norm3"):
            cells = getattr(layer, name, torch.nn.Identity())(cells)
        torch.testing.assert_close(answer, cells)
        cells = inputs[0]
