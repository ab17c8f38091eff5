"""What is measured in the end: where a machine has no memory for an image, what was found is told all the same."""

import pytest
import torch

import contagg
from contagg.placement import handover
from contagg.placement.config import Budget
from contagg.placement.handover import Finding, measured
from contagg.placement.places import find_places
from contagg.placement.price import Prices

SMALL = {"embed_dims": (8, 8, 16, 32), "depths": (1, 1, 1, 1), "num_classes": 3, "affinity": "attention/8 + dwconv3"}


def no_memory(*_: object) -> None:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory:\nyou tried to allocate 80000000000 bytes")


def test_an_image_too_large_to_measure_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = contagg.create("container_tiny", **SMALL)
    monkeypatch.setattr(handover, "interleaved", no_memory)
    costs = measured({"all open": network, "placed": network}, (64, 96), 3, "fp32", torch.device("cpu"))
    assert capsys.readouterr().out.startswith("warning: not measured at 64 x 96 pixels: DefaultCPUAllocator: can't")
    assert [(cost.ms, cost.peak_megabytes) for cost in costs] == [(None, None)] * 2 and costs[0].multiply_adds > 0
    for unit, end in (("multiply-adds", "counted"), ("ms", "not measured")):
        prices = Prices(unit=unit, size=(64, 96), closed=1.0, added=(1.0,) * 4)
        finding = Finding(
            places=find_places(network),
            prices=prices,
            budget=Budget.read("2ms" if unit == "ms" else "0.5"),
            chosen=(),
            scores=[0.0] * 4,
            evidence=[torch.nan] * 4,
        )
        said = handover._saving(finding, costs)
        assert f"predicted 1 {unit}, {end}" in said and said.splitlines()[1].split()[-2:] == ["-", "-"]
        assert handover._table(finding).splitlines()[1].endswith(" -")
