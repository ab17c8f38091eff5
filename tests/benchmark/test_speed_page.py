"""The tables of docs/speed.md and docs/which-network.md say what the files under results/ hold, rounded."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "results" / "amd-epyc"
NAMES = {
    "DeiT-S": "deit_small_patch16_224",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "ConvNeXt-T": "convnext_tiny",
    "PVTv2-B2": "pvt_v2_b2",
    "CAFormer-S18": "caformer_s18",
    "PoolFormer-S24": "poolformer_s24",
    "ResNet-50": "resnet50",
    "HGNetV2-B4": "hgnetv2_b4",
    "MobileNetV4-conv-L": "mobilenetv4_conv_large",
    "EfficientFormerV2-S2": "efficientformerv2_s2",
    "LeViT-256": "levit_256",
}


def measured(file: str) -> list[dict[str, str]]:
    with (MEASURED / file).open() as opened:
        return list(csv.DictReader(opened))


def table(page: str, heading: str) -> Iterator[list[str]]:
    """The rows of the table whose first line begins with `heading`, in cells without backticks."""
    lines = iter((ROOT / "docs" / page).read_text().splitlines())
    next(line for line in lines if line.startswith(f"| {heading}"))
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]


def number(cell: str) -> float:
    return float(cell.replace(",", "").split()[0].removesuffix("M"))


def says(cell: str, value: float) -> bool:
    """Whether a cell is a value rounded to as many digits as it has, halves either way."""
    shown = number(cell)
    digits = len(re.sub(r"^[\d,]*\.?", "", cell.split()[0].removesuffix("M")))
    return abs(shown - value) <= 0.5000001 * 10**-digits


def test_what_a_network_reaches() -> None:
    rows = measured("bench.csv")
    best = {(row["model"], row["precision"]): row for row in rows if row["variant"] in ("compiled", "fused+compiled")}
    shown = list(table("speed.md", "fused and compiled"))
    assert len(shown) == len(best) / 2
    for name, parameters, multiply_adds, *speeds in shown:
        model = NAMES.get(name, name.split(",")[0])
        for precision, (images, utilisation) in zip(("fp32", "bf16"), (speeds[:2], speeds[2:]), strict=True):
            row = best[model, precision]
            assert says(parameters, float(row["parameters_millions"])), name
            assert says(multiply_adds, float(row["multiply_adds_billions"])), name
            assert says(images, float(row["images_per_second"])), name
            assert says(utilisation, 100 * float(row["gemm_utilisation"])), name


def test_large_images() -> None:
    shown = list(table("speed.md", "stages 1 and 2"))
    for cells, row in zip(shown, measured("large_images.csv"), strict=True):
        assert cells[0].split(",")[0] == row["word"]
        assert says(cells[1], float(row["seconds_median"])) and says(cells[2], float(row["times_faster"])), cells
        assert says(cells[3], float(row["multiply_adds"]) / 1e9) and says(cells[4], float(row["peak_megabytes"])), cells


def test_multiply_adds_of_the_networks_to_take() -> None:
    counted = {row["model"]: row for row in measured("bench.csv")}
    found = {cells[1]: cells for cells in table("which-network.md", "you have") if cells[1] in counted}
    assert len(found) == 3
    for name, cells in found.items():
        assert says(cells[2], float(counted[name]["parameters_millions"])), name
        assert says(cells[3], float(counted[name]["multiply_adds_billions"])), name


@pytest.mark.parametrize(
    "change", ["patches that overlap", "ReLU", "attention in the last two stages", "3 x 3 kernels"]
)
def test_times_of_each_change(change: str) -> None:
    rows = {row["precision"]: row for row in measured("light_forms.csv") if row["form"] == change}
    [cells] = [cells for cells in table("which-network.md", "change") if cells[0].startswith(change)]
    for cell, kind in ((cells[2], "training_ratio"), (cells[3], "inference_ratio")):
        for shown, precision in zip(cell.split(", "), ("fp32", "bf16"), strict=True):
            assert says(shown, float(rows[precision][kind])), (change, kind, precision)


def test_targets() -> None:
    """The numbers of the second table that are quotients of what was measured."""
    shown = {cells[0]: cells for cells in table("speed.md", "target")}
    best = {(row["model"], row["variant"], row["precision"]): row for row in measured("bench.csv")}
    steps = {
        (row["model"], row["precision"]): row
        for row in measured("training/bench.csv")
        if row["variant"] == "training step"
    }

    def plain_over_compiled(precision: str) -> float:
        times = [
            float(best["container_v1_light", form, precision]["seconds_median"]) for form in ("plain", "fused+compiled")
        ]
        return times[0] / times[1]

    fp32, bf16 = re.findall(r"[\d.]+(?= \()", shown["1.8 times its own plain eager form"][1])
    assert says(fp32, plain_over_compiled("fp32")) and says(bf16, plain_over_compiled("bf16"))
    plain = float(best["container_v1_light", "plain", "fp32"]["gemm_utilisation"])
    assert f"take it to {100 * plain:.0f} % GEMM" in shown["1.8 times its own plain eager form"][2]

    [training] = [cells for name, cells in shown.items() if "no slower than DeiT-S" in name]
    said = re.search(r"takes (\d+) and (\d+) ms .* against (\d+) and (\d+)", training[2])
    assert said
    each = [
        1000 * float(row["seconds_median"]) / float(row["multiply_adds_billions"])
        for model in ("container_light", "deit_small_patch16_224")
        for row in (steps[model, "fp32"], steps[model, "bf16"])
    ]
    assert all(says(cell, value) for cell, value in zip(said.groups(), each, strict=True)), (said, each)


def test_rates_and_commits() -> None:
    text = (ROOT / "docs" / "speed.md").read_text()
    about = json.loads((MEASURED / "bench.json").read_text())
    fp32, bf16 = (about[f"multiply_adds_per_second_{precision}"] / 1e9 for precision in ("fp32", "bf16"))
    assert f"{fp32:.0f} billion multiply-adds a\nsecond in fp32, {bf16:.0f} in bf16. Commit {about['commit']}" in text
