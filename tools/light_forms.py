"""`python -m tools.light_forms FOLDER`: what each change to CONTAINER-LIGHT does to its speed, at full size.

The changes are those whose accuracy the comparison `forms` of tools/twins.yaml measures at a small size. Every round
times each network once: a training step, and images through its fused and compiled form, in each precision. Of a CPU
without AVX-512 take fp32 alone: its bf16 is emulated. Writes light_forms.csv and .json.

Command   python -m tools.light_forms results/DEVICE [--precisions fp32] [--forms ReLU "one norm a block"]
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from contagg.benchmark.bench import describe
from contagg.benchmark.cost import Spread, interleaved, keep_freed_memory, multiply_adds, parameter_count
from contagg.benchmark.variants import Setting, inference, training_step, variants_of
from contagg.models import create
from tools.timed import read_arguments, write_rows

BATCH, SIZE = 8, 224
LIGHT = "CONTAINER-LIGHT"
ATTENDING = "attention + dwconv5"
CHANGES: dict[str, dict[str, Any]] = {
    LIGHT: {},
    "attention in the last two stages": {"affinity": ("dwconv5", "dwconv5", ATTENDING, ATTENDING)},
    "patches that overlap": {"embedding": "overlapping"},
    "ReLU": {"activation": "relu"},
    "3 x 3 kernels": {"affinity": ("dwconv3", "dwconv3", "dwconv3", "attention + dwconv3")},
    "norms after the branches": {"norm_placement": "res_post"},
    "one norm a block": {"norm_placement": "single"},
    "LayerScale 1e-5": {"layer_scale": 1e-5},
}
"""Fields of NetworkConfig that differ from CONTAINER-LIGHT's."""

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{change: ("container_light", fields) for change, fields in CHANGES.items()},
    "container_next": ("container_next", {}),
    "container_next, ReLU": ("container_next", {"activation": "relu"}),
    "DeiT-S": ("deit_small_patch16_224", {}),
}
"""Those and whole networks beside them: their names, and options."""


@dataclass(frozen=True, kw_only=True)
class FormRow:
    """One network in one precision; seconds are of a batch, ratios by CONTAINER-LIGHT's in the same rounds."""

    form: str
    precision: str
    parameters: int
    multiply_adds: int
    training_seconds: float
    training_ratio: float
    inference_seconds: float
    inference_ratio: float


def networks(forms: Collection[str], **sizes: Any) -> dict[str, nn.Module]:
    """By what they are called, in the order of FORMS; `sizes` are further fields of NetworkConfig."""
    asked = {form: made for form, made in FORMS.items() if form in forms}
    return {form: create(name, **sizes | options).eval() for form, (name, options) in asked.items()}


def measured(
    models: dict[str, nn.Module], setting: Setting, rounds: int, variant: str = "fused+compiled"
) -> list[FormRow]:
    """A row for each network, whose inference is of that variant; by the first one the others' times are divided."""
    works = {}
    for name, model in models.items():
        print(f"preparing {name}, {setting.precision}", flush=True)
        works[name, "training"] = training_step(model, setting)
        works[name, "inference"] = inference(model, variants_of(model, ("compiled", variant))[-1], setting)
    seconds = interleaved({"|".join(key): work for key, work in works.items()}, rounds, setting.device)
    first = next(iter(models))
    return [_row(name, model, setting, seconds, first) for name, model in models.items()]


def _row(name: str, model: nn.Module, setting: Setting, seconds: dict[str, Spread], first: str) -> FormRow:
    training, forward = (seconds[f"{name}|{what}"].median for what in ("training", "inference"))
    return FormRow(
        form=name,
        precision=setting.precision,
        parameters=parameter_count(model),
        multiply_adds=multiply_adds(model, (setting.size, setting.size)),
        training_seconds=training,
        training_ratio=training / seconds[f"{first}|training"].median,
        inference_seconds=forward,
        inference_ratio=forward / seconds[f"{first}|inference"].median,
    )


def line(row: FormRow, first: FormRow) -> str:
    """Of the printed table; a training step's time per multiply-add is what networks of several sizes share."""
    per_product = row.training_ratio / (row.multiply_adds / first.multiply_adds)
    return (
        f"{row.form:34} {row.precision}  {row.multiply_adds / 1e9:5.2f} GMACs  training step {row.training_ratio:.2f}, "
        f"per multiply-add {per_product:.2f}  inference {row.inference_ratio:.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = read_arguments(arguments, __doc__, 5, precisions=("fp32", "bf16"), forms=[*FORMS])
    about = describe(torch.device("cpu")) | {
        "memory_kept": keep_freed_memory(),
        "rounds": given.rounds,
        "batch": BATCH,
        "size": SIZE,
    }
    rows: list[FormRow] = []
    for precision in given.precisions:
        setting = Setting(device=torch.device("cpu"), precision=precision, batch=BATCH, size=SIZE)
        found = measured(networks({LIGHT, *given.forms}), setting, given.rounds)
        print("\n".join(line(row, found[0]) for row in found), flush=True)
        rows += found
    write_rows(given.folder, "light_forms", rows, about)


if __name__ == "__main__":
    main()
