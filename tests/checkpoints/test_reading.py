"""What may lie in a file of weights: plain tensors, read without code, without surprises in memory, names as text."""

import argparse
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import contagg
from contagg.checkpoints.fitting import init_weights
from contagg.checkpoints.hub_config import check_preprocessing
from contagg.checkpoints.reading import read_checkpoint
from contagg.checkpoints.weights import load_model, read_weights, save_weights
from contagg.cli import main
from contagg.errors import UserError

STATE = {"layer.weight": torch.arange(6.0).view(2, 3)}
PREPROCESSING = {
    "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3,
    "crop": "resized", "crop_fraction": 1.0, "interpolation": "bilinear",
}  # fmt: skip


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1, nested=argparse.Namespace(names=["a"])),
        {"metric": np.float64(0.5), "epoch": np.int64(3), "best": np.bool_(True), "lr": np.float32(0.5)},
        {"folder": Path("runs") / "x"},
        torch.optim.AdamW([nn.Parameter(torch.ones(2))]).state_dict(),
    ],
    ids=["options", "numbers of NumPy", "paths", "an optimizer"],
)
def test_plain_holders_beside_weights_are_passed_over(tmp_path: Path, beside: Any) -> None:
    checkpoint = read_checkpoint(saved(tmp_path / "run.pth", {"model": STATE, "args": beside}))
    assert list(checkpoint.parts) == ["model"]
    assert torch.equal(checkpoint.parts["model"]["layer.weight"], STATE["layer.weight"])


def test_both_forms_of_torchs_files(tmp_path: Path) -> None:
    for legacy in (False, True):
        path = saved(tmp_path / "run.pth", STATE, _use_new_zipfile_serialization=not legacy)
        assert torch.equal(read_weights(path)[0]["layer.weight"], STATE["layer.weight"])


def compressed(path: Path) -> None:
    """A megabyte that would take a gigabyte."""
    saved(path, STATE)
    with zipfile.ZipFile(path) as old:
        entries = {entry.filename: old.read(entry) for entry in old.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, body in entries.items():
            new.writestr(name, bytes(2**26) if "/data/" in name else body)


def a_model_itself(path: Path) -> None:
    saved(path, nn.Linear(2, 2))


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "compressed": (compressed, "is a compressed archive: torch stores weights as they are"),
    "a module itself": (a_model_itself, r"asks for torch\.nn\.modules\.linear\.Linear, and code in it was not run"),
    "code": (lambda path: saved(path, {"model": STATE, "args": Runs()}), r"asks for \w+\.mkdir, and code in it"),
    "code in a plain pickle": (lambda path: path.write_bytes(pickle.dumps(Runs())), "code in it was not run"),
    "sparse": (lambda path: saved(path, {"a": torch.eye(3).to_sparse()}), "a is no dense tensor with values"),
    "without values": (lambda path: saved(path, {"a": torch.empty(3, device="meta")}), "a is no dense tensor"),
    "numbers of 8 bits": (
        lambda path: saved(path, {"a": torch.ones(3, dtype=torch.float8_e4m3fn)}),
        "a is of torch.flo",
    ),
    "whole numbers of 8 bits": (lambda path: saved(path, {"a": torch.ones(3, dtype=torch.int8)}), "a is of torch.int8"),
    "complex numbers": (lambda path: saved(path, {"a": torch.ones(3) * 1j}), "a is of torch.complex64: weights are"),
    "an empty mapping": (lambda path: saved(path, {}), "holds no state dict"),
    "a number": (lambda path: saved(path, 3), "holds no state dict"),
    "names that are numbers": (lambda path: saved(path, {1: torch.ones(2)}), "holds no state dict"),
    "other keys": (lambda path: saved(path, {"weights": STATE}), "holds no network: none of model, .*its keys weights"),
    "text": (lambda path: path.write_text("hello"), "no plain file of weights|cannot be read as weights"),
    "nothing": (lambda path: path.write_bytes(b""), "cannot be read as weights"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = REFUSED[what]
    make(tmp_path / "stranger.pth")
    with pytest.raises(UserError, match=message) as error:
        init_weights(nn.Linear(3, 2), str(tmp_path / "stranger.pth"))
    assert "weights_only" not in str(error.value), "torch's advice is to run the code"
    assert not (tmp_path / "ran").exists()


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 3), "bias": torch.ones(2, dtype=torch.int64)}
    with pytest.raises(UserError, match=r"1 tensor of whole numbers: bias torch\.int64"):
        init_weights(nn.Linear(3, 2), str(saved(tmp_path / "whole.pth", state)))


def test_a_refused_file_is_one_line_and_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "odd.pth").write_bytes(b"\x80\x4f" + pickle.dumps({"a": 1}))
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "odd.pth")
    assert not recwarn.list


def test_of_several_parts_the_network_is_taken(tmp_path: Path) -> None:
    """Whatever stands first in the file."""
    for keys in (("model", "model_ema"), ("model_ema", "model"), ("state_dict_ema", "state_dict")):
        parts = {key: {"a": torch.full((1,), float("ema" in key))} for key in keys}
        checkpoint = read_checkpoint(saved(tmp_path / "run.pth", parts))
        network = next(key for key in keys if "ema" not in key)
        average = next(key for key in keys if "ema" in key)
        state, said = checkpoint.network()
        assert float(state["a"]) == 0 and said == f"{network!r}, not {average!r}"
        state, said = checkpoint.network(ema=True)
        assert float(state["a"]) == 1 and said == f"{average!r}, not {network!r}"
    only = read_checkpoint(saved(tmp_path / "run.pth", {"model_ema": {"a": torch.ones(1)}, "epoch": 3}))
    assert only.network() == ({"a": torch.ones(1)}, "")


def classifier(path: Path, **changes: Any) -> Path:
    options = {"embed_dims": [8, 8, 16, 32], "depths": [1, 1, 1, 1], "num_classes": 2}
    metadata = {"task": "classification", "model": {"name": "container_light_tiny", "options": options}}
    metadata |= {"class_names": ["a", "b"], "preprocessing": PREPROCESSING}
    save_weights(path, contagg.create("container_light_tiny", **options).state_dict(), metadata | changes)
    return path


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_names_of_classes_are_printed_as_text(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["cat\x1b]0;owned\x07\x1b[2J\u202e", "dog\r\n" + "x" * 100_000]
    path = classifier(tmp_path / "best.safetensors", class_names=names)
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    main(["predict", str(path), str(tmp_path / "x.png"), "--output", form])
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines()) and len(printed) < 2000
    assert r"cat\x1b]0;owned\x07\x1b[2J\u202e" in printed.replace(r"\\", "\\")


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["a", 3], "ab", {"a": 1}, [None, None]])
def test_a_network_has_a_name_for_each_output(tmp_path: Path, names: Any) -> None:
    with pytest.raises(UserError, match=r"best\.safetensors.*(names \d class|list of words|name of a class)"):
        load_model(classifier(tmp_path / "best.safetensors", class_names=names))


@pytest.mark.parametrize(
    "changes",
    [
        {"input_size": [3, 10**6, 10**6]}, {"input_size": [3, 32]}, {"input_size": "32"}, {"input_size": [3, 32.5, 32]},
        {"mean": [float("nan")] * 3}, {"mean": ["a"] * 3}, {"std": [0, 1, 1]}, {"std": []}, {"std": [10**400, 1, 1]},
        {"crop": "none"}, {"crop_fraction": 0}, {"crop_fraction": None}, {"crop_fraction": 1e-300},
        {"crop_fraction": 1e-3}, {"std": [1e-30] * 3}, {"interpolation": "lanczos"},
    ],
    ids=str,
)  # fmt: skip
def test_images_are_prepared_in_a_possible_way(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"best\.safetensors.*preprocessing .* does not say how images"):
        load_model(classifier(tmp_path / "best.safetensors", preprocessing=PREPROCESSING | changes))
    check_preprocessing(json.loads(json.dumps(PREPROCESSING)))


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"num_classes": 0}, {}, "holds a network without a classifier"),
        ({"num_classes": 2, "in_chans": 1}, {}, r"images of shape \(1, 3, 32, 32\)|cannot take images"),
        ({"num_classes": 2, "img_size": 48}, {}, r"cannot take images of \(3, 32, 32\): AssertionError: Input height"),
        ({"num_classes": 2}, {"class_names": None}, None),
    ],
)
def test_a_file_whose_parts_disagree(
    tmp_path: Path,
    options: dict[str, Any],
    changes: dict[str, Any],
    message: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {"patch_size": 16, "embed_dim": 12, "depth": 1, "num_heads": 2, "img_size": 32} | options
    metadata = {"task": "classification", "model": {"name": "deit_tiny_patch16_224", "options": options}}
    metadata |= {"class_names": ["a", "b"], "preprocessing": PREPROCESSING} | changes
    model = contagg.create("deit_tiny_patch16_224", **options)
    save_weights(tmp_path / "best.safetensors", model.state_dict(), metadata)
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    words = ["predict", str(tmp_path / "best.safetensors"), str(tmp_path / "x.png"), "--output", "csv"]
    if message is None:
        main(words)
        assert re.search(r",1,[01],0\.\d+\s", capsys.readouterr().out), "numbers stand for names"
        return
    with pytest.raises(SystemExit):
        main(words)
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
