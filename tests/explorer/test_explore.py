"""`contagg.explore` and `contagg inspect explore`: from model and image to a file, and what is said of bad input."""

import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from opened_pages import Browser, photograph
from torch import nn

import contagg
from contagg.cli import main
from contagg.errors import UserError
from contagg.inspect.seeing import see

SIZES = {"embed_dims": (32, 64, 96, 128), "depths": (1, 1, 1, 1), "num_classes": 3}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a picture.png"
    photograph(64, 96).save(path)
    return path


def test_the_command_writes_a_page_and_its_numbers(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, numbers = tmp_path / "page.html", tmp_path / "page.json"
    arguments = ["--size", "64", "--fields", "2", "-o", str(out), "--json", str(numbers)]
    main(["inspect", "explore", "container_light_tiny", str(picture), *arguments])
    said = capsys.readouterr().out
    assert "container_light_tiny: 5 layers" in said and "random weights" in said and "% in common" in said
    page = out.read_text(encoding="utf-8")
    assert "default-src 'none'" in page and not re.search(r"https?://", page)
    (model,) = json.loads(numbers.read_text(encoding="utf-8"))
    last = model["layers"][-1]
    assert last["grid"] == [2, 3] and set(last["weights"]) == {"dynamic", "static"}
    assert 0 < last["residual"] < 1 and 0 <= last["entropy"] <= 1
    assert all(0 < field["agreement"] <= 1 for field in model["fields"])


def test_the_page_of_a_network_answers_as_its_affinities(browser: Browser) -> None:
    torch.manual_seed(0)
    model = contagg.create("container_tiny", **SIZES).eval()
    page = contagg.explore(model, photograph(224, 224), fields=1)
    browser.open(page)
    (explored,) = page.models
    for number in (2, 3):
        layer = explored.recording.layers[number]
        places = [0, layer.tokens // 2]
        expected = layer.mixed.rows(torch.tensor(places)).double()
        for place, row in zip(places, expected.unbind(1), strict=True):
            shown = torch.tensor(browser(f"contagg.row({number}, {place})"), dtype=torch.float64)
            assert float((shown - row.abs().mean(0)).abs().sum() / row.abs().mean(0).sum()) < 0.02
            column = layer.mixed.columns(torch.tensor([place]))[..., 0].abs().mean(0).double()
            shown = torch.tensor(browser(f"contagg.column({number}, {place})"), dtype=torch.float64)
            assert float((shown - column).abs().sum() / column.sum()) < 0.02


def test_what_is_shown_is_what_the_network_computes() -> None:
    """A V by the forms is what each affinity gives of the values in the network."""
    torch.manual_seed(0)
    model = contagg.create("container_tiny", **SIZES, img_size=(64, 96)).eval()
    image, kept = torch.randn(1, 3, 64, 96), {}
    hooks = [
        module.register_forward_hook(lambda _, given, output, name=name: kept.update({name: (given[0], output)}))
        for name, module in model.named_modules()
        if name.endswith("affinity")
    ]
    with torch.no_grad():
        recording = see(model, image)
        for layer in recording.layers:
            values, output = kept[f"{layer.name}.affinity"]
            bias = model.get_submodule(f"{layer.name}.affinity").bias
            heads = values[0].unflatten(1, (layer.heads, -1)).transpose(0, 1)
            gathered = layer.mixed.push(heads).transpose(0, 1).flatten(1) + bias
            torch.testing.assert_close(gathered, output[0], rtol=1e-4, atol=1e-5)
    for hook in hooks:
        hook.remove()
    assert len(recording.layers) == 4


def test_two_models_stand_side_by_side_and_are_left_as_they_were(tmp_path: Path) -> None:
    models = {name: contagg.create(name, **SIZES) for name in ("container_light_tiny", "container_dw3")}
    page = contagg.explore(models, photograph(64, 64), size=64, fields=0)
    assert [each["model"] for each in page.numbers()] == list(models)
    assert all(model.training for model in models.values())
    assert all(parameter.requires_grad for model in models.values() for parameter in model.parameters())
    with pytest.raises(UserError, match=r"must end in \.html"):
        page.save(tmp_path / "page.png")


def test_what_mixes_channels_is_named_and_not_shown() -> None:
    model = contagg.create("container_light_tiny", **SIZES, affinity=("full-conv3", "dwconv3", "dwconv3", "dwconv3"))
    (numbers,) = contagg.explore(model, photograph(64, 64), size=64, fields=0).numbers()
    assert [each["name"] for each in numbers["unshown"]] == ["stages.0.blocks.0.aggregation"]
    assert "mixes channels" in numbers["unshown"][0]["reason"]
    assert len(numbers["layers"]) == 3


def test_layers_are_chosen_by_the_beginnings_of_their_names() -> None:
    model = contagg.create("container_light_tiny", **SIZES)
    (numbers,) = contagg.explore(
        model, photograph(64, 64), size=64, layers=["stages.1", "stages.3"], fields=0
    ).numbers()
    assert [each["name"].split(".")[1] for each in numbers["layers"]] == ["1", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "stages.9"], r"layers 'stages\.9': Container has no such module\. Did you mean 'stages\.\d'"),
        (["--epochs", "1"], "--epochs: 'container_light_tiny' has no training states"),
        (["--epochs", "1", "--beside", "container_tiny"], "--epochs .* not both"),
        (["-o", "page.png"], r"must end in one of \.html"),
        (["--beside", "container_lihgt"], "Did you mean 'container_light'"),
    ],
)
def test_bad_input_gets_one_line(
    picture: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["inspect", "explore", "container_light_tiny", str(picture), "--size", "64", *arguments])
    said = capsys.readouterr().err.strip()
    assert left.value.code == 2 and re.search(message, said) and "\n" not in said


def test_a_model_that_mixes_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="Sequential has no affinity to show: nothing in it was seen to gather"):
        contagg.explore(nn.Sequential(nn.Conv2d(3, 4, 1)), photograph(64, 64))


def test_an_image_that_the_memory_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes.")

    monkeypatch.setattr("contagg.explorer.building.fields", full)
    with pytest.raises(UserError, match="an image of 64 x 64 pixels is too large for the memory"):
        contagg.explore(contagg.create("container_light_tiny", **SIZES), photograph(64, 64), size=64)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_networks_of_timm_are_shown_as_well(browser: Browser, name: str) -> None:
    """Rows in the page are those of what was recorded; a class token and shifted windows among them."""
    torch.manual_seed(0)
    changes = {"depth": 2} if name.startswith("vit") else {"depths": (1, 2, 1, 1), "embed_dim": 24}
    model = timm.create_model(name, img_size=112, num_classes=0, **changes)
    page = contagg.explore(model, photograph(112, 112), size=112, fields=4)
    browser.open(page)
    layers = page.models[0].recording.layers
    for number, layer in enumerate(layers):
        place = layer.tokens // 3
        expected = layer.mixed.rows(torch.tensor([place]))[:, 0].abs().mean(0).double()
        shown = torch.tensor(browser(f"contagg.row({number}, {place})"), dtype=torch.float64)
        assert float((shown - expected).abs().sum() / expected.sum()) < 0.02, layer.name
    assert len(page.models[0].fields) == 4 and layers[1].residual is not None


def test_numbers_that_python_holds_grow_with_the_tokens() -> None:
    """Four times the tokens take no more than five times the memory of the packed page, where N x N would take 16."""
    model = contagg.create("container_light_tiny", **SIZES)
    held = []
    for side in (64, 128):
        page = contagg.explore(model, photograph(side, side), size=side, fields=0)
        tracemalloc.start()
        assert page.html
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert held[1] < 5 * held[0]
    assert np.isfinite(held).all()


def test_what_is_no_model_is_refused_and_one_without_weights_is_not() -> None:
    with pytest.raises(UserError, match=r"takes a torch\.nn\.Module, but str is of str.* timm\.create_model"):
        contagg.explore("vit_tiny_patch16_224", photograph(8, 8))
    with pytest.raises(UserError, match="explore needs a model"):
        contagg.explore({}, photograph(8, 8))
    model = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Identity())
    (numbers,) = contagg.explore(model, photograph(8, 8), size=32, layers="0", fields=0).numbers()
    assert [layer["name"] for layer in numbers["layers"]] == ["0"]


def test_a_page_leaves_a_frozen_part_of_a_model_frozen() -> None:
    model = contagg.create("container_light_tiny", **SIZES)
    model.stages[0].eval()
    contagg.explore(model, photograph(64, 64), size=64, fields=1)
    assert model.training and model.stages[1].training and not model.stages[0].training


def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> list[str]:
    monkeypatch.setattr("contagg.explorer.progress.Progress.EVERY", 0.0)
    monkeypatch.setattr("contagg.explorer.progress.LARGE", 64 * 64)
    with caplog.at_level("INFO", logger="contagg"):
        assert contagg.explore({"a": model}, photograph(64, 64), size=64, fields=4).html
    return [record.getMessage() for record in caplog.records]


def test_how_far_it_is_and_how_long_it_takes_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = told(caplog, monkeypatch, timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4))
    assert lines[0] == "a: running it on 64 x 64 pixels, which may take minutes"
    assert lines[1].startswith("a: 25 % of the network has run, 1 layer recorded, about ")
    words = "\n".join(lines)
    for each in ("layer 3 of 4, ", "receptive field 1 of 4, about ", "a: layer 2 of 4 is in the page, about "):
        assert each in words


def test_a_page_that_no_browser_takes_is_refused_after_the_first_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contagg.explorer.progress.MOST_BYTES", 2 * 17 * 192 * 4 * 4 - 1)  # of 4 blocks, in float32
    model, ran = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4), list[int]()
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    with pytest.raises(UserError, match=r"an image of 64 x 64 pixels would hold about 0 MB .* a smaller --size"):
        contagg.explore(model, photograph(64, 64), size=64)
    assert ran == [0]
    monkeypatch.setattr("contagg.explorer.progress.MOST_BYTES", 2**28)
    assert contagg.explore(model, photograph(64, 64), size=64, fields=0).models


def test_the_command_tells_of_its_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contagg.explorer.progress.LARGE", 64 * 64)
    photograph(64, 64).save(tmp_path / "a.png")
    words = ["inspect", "explore", "container_light_tiny", str(tmp_path / "a.png"), "--size", "64", "--fields", "0"]
    main([*words, "-o", str(tmp_path / "a.html")])
    assert capsys.readouterr().err.count("running it on 64 x 64 pixels, which may take minutes\n") == 1
