import argparse
import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import contagg
from contagg.benchmark import TABLE1, speed
from contagg.benchmark.bench import Row, commit_of, describe, run, write
from contagg.benchmark.cost import multiply_adds
from contagg.benchmark.variants import Setting, inference, training_step, variants_of
from contagg.models import CONFIGS, create

SETTING = Setting(device=torch.device("cpu"), precision="fp32", batch=2, size=64)


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    speed(parser)
    return parser.parse_args(words)


def test_a_run_writes_a_row_a_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["container_light_tiny", "resnet18", "--variants", "plain,fused", "--train", "--batch", "2", "--size", "64"]
    run(options(*words, "--rounds", "2", "--out", str(tmp_path), "--device", "cpu"))
    rows = list(csv.DictReader((tmp_path / "bench.csv").open()))
    variants = [(row["model"], row["variant"]) for row in rows]
    ours = [("container_light_tiny", variant) for variant in ("plain", "fused", "training step")]
    assert variants == [*ours, ("resnet18", "plain"), ("resnet18", "training step")]
    about = json.loads((tmp_path / "bench.json").read_text())
    rate = about["multiply_adds_per_second_fp32"]
    for row in rows:
        seconds, cost = float(row["seconds_median"]), 1e9 * float(row["multiply_adds_billions"])
        assert float(row["images_per_second"]) == pytest.approx(2 / seconds, rel=1e-3)
        passes = 3 if row["variant"] == "training step" else 1
        assert float(row["gemm_utilisation"]) == pytest.approx(passes * 2 * cost / seconds / rate, rel=1e-3)
        assert float(row["peak_megabytes"]) > 0.5
    assert about["batch"] == 2 and about["commit"] and "container_light_tiny" in capsys.readouterr().out


def test_a_picture_is_drawn_where_accuracies_of_two_networks_are_known(tmp_path: Path) -> None:
    numbers = {field.name: 1.0 for field in fields(Row)} | {"variant": "plain", "precision": "fp32"}
    light, residual, unknown = (
        Row(**numbers | {"model": name, "reported_top1": top1})  # type: ignore[arg-type]
        for name, top1 in (("container_light", 82.0), ("resnet50", 76.1), ("container_next", None))
    )
    write(tmp_path / "one", [light, unknown], {"device": "toy"})
    write(tmp_path / "two", [light, residual, unknown], {"device": "toy"})
    assert not (tmp_path / "one/bench.png").exists() and (tmp_path / "two/bench.png").exists()


def test_the_command_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["contagg", "compare", "--affinity", "attention + dwconv5", "token mlp"]
    monkeypatch.setattr(sys, "argv", words)
    assert shlex.split(describe(torch.device("cpu"))["command"]) == words


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_figures_are_of_a_commit_of_ours_or_of_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # of a hook, which mean another repository
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@b.c"]
    (tmp_path / "theirs.py").touch()
    (tmp_path / "installed.py").touch()
    for words in (["init", "-q"], ["add", "theirs.py"], ["commit", "-q", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert commit_of(tmp_path / "theirs.py") == head[:7]
    assert commit_of(tmp_path / "installed.py") == "unknown"


def test_a_machine_without_git_has_figures_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe(torch.device("cpu"))["commit"] == "unknown"


def test_every_network_of_table1_exists_and_only_ours_are_fused() -> None:
    for name in TABLE1:
        variants = variants_of(create(name), ("plain", "fused", "fused+compiled"))
        assert (len(variants) == 3) == name.startswith("container")


def test_forms_answer_alike() -> None:
    model = contagg.create("container_light_tiny", num_classes=7).eval()
    plain, fused = (inference(model, variant, SETTING)() for variant in ("plain", "fused"))
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


def test_a_training_step_trains_a_copy() -> None:
    model = contagg.create("container_light_tiny", num_classes=7)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = training_step(model, SETTING)
    losses = [float(step()) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Small ones differ in width and depth alone. Ours stay in the suite: all of them trace for minutes.
COMPILED = [*(name for name in CONFIGS if not name.endswith("_tiny")), "vit_tiny_mixer", "deit_small_pam"]
OURS = {"container", "container_light", "container_next", "vit_tiny_mixer"}


@pytest.mark.parametrize("name", [n if n in OURS else pytest.param(n, marks=pytest.mark.slow) for n in COMPILED])
@pytest.mark.parametrize("variant", ["plain", "fused"])
def test_one_graph_without_breaks(name: str, variant: str) -> None:
    torch._dynamo.reset()
    size = 64
    # A block of each stage, for each more is traced anew; the vision transformer's are one stage.
    shorter = {"depth": 2}
    if name in CONFIGS:
        shorter = {"depths": (1, 1, 1, 1), "affinity": [words[-1] for words in CONFIGS[name].blocks]}
    model = create(name, img_size=size, **shorter).eval()
    model = contagg.fuse(model) if variant == "fused" else model
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        got = torch.compile(model, fullgraph=True, backend="eager")(images)
        torch.testing.assert_close(got, model(images))


@pytest.mark.slow
def test_the_compiled_form_answers_alike() -> None:
    model = create("container_light_tiny").eval()
    plain = inference(model, "plain", SETTING)()
    torch.testing.assert_close(inference(model, "fused+compiled", SETTING)(), plain, rtol=1e-4, atol=1e-5)


def test_counts_agree_with_fvcore() -> None:
    counting = pytest.importorskip("fvcore.nn")
    model = contagg.fuse(create("container_light_tiny", img_size=64).eval())
    other = counting.FlopCountAnalysis(model, torch.randn(1, 3, 64, 64)).unsupported_ops_warnings(False)
    other = other.uncalled_modules_warnings(False)
    # fvcore knows no fused attention, counts five operations a normalised number, and four for each pooled one.
    counted = sum(count for kind, count in other.by_operator().items() if kind in ("linear", "conv", "addmm"))
    attention = 2 * 4**2 * 192
    assert multiply_adds(model, (64, 64)) == counted + attention


def test_bad_arguments() -> None:
    for words in (
        ["--variants", "plane"],
        ["--rounds", "0"],
        ["--precisions", "fp64"],
        ["--threads", "100000"],
        ["--out", __file__],
    ):
        with pytest.raises(argparse.ArgumentError):
            options("container", *words)
