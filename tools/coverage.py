"""In which networks of other libraries what mixes can be seen, each layer held to the layer's own answer.

    python -m tools.coverage > docs/explorer-coverage.md
    python -m tools.coverage NAME ...

Values of one place are changed in each layer that is shown, and what the layer then gives is compared with A: at the
weights that a network begins with, and at weights that are scaled up, so that rows are not flat.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from contagg.errors import UserError
from contagg.inspect.forms import Recording
from contagg.inspect.seeing import see

_TIMM = """
vit_small_patch16_224 vit_small_patch16_dinov3 eva02_small_patch14_224 vit_dwee_patch16_reg1_gap_256
deit3_small_patch16_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 caformer_s18
convformer_s18 poolformer_s24 convnext_tiny convnextv2_tiny inception_next_tiny pvt_v2_b2 twins_svt_small
coat_lite_small coatnet_0_rw_224 maxvit_tiny_tf_224 gcvit_tiny davit_tiny focalnet_tiny_srf xcit_small_12_p16_224
mixer_s16_224 resmlp_12_224 gmlp_s16_224 efficientvit_b1 efficientformerv2_s2 fastvit_t12 mobilenetv4_hybrid_medium
nextvit_small swiftformer_s shvit_s2 starnet_s3 rdnet_tiny mambaout_tiny hiera_tiny_224 mvitv2_tiny tiny_vit_21m_224
levit_256 volo_d1_224 convit_small cait_xxs24_224 crossvit_15_240 tnt_s_patch16_224 sequencer2d_s edgenext_small
mobilevit_s repvit_m1_5
"""
TIMM = tuple(_TIMM.split())
"""One network of each of 49 families."""

_SMALL = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 384}
TRANSFORMERS: dict[str, dict[str, object]] = {
    "ViT": _SMALL,
    "Dinov2": _SMALL,
    "DINOv3ViT": {**_SMALL, "num_register_tokens": 4},
    "Swin": {},
    "ConvNext": {},
    "CLIPVision": _SMALL,
}
"""Of transformers: the class without `Model`, and its options."""

TORCHVISION = ("vit_b_16", "swin_t", "swin_v2_t", "maxvit_t")

SCALE = 2.0
"""Of the weights of linear layers and of convolutions of one place, for rows that are not flat."""

Factory = Callable[[], tuple[nn.Module, int]]
"""Makes a network and says the side of its images."""


@dataclass(frozen=True, kw_only=True)
class Covered:
    """One network: what was recorded, the worst differences at both weights, and how long seeing it took."""

    name: str
    recording: Recording
    errors: tuple[float, float]
    seconds: float


def networks() -> dict[str, Factory]:
    """By name, those of other libraries after their library."""
    found: dict[str, Factory] = {name: partial(_of_timm, name) for name in TIMM}
    found |= {f"transformers {name}": partial(_of_transformers, name) for name in TRANSFORMERS}
    return found | {f"torchvision {name}": partial(_of_torchvision, name) for name in TORCHVISION}


def cover(name: str, make: Factory) -> Covered:
    """See a network twice, at weights of its own and at larger ones."""
    torch.manual_seed(0)
    model, side = make()
    image = torch.randn(1, 3, side, side)
    begin, errors = time.perf_counter(), list[tuple[str, float]]()
    recording = see(model.eval(), image, errors=errors)
    seconds = time.perf_counter() - begin
    larger = list[tuple[str, float]]()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and max(module.kernel_size) == 1):
                module.weight.mul_(SCALE)
    see(model, image, errors=larger)
    worst = [max((error for _, error in some), default=0.0) for some in (errors, larger)]
    return Covered(name=name, recording=recording, errors=(worst[0], worst[1]), seconds=seconds)


def line(found: Covered) -> str:
    """A row of the table."""
    layers, unshown = found.recording.layers, found.recording.unshown
    forms = Counter(type(layer.terms[0].form).__name__ for layer in layers)
    shown = ", ".join(f"{count} {kind}" for kind, count in forms.most_common()) or "none"
    reasons = Counter(each.reason for each in unshown)
    rest = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
    errors = " | ".join(f"{error:.0e}" for error in found.errors) if layers else "- | -"
    return f"| {found.name} | {len(layers)} | {shown} | {errors} | {rest} |"


def table(names: Sequence[str]) -> Iterator[str]:
    """The page, line by line, as it is found."""
    yield "| network | layers | forms | difference | at larger weights | mixes, but is not shown |"
    yield "|---|---|---|---|---|---|"
    known, seen, worst = networks(), 0, 0.0
    for name in names:
        if name not in known:
            raise UserError(f"{name!r} is none of {', '.join(known)}")
        found = cover(name, known[name])
        seen += bool(found.recording.layers)
        worst = max(worst, *found.errors)
        print(f"{name}: {found.seconds:.1f} s", file=sys.stderr, flush=True)
        yield line(found)
    yield ""
    yield f"{seen} of {len(names)} networks have layers that are shown; the largest difference is {worst:.0e}."


def _of_timm(name: str) -> tuple[nn.Module, int]:
    model = timm.create_model(name)
    return model, resolve_data_config({}, model=model)["input_size"][1]


def _of_transformers(name: str) -> tuple[nn.Module, int]:
    library = import_module("transformers")
    config = getattr(library, f"{name}Config")(**TRANSFORMERS[name])
    return getattr(library, f"{name}Model")(config), config.image_size


def _of_torchvision(name: str) -> tuple[nn.Module, int]:
    return import_module("torchvision.models").get_model(name), 224


if __name__ == "__main__":
    for written in table(sys.argv[1:] or list(networks())):
        print(written, flush=True)
