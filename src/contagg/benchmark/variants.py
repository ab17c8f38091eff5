"""The variants in which a network can run: plain or fused, eager or compiled, in fp32 or bf16."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch._dynamo.config
import torch._inductor.config
from torch import Tensor, nn

from contagg.benchmark.cost import Work, measure
from contagg.nn.aggregation import is_ours
from contagg.nn.fuse import fuse

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and on what: a batch of square images in one precision on one device."""

    device: torch.device
    precision: str
    batch: int
    size: int

    def images(self) -> Tensor:
        """Random images (B, 3, H, W), the same ones each time."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, 3, self.size, self.size, generator=generator)
        return images.to(self.device, DTYPES[self.precision])


# Networks of one class share their code, and each of them is a compilation of it.
torch._dynamo.config.recompile_limit = 256


def variants_of(model: nn.Module, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the asked variants that a network has; only ours can be fused."""
    return tuple(variant for variant in asked if is_ours(model) or "fused" not in variant)


def inference(model: nn.Module, variant: str, setting: Setting) -> Work:
    """A forward pass of one variant, in the faster layout of images and weights."""
    model = (fuse(model) if "fused" in variant else copy.deepcopy(model)).eval().requires_grad_(False)
    model = model.to(setting.device, DTYPES[setting.precision])
    model, images = _faster_layout(model, setting)
    if "compiled" in variant:
        return _forward(compiled(model, images), images)
    return _forward(model, images)


def compiled(model: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    """One graph, compiled for images of this shape; weights are constants, and on a GPU CUDA graphs replay it."""
    graph = torch.compile(model, fullgraph=True, dynamic=False, mode="reduce-overhead" if images.is_cuda else None)
    with torch._inductor.config.patch(freezing=True), torch.no_grad():
        graph(images)
    return graph


def training_step(model: nn.Module, setting: Setting) -> Work:
    """Forward, backward and AdamW's step, uncompiled, of a copy; below fp32 in autocast. Gives the loss."""
    model, images = _faster_layout(copy.deepcopy(model).train().to(setting.device), setting, torch.float32)
    labels = torch.arange(setting.batch, device=setting.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    dtype = DTYPES[setting.precision]
    autocast = nullcontext() if dtype == torch.float32 else torch.autocast(setting.device.type, dtype)

    def step() -> Tensor:
        with autocast:
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _forward(model: Callable[[Tensor], Tensor], images: Tensor) -> Work:
    def forward() -> Tensor:
        with torch.no_grad():
            return model(images)

    return forward


def _faster_layout(model: nn.Module, setting: Setting, dtype: torch.dtype | None = None) -> tuple[nn.Module, Tensor]:
    """The model and images with channels last or not, whichever answers sooner; ours choose for themselves."""
    images = setting.images()
    images = images if dtype is None else images.to(dtype)
    if is_ours(model):
        return model, images
    rows = copy.deepcopy(model), images
    last = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    works = [_forward(*layout) for layout in (rows, last)]
    for work in works:
        work()
    seconds = [min(measure(work, setting.device) for _ in range(2)) for work in works]
    return rows if seconds[0] < seconds[1] else last
