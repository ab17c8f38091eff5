"""Checks of an affinity in a small network, where everything else of the package meets it."""

import importlib.util
import math

import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim

from contagg.affinity.attention import SelfAttention
from contagg.affinity.base import as_map, as_tokens
from contagg.affinity.mixture import Mixture
from contagg.affinity.registry import Factory, Site
from contagg.errors import plural
from contagg.export.formats import open_onnx, to_onnx
from contagg.export.program import graph_of
from contagg.inspect.figures import affinity_figure
from contagg.inspect.gathering import gather
from contagg.inspect.seeing import see
from contagg.inspect.static import static_figure, static_rows
from contagg.inspect.statistics import gates, sample_positions
from contagg.inspect.statistics import statistics as statistics_of
from contagg.inspect.view import look
from contagg.models import create
from contagg.nn.aggregation import Aggregation, affinities, serves_any_size
from contagg.nn.fuse import fuse as fused_form
from contagg.testing.case import GRID, Case, Skipped, moved, same

SIZE = (64, 96)


def _network(case: Case, factory: str | Factory | None = None) -> nn.Module:
    """One block a stage in float64 and eval mode, its norms and gates away from where they start."""
    model = create(
        "container_light_tiny",
        affinity=factory or case.factory,
        embed_dims=(case.channels,) * 4,
        depths=(1,) * 4,
        mlp_ratios=(1,) * 4,
        num_classes=5,
        img_size=SIZE,
    ).double()
    moved(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return model.eval()


def _mixed(case: Case) -> Factory:
    return lambda site: Mixture(SelfAttention(site.channels, site.channels // 4), case.make(site), "sigmoid/head")


def training(case: Case) -> None:
    """In a network a step in training mode gives every parameter that the affinity learns a finite gradient."""
    model = _network(case).train()
    model(torch.randn(2, 3, *SIZE, dtype=torch.float64)).square().sum().backward()
    for affinity in affinities(model):
        for name, parameter in affinity.named_parameters():
            if not parameter.requires_grad:
                continue
            assert parameter.grad is not None, f"{name} has no gradient in a network"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite in a network"


@torch.no_grad()
def fuse(case: Case) -> None:
    """`contagg.fuse` changes no answer of a network, alone and mixed with attention, also of a padded batch."""
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    for what, factory in (("a network", None), ("a network mixed with attention", _mixed(case))):
        model = _network(case, factory)
        once = fused_form(model)
        for fused, how in ((once, "fused"), (fused_form(once), "fused twice")):
            same(fused.forward_features(images), model.forward_features(images), f"{what}, {how}")  # type: ignore[operator]
        if serves_any_size(model):
            mask = torch.zeros(2, *SIZE, dtype=torch.bool)
            mask[0, :50, :71] = mask[1, :64, :33] = True
            got, expected = (
                form.forward_intermediates(images * mask[:, None], mask=mask, intermediates_only=True)[-1]  # type: ignore[operator]
                for form in (fused_form(model), model)
            )
            same(got, expected, f"{what} of a padded batch, fused")


def statistics(case: Case) -> None:
    """Recorded in a network, it has statistics: distances within the grid, shares from 0 to 1, gates."""
    for factory in (None, _mixed(case)):
        model = _network(case, factory)
        layers = see(model, torch.randn(1, 3, *SIZE, dtype=torch.float64)).layers
        assert len(layers) == len(gates(model)) == 4
        for layer in layers:
            for numbers in statistics_of(layer, sample_positions(layer.grid, 16)).values():
                found = torch.stack([numbers.distance, numbers.entropy, numbers.within3, numbers.within5])
                assert found.isfinite().all(), f"statistics are not finite: {found[:, 0].tolist()}"
                largest = [math.hypot(*layer.grid), math.log(math.prod(layer.grid)) + 1e-9, 1 + 1e-9, 1 + 1e-9]
                assert (found.amax(1) <= torch.tensor(largest, dtype=found.dtype)).all() and (found >= -1e-9).all(), (
                    "statistics beyond bounds"
                )


def figures(case: Case) -> None:
    """It is drawn: over an image, and without one where it is static."""
    model = _network(case)
    view = look(model, Image.effect_noise((60, 40), 90).convert("RGB"), {"input_size": (3, *SIZE)})
    gatherings = gather(model, view, (0.5, 0.5))
    assert len(gatherings) == 4 and affinity_figure([(view, gatherings)]).axes
    if not affinities(model)[0].dynamic:
        rows = static_rows(model)
        assert all(row.values.isfinite().all() for row in rows), (
            "rows of the figure of static affinities are not finite"
        )
        assert static_figure(rows).axes


class _OfMaps(nn.Module):
    """An aggregation of maps (B, C, H, W), whose sizes a graph can leave open; gives (B, C H W)."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        affinity = case.make(Site(channels=case.channels, grid=GRID))
        self.aggregation = Aggregation(case.channels, affinity)
        self.any_grid = affinity.grid is None
        moved(self)
        self.eval()

    def forward(self, feature_map: Tensor) -> Tensor:
        grid = (feature_map.shape[2], feature_map.shape[3])
        return as_map(self.aggregation(as_tokens(feature_map), grid), grid).flatten(1)


def compile_without_breaks(case: Case) -> None:
    """`torch.compile` makes one graph of it, which answers alike."""
    module, maps = _OfMaps(case), torch.randn(2, case.channels, *GRID)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=False)
    same(compiled(maps), module(maps), "compiled and not", 1e-4)


def _exported(case: Case) -> tuple[_OfMaps, torch.export.ExportedProgram]:
    """A module and its program, made once a case: that is most of what the checks of a scan take."""
    if not hasattr(case, "exported"):
        module = _OfMaps(case)
        dimensions = {0: Dim("batch")}
        if module.any_grid:
            dimensions |= {2: Dim("height", min=3), 3: Dim("width", min=3)}
        program = graph_of(module, torch.randn(2, case.channels, *GRID), dimensions)
        case.exported = module, program  # type: ignore[attr-defined]
    return case.exported  # type: ignore[attr-defined]


def export(case: Case) -> None:
    """`torch.export`, with gradients on as it is by default, gives one graph for any batch, and for any grid served."""
    module, exported = _exported(case)
    program = exported.module()
    for batch, grid in ((3, GRID), (1, (4, 9) if module.any_grid else GRID)):
        maps = torch.randn(batch, case.channels, *grid)
        same(program(maps), module(maps), f"exported and not, {plural(batch, 'image')} on {grid}", 1e-4)


def onnx(case: Case) -> None:
    """An ONNX file of it answers alike in onnxruntime."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise Skipped(f"{missing[0]} is not installed: pip install 'contagg[export]'")
    module, exported = _exported(case)
    with torch.no_grad():
        answer = open_onnx(to_onnx(exported, {}))
        for batch, grid in ((2, GRID), (3, (4, 9) if module.any_grid else GRID)):
            maps = torch.randn(batch, case.channels, *grid)
            same(answer(maps), module(maps), f"ONNX and not, {plural(batch, 'image')} on {grid}", 1e-4)
