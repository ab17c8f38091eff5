"""How far each variant and precision of a network answers from float64."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from contagg.benchmark.variants import DTYPES, Setting, inference, variants_of
from contagg.models import create

VARIANTS = ("plain", "fused", "fused+compiled")


@dataclass(frozen=True, kw_only=True)
class PrecisionRow:
    """|answer - float64's| / |float64's| over the logits of a batch, or why there is none."""

    model: str
    variant: str
    precision: str
    relative_error: float | None
    note: str = ""


def precision(
    names: Iterable[str], device: torch.device, size: int = 224, precisions: Iterable[str] = tuple(DTYPES)
) -> list[PrecisionRow]:
    """A row for each network, variant and precision; weights and images are drawn, images in fp32's numbers.

    The float64 answers are the CPU's.
    """
    rows = []
    for name in names:
        torch.manual_seed(0)
        model = create(name).eval()
        images = Setting(device=torch.device("cpu"), precision="fp32", batch=2, size=size).images()
        with torch.no_grad():
            expected = model.double()(images.double())
        model = model.float()
        for word in precisions:
            setting = Setting(device=device, precision=word, batch=2, size=size)
            for variant in variants_of(model, VARIANTS):
                error, note = None, ""
                try:
                    answer = inference(model, variant, setting)().double().cpu()  # type: ignore[attr-defined]
                    error = float((answer - expected).norm() / expected.norm())
                except (RuntimeError, NotImplementedError) as reason:  # a device need not have every kernel
                    note = str(reason).strip().splitlines()[0][:120]
                rows.append(PrecisionRow(model=name, variant=variant, precision=word, relative_error=error, note=note))
    return rows
