"""timm loads what `contagg export timm` writes, by both of its ways, and prepares images as the run did."""

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from PIL import Image
from released_names import to_released
from timm.data import create_transform, resolve_model_data_config
from torch import nn

import contagg
import contagg.checkpoints.timm_folder as timm_folder
from contagg.checkpoints.fitting import init_weights
from contagg.checkpoints.weights import save_weights
from contagg.cli import main
from contagg.training.building import Preprocessing

SMALL = {"embed_dims": [32, 32, 64, 64], "depths": [1, 1, 1, 1], "num_classes": 5}
DEIT = {"patch_size": 7, "embed_dim": 12, "depth": 1, "num_heads": 2, "img_size": 28, "num_classes": 5}
CLASSES = ["ant", "bee", "cat", "dog", "eel"]
NETWORKS = {
    "any size": ("container_light_tiny", SMALL, [3, 41, 67]),
    "grey, other mixers": ("container_light_tiny", SMALL | {"in_chans": 1, "affinity": "dwconv3"}, [1, 28, 28]),
    "one size": ("container_tiny", SMALL | {"affinity": "token mlp/32", "img_size": 64}, [3, 64, 64]),
    "features alone": ("container_light_tiny", SMALL | {"num_classes": 0}, [3, 32, 32]),
    "timm's": ("deit_tiny_patch16_224", DEIT, [3, 28, 28]),
}


def a_run(folder: Path, network: str = "any size", **changes: object) -> tuple[Path, nn.Module]:
    """A run folder with weights that are far from a network's start."""
    name, options, input_size = NETWORKS[network]
    torch.manual_seed(0)
    model = contagg.create(name, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
    preprocessing = {
        "input_size": input_size,
        "mean": [0.4, 0.5, 0.75],
        "std": [0.2, 0.25, 0.3],
        "crop": "resized",
        "crop_fraction": 0.8,
        "interpolation": "bilinear",
    }
    metadata = {
        "task": "classification",
        "model": {"name": name, "options": options},
        "class_names": CLASSES,
        "preprocessing": preprocessing | changes,
    }
    save_weights(folder / "checkpoints" / "best.safetensors", model.state_dict(), metadata)
    return folder, model


@pytest.mark.parametrize("network", NETWORKS)
def test_timm_answers_as_the_run_by_both_ways(tmp_path: Path, network: str) -> None:
    run, model = a_run(tmp_path / "run", network)
    out = tmp_path / "out" / "weights"
    main(["export", "timm", str(run), str(out)])
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    name, options, input_size = NETWORKS[network]
    by_file = timm.create_model(name, checkpoint_path=out / "model.safetensors", **options).eval()
    by_folder = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    images = torch.randn(3, *input_size)
    for loaded in (by_file, by_folder):
        assert torch.equal(loaded(images), model(images))
    assert by_folder.pretrained_cfg.get("label_names") == (None if network == "features alone" else CLASSES)
    assert resolve_model_data_config(by_folder)["input_size"] == tuple(input_size)


def test_the_hub_form_loads_from_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a download: the same code of timm and huggingface_hub, which finds the files in its cache."""
    run, model = a_run(tmp_path / "run")
    cached = tmp_path / "cache" / "models--owner--name"
    main(["export", "timm", str(run), str(cached / "snapshots" / "0" / "")])
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    loaded = timm.create_model("hf-hub:owner/name", pretrained=True, cache_dir=tmp_path / "cache").eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(images), model(images))
    finetuned = timm.create_model("hf-hub:owner/name", pretrained=True, cache_dir=tmp_path / "cache", num_classes=3)
    assert finetuned(images).shape == (2, 3)


@pytest.mark.parametrize(("crop", "tolerance"), [("resized", 1e-6), ("padded", 0.03)])
@pytest.mark.parametrize("network", ["any size", "grey, other mixers"])
def test_timm_prepares_images_as_the_run_did(tmp_path: Path, network: str, crop: str, tolerance: float) -> None:
    """`padded` resizes tensors, timm resizes Pillow's images: up to a level or two of 255 apart."""
    run, _ = a_run(tmp_path / "run", network, crop=crop)
    main(["export", "timm", str(run), str(tmp_path / "out")])
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    _, metadata = timm_folder.open_run(str(run))
    grey = metadata["preprocessing"]["input_size"][0] == 1
    image = Image.effect_mandelbrot((90, 61), (-2, -1.5, 1, 1.5), 100).convert("L" if grey else "RGB")
    ours = Preprocessing.read(metadata, "run").evaluation()(image)
    theirs = create_transform(**resolve_model_data_config(loaded))(image)
    torch.testing.assert_close(theirs, ours, atol=tolerance, rtol=0)


def test_it_says_how_to_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, model = a_run(tmp_path / "run")
    main(["export", "timm", str(run), str(tmp_path / "out")])
    printed = capsys.readouterr().out.strip().splitlines()
    names: dict = {}
    exec(f"import timm\nmodel = {printed[-1]}", names)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(names["model"].eval()(images), model(images))
    assert printed[2].startswith("import contagg")


def test_a_folder_with_other_answers_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = a_run(tmp_path / "run")
    save = timm_folder.save_for_hf

    def spoil(model: nn.Module, *arguments: object, **options: object) -> None:
        model.norm.bias.data += 1
        save(model, *arguments, **options)
        model.norm.bias.data -= 1

    monkeypatch.setattr(timm_folder, "save_for_hf", spoil)
    with pytest.raises(SystemExit):
        main(["export", "timm", str(run), str(tmp_path / "out")])
    assert "nothing was written: timm's answers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def detector(folder: Path) -> Path:
    save_weights(folder / "detector.safetensors", {"a": torch.zeros(1)}, {"task": "detection"})
    return folder / "detector.safetensors"


def bare(folder: Path) -> Path:
    save_weights(folder / "bare.safetensors", {"a": torch.zeros(1)}, {})
    return folder / "bare.safetensors"


def truncated(folder: Path) -> Path:
    run, _ = a_run(folder / "run")
    path = run / "checkpoints" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    return run


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a name": (lambda folder: "container_light", "'container_light' is no run folder and no weights file"),
    "an empty folder": (lambda folder: folder, "is no run folder with weights"),
    "a missing file": (lambda folder: folder / "none.safetensors", "no weights at"),
    "a detector": (detector, "is of the task 'detection'; the networks of classification and dino can be exported"),
    "no description": (bare, "does not say which model it is of"),
    "a truncated file": (truncated, "it may be truncated"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    make, message = BAD[what]
    with pytest.raises(SystemExit) as leave:
        main(["export", "timm", str(make(tmp_path)), str(tmp_path / "out")])
    printed = capsys.readouterr().err
    assert leave.value.code == 2 and message in printed and printed.count("\n") == 1


def test_a_file_in_the_way_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = a_run(tmp_path / "run")
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit):
        main(["export", "timm", str(run), str(tmp_path / "out")])
    assert "/out cannot be written" in capsys.readouterr().err


def test_the_configuration_is_the_hubs(tmp_path: Path) -> None:
    run, _ = a_run(tmp_path / "run", "grey, other mixers", crop="padded")
    main(["export", "timm", str(run), str(tmp_path / "out")])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "container_light_tiny" and config["label_names"] == CLASSES
    said = config["pretrained_cfg"]
    assert said["input_size"] == [1, 28, 28] and said["num_classes"] == 5
    assert said["mean"] == pytest.approx([0.55]) and said["std"] == pytest.approx([0.25])
    assert (said["interpolation"], said["crop_pct"], said["crop_mode"]) == ("bilinear", 1.0, "squash")


def test_the_authors_checkpoint_is_validated_and_fine_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two commands: their file under their names becomes a folder that validates on ImageNet's folders."""
    torch.manual_seed(0)
    model = contagg.create("container_v1_light").eval()
    file = tmp_path / "checkpoint.pth"
    torch.save({"model": to_released(model.state_dict())}, file)
    synsets = ["n01440764", "n03888257"]
    for name in synsets:
        image = tmp_path / "imagenet" / "val" / name / "a.png"
        image.parent.mkdir(parents=True)
        Image.effect_noise((40, 30), 90).convert("RGB").save(image)
    folder = tmp_path / "released"
    main(["export", "timm", "container_v1_light", str(folder), "--weights", str(file)])
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images), model(images))
    main(["validate", str(folder), "--data.name", "folder", "--data.root", str(tmp_path / "imagenet")])
    assert "of 2 images" in capsys.readouterr().out
    found = contagg.create("container_v1_light", num_classes=2)
    lines = init_weights(found, str(folder), class_names=synsets)
    assert torch.equal(found.stages[3].blocks[2].mlp.fc1.weight, model.stages[3].blocks[2].mlp.fc1.weight)
    assert any("classifier" in line for line in lines)


def test_a_name_needs_weights_that_fit_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "timm", "container_light_tiny", str(tmp_path / "out")])
    assert "or a name with --weights" in capsys.readouterr().err
    file = tmp_path / "three.pth"
    torch.save(contagg.create("container_light_tiny", num_classes=3).state_dict(), file)
    with pytest.raises(SystemExit):
        main(
            ["export", "timm", "container_light_tiny", str(tmp_path / "out"), "--weights", str(tmp_path / "three.pth")]
        )
    assert "head.fc.weight (3, 192)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
