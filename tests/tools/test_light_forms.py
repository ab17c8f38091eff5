"""What each change to CONTAINER-LIGHT costs: one change each, the same as those whose accuracy is measured."""

from pathlib import Path

import torch

from contagg.benchmark.variants import Setting
from tools import light_forms
from tools.comparisons import find, read_twins, with_interval
from tools.light_forms import CHANGES, LIGHT, line, measured, networks

ROOT = Path(__file__).parents[2]
SMALL = {"embed_dims": (32, 32, 64, 64), "depths": (1, 1, 1, 1)}


def test_the_changes_are_those_of_the_comparison() -> None:
    (twin,) = (twin for twin in read_twins() if twin.name == "forms")
    assert set(CHANGES) == {entry.arm for entry in twin.rows} - {"LayerScale 0.1"}, "whose number changes no time"


def test_the_page_has_what_each_change_does_to_accuracy() -> None:
    (twin,) = (twin for twin in read_twins() if twin.name == "forms")
    found, page = find(twin, ROOT / "results"), (ROOT / "docs/which-network.md").read_text()
    for entry in twin.rows[1:]:
        assert with_interval(found.difference(entry), "+") in page, entry.arm


def test_each_form_is_timed_against_the_first() -> None:
    models = networks(CHANGES, **SMALL)
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert counts["3 x 3 kernels"] < counts[LIGHT] == counts["ReLU"] < counts["patches that overlap"]
    some = {name: models[name] for name in (LIGHT, "3 x 3 kernels")}
    setting = Setting(device=torch.device("cpu"), precision="fp32", batch=2, size=32)
    first, other = measured(some, setting, rounds=1, variant="fused")
    assert (first.training_ratio, first.inference_ratio) == (1, 1) and first.multiply_adds > other.multiply_adds
    assert other.training_ratio == other.training_seconds / first.training_seconds
    assert "3 x 3 kernels" in line(other, first) and light_forms.FORMS.keys() > CHANGES.keys()
