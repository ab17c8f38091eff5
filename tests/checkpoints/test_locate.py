"""A run folder, a hub's folder, a weights file or a name: what each word means, and what is answered to other words."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from contagg.checkpoints.locate import HEADER_LIMIT, is_name, task_of, weights_file, weights_in
from contagg.checkpoints.reading import read_checkpoint
from contagg.checkpoints.weights import load_model, save_weights
from contagg.cli import main
from contagg.errors import UserError

DEIT = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2, "img_size": 32, "num_classes": 3}


def written(path: Path, task: str = "classification") -> Path:
    save_weights(path, {"a": torch.zeros(1)}, {"task": task})
    return path


def test_of_a_run_the_best_weights_else_the_last_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    last = written(tmp_path / "checkpoints" / "last.safetensors", "dino")
    assert weights_in(tmp_path) == weights_file(tmp_path) == last and task_of(tmp_path) == "dino"
    assert caplog.messages[0].endswith("checkpoints has no best.safetensors: last.safetensors is taken")
    caplog.clear()
    assert weights_in(last) == last
    best = written(tmp_path / "checkpoints" / "best.safetensors")
    assert weights_in(tmp_path) == best and not caplog.messages


@pytest.mark.parametrize("word", ["container_light", "resnet50.a1_in1k"])
def test_names(word: str) -> None:
    assert is_name(word) and weights_file(word) is None and task_of(word) is None


@pytest.mark.parametrize(
    "word",
    [
        "google/vit-base-patch16-224",
        "hf-hub:google/vit-base-patch16-224",
        "https://huggingface.co/google/vit-base-patch16-224",
    ],
)
@pytest.mark.parametrize("command", ["predict", "validate", "knn", "inspect affinity", "export onnx", "export timm"])
def test_a_hubs_name_is_answered_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("x.png")
    rest = {"predict": ["x.png"], "inspect affinity": ["x.png"], "knn": ["digits"], "export timm": ["out"]}
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), word, *rest.get(command, [])])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "run `hf download google/vit-base-patch16-224 --local-dir FOLDER` and give FOLDER" in error


@pytest.mark.parametrize(
    ("word", "end"),
    [
        ("container_light", "expected there. Did you mean 'container_light_tiny.caltech101'?\n"),
        ("container_light_tiny.caltech", "expected there. With the package come 'container_light_tiny.caltech101'\n"),
        ("gone.pth", "expected there\n"),
    ],
)
def test_weights_that_are_not_there(
    word: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("x.png")
    with pytest.raises(SystemExit):
        main(["predict", word, "x.png"])
    assert capsys.readouterr().err.endswith(end)


def test_a_hubs_folder_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As timm writes it and `hf download` brings it: no metadata of ours."""
    model = timm.create_model("deit_tiny_patch16_224", **DEIT).eval()
    save_for_hf(
        model,
        tmp_path / "hub",
        model_config={"label_names": ["ant", "bee", "cat"]},
        model_args=DEIT,
        safe_serialization=True,
    )
    loaded, metadata = load_model(tmp_path / "hub")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert metadata["class_names"] == ["ant", "bee", "cat"] and metadata["preprocessing"]["crop_fraction"] == 0.9
    Image.effect_mandelbrot((50, 40), (-2, -1.5, 1, 1.5), 100).convert("RGB").save(tmp_path / "x.png")
    main(["predict", str(tmp_path / "hub"), str(tmp_path / "x.png"), "--output", "json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert sorted(guess["class"] for guess in found["classes"]) == ["ant", "bee", "cat"]
    main(["export", "timm", str(tmp_path / "hub"), str(tmp_path / "again")])
    again = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, "is not timm's (transformers' 'vit')"),
        ({"architecture": "resnet18", "model_args": {"pretrained": True}}, "the option 'pretrained' is not taken"),
        ({"architecture": "hf-hub:a/b"}, "must be the plain name of a network"),
        ({"architecture": "resnet18", "num_classes": 10**12}, "num_classes must be a number up to"),
        ({"architecture": "resnet18", "pretrained_cfg": 3}, "is no description of timm's"),
        ([1], "is no description of timm's"),
    ],
)
def test_other_folders_are_answered(tmp_path: Path, config: object, message: str) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        load_model(tmp_path)
    assert message in str(error.value)


def header(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


HEADERS = {
    "99 MB of lists": lambda: header(b'{"__metadata__":{"contagg":"{}"},"a":[' + b"[]," * 33_000_000 + b"[]]}"),
    "as many as are taken": lambda: header(b'{"a":[' + b"[]," * (HEADER_LIMIT // 3 - 100) + b"[]]}"),
    "deep": lambda: header(b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"),
    "deep inside": lambda: header(json.dumps({"__metadata__": {"contagg": "[" * 10**6}}).encode()),
    "a lie about its length": lambda: (2**63).to_bytes(8, "little") + b"{}",
    "a number": lambda: header(b"3"),
    "text for metadata": lambda: header(b'{"__metadata__":"text"}'),
    "a number for ours": lambda: header(b'{"__metadata__":{"contagg":"3"}}'),
    "nothing": lambda: b"",
    "other bytes": lambda: bytes(range(256)) * 10,
}


def test_headers_take_little_memory(tmp_path: Path) -> None:
    """In a process of its own, whose peak is measured."""
    paths = [tmp_path / f"{number}.safetensors" for number in range(len(HEADERS))]
    for path, make in zip(paths, HEADERS.values(), strict=True):
        path.write_bytes(make())
    code = (
        "import resource, sys\nfrom contagg.checkpoints.locate import task_of\n"
        "import contagg.checkpoints.reading as reading\nfrom contagg.errors import UserError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n    assert task_of(path) is None\n"
        "    try: reading.read_checkpoint(path)\n    except UserError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    printed = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    *errors, grown = printed.stdout.splitlines()
    for what, error in zip(HEADERS, errors, strict=True):
        assert "cannot be read as weights" in error or "says of itself" in error, what
    assert int(grown) < 400_000, "kilobytes"


@pytest.mark.parametrize("task", [["a"], 5, True, None, {"a": 1}])
def test_a_task_that_is_no_word_is_none(tmp_path: Path, task: object) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes(header(json.dumps({"__metadata__": {"contagg": json.dumps({"task": task})}}).encode()))
    assert task_of(path) is None
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(path), str(path)])
    assert stop.value.code == 2


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    for name in ("pipe.safetensors", "pipe.pth"):
        os.mkfifo(tmp_path / name)
        begin = time.monotonic()
        assert task_of(tmp_path / name) is None
        with pytest.raises(UserError, match="is neither a file nor a folder"):
            read_checkpoint(tmp_path / name)
        assert time.monotonic() - begin < 5
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match="is no run folder with weights"):
        read_checkpoint(tmp_path / "folder.safetensors")


def test_the_lines_are_seen_by_default() -> None:
    """Python shows warnings that nobody handles; the answers of commands go to standard output alone."""
    assert logging.getLogger("contagg.checkpoints.locate").getEffectiveLevel() <= logging.WARNING
