"""Exported files answer as the network does, at any size, and say how to prepare images."""

import json
import zipfile
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

import onnx
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import contagg
import contagg.export.command as command
from contagg.affinity import Affinity, Grid, Site
from contagg.arguments import image_size
from contagg.checkpoints.weights import save_weights
from contagg.errors import UserError
from contagg.export import target
from contagg.export.formats import open_onnx, open_pt2, to_onnx, to_pt2
from contagg.export.program import export_program
from contagg.nn.aggregation import serves_any_size

SMALL = {"embed_dims": (32, 32, 64, 64), "depths": (1, 1, 1, 1), "num_classes": 5, "img_size": 64}
SIZES = [(2, 64, 64), (2, 91, 70), (1, 40, 129), (3, 301, 400)]


def drawn(name: str, **arguments: object) -> nn.Module:
    """A small network whose norms and positions are far from where they start."""
    torch.manual_seed(0)
    model = contagg.create(name, **(SMALL | arguments)).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("position.embedding"):
            parameter.data *= 50
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
    return model


def assert_answers(answer: object, model: nn.Module, sizes: list[tuple[int, int, int]]) -> None:
    with torch.no_grad():
        for batch, height, width in sizes:
            images = torch.randn(batch, 3, height, width)
            torch.testing.assert_close(answer(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def light() -> tuple[nn.Module, ExportedProgram]:
    model = drawn("container_light_tiny")
    return model, export_program(model, (3, 64, 64))


def test_pt2_answers_at_any_size_and_batch(light: tuple[nn.Module, ExportedProgram]) -> None:
    assert_answers(open_pt2(to_pt2(light[1], {})), light[0], SIZES)


def test_onnx_answers_at_any_size_and_batch_with_learnt_positions() -> None:
    model = drawn("container_tiny")
    assert_answers(open_onnx(to_onnx(export_program(model, (3, 64, 64)), {})), model, SIZES)


def test_a_static_dense_affinity_is_exported_for_its_grid_and_any_batch() -> None:
    model = drawn("container_tiny", affinity=("dwconv3", "token mlp/32", "token mlp rank 3", "attention + token mlp"))
    assert not serves_any_size(model) and serves_any_size(drawn("container_tiny"))
    answer = open_pt2(to_pt2(export_program(model, (3, 64, 64), any_size=False), {}))
    assert_answers(answer, model, [(1, 64, 64), (3, 64, 64)])


@pytest.mark.parametrize("words", [["attention rope", "cross scan16"], ["window7 shifted", "attention + dwconv3"]])
def test_a_transformer_of_affinities_is_exported_for_its_size_and_any_batch(words: list[str]) -> None:
    """With a class token and without."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": (64, 96)}
    model = contagg.create("vit_tiny_mixer", affinity=words, num_classes=5, **sizes).eval()
    answer = open_onnx(to_onnx(export_program(model, (3, 64, 96), any_size=False), {}))
    assert_answers(answer, model, [(1, 64, 96), (3, 64, 96)])


def test_onnx_answers_names_its_axes_and_carries_metadata(light: tuple[nn.Module, ExportedProgram]) -> None:
    content = to_onnx(light[1], {"preprocessing": {"mean": [0.5]}, "class_names": ["a", "b"]})
    assert_answers(open_onnx(content), light[0], SIZES)
    file = onnx.load_from_string(content)
    onnx.checker.check_model(file)
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in file.graph.input]
    assert shapes == [["batch", 3, "height", "width"]]
    metadata = {entry.key: json.loads(entry.value) for entry in file.metadata_props}
    assert metadata == {"preprocessing": {"mean": [0.5]}, "class_names": ["a", "b"]}


def test_the_command_exports_a_run_with_its_classes_and_preprocessing(tmp_path: Path, capsys) -> None:
    model = drawn("container_light_tiny", in_chans=1)
    options = {**SMALL, "in_chans": 1}
    preprocessing = {
        "input_size": [1, 48, 64],
        "mean": [0.1],
        "std": [0.3],
        "crop": "resized",
        "crop_fraction": 0.875,
        "interpolation": "bilinear",
    }
    classes = ["a", "b", "c", "d", "e"]
    save_weights(
        tmp_path / "run.safetensors",
        model.state_dict(),
        {
            "task": "classification",
            "model": {"name": "container_light_tiny", "options": options},
            "class_names": classes,
            "preprocessing": preprocessing,
        },
    )
    out = tmp_path / "out" / "run.pt2"
    command.run(Namespace(model=str(tmp_path / "run.safetensors"), weights=None, form="pt2", size=(48, 64), out=out))
    assert "any batch of 48 x 64" in capsys.readouterr().out
    said = {"contagg.json": ""}
    images = torch.randn(4, 1, 48, 64)
    answer = torch.export.load(out, extra_files=said).module()(images)
    torch.testing.assert_close(answer, model(images), rtol=1e-4, atol=1e-5)
    metadata = json.loads(said["contagg.json"])
    assert metadata["preprocessing"] == preprocessing and metadata["class_names"] == classes
    assert zipfile.is_zipfile(out)


def test_a_file_with_other_answers_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = drawn("container_light_tiny").requires_grad_(False)
    nn.init.constant_(other.head.fc.bias, 1.0)
    monkeypatch.setattr(command, "open_pt2", lambda content: other)
    monkeypatch.setattr(command, "export_program", lambda *arguments: None)
    monkeypatch.setattr(command, "to_pt2", lambda *arguments: b"")
    monkeypatch.setattr(command, "open_model", lambda *arguments: (drawn("container_light_tiny"), {}))
    out = tmp_path / "model.pt2"
    with pytest.raises(UserError, match=r"was not written: its answers differ"):
        command.run(Namespace(model="container_light_tiny", weights=None, form="pt2", size=None, out=out))
    assert not out.exists()


def test_arguments() -> None:
    assert image_size("224") == (224, 224) and image_size("64,96") == (64, 96)
    for wrong in ("0", "64,", "64x96", "-3", "64,96,3"):
        with pytest.raises(ArgumentTypeError, match="is not HEIGHT,WIDTH"):
            image_size(wrong)
    assert target(Namespace(model="runs/best.safetensors", form="onnx", out=None)) == Path("best.onnx")
    assert target(Namespace(model="m", form="pt2", out=Path("a/b.pt2"))) == Path("a/b.pt2")
    for form, out in (("onnx", "b.pt2"), ("onnx", "b.pth"), ("pt2", "b")):
        with pytest.raises(UserError, match=f"its ending must be .{form}"):
            target(Namespace(model="m", form=form, out=Path(out)))


class Branches(Affinity):
    """One's own, with a branch on what the image holds: no graph."""

    dynamic, heads = False, 1

    def __init__(self, site: Site) -> None:
        super().__init__()

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        return values if values.sum().item() > 0 else 2 * values

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def multiply_adds(self, grid: Grid) -> int:
        return 0


class Bessel(Branches):
    """Of operations that ONNX does not have."""

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        return torch.special.bessel_j1(values)


def test_a_mixer_of_ones_own_that_cannot_be_exported_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^\w+ cannot be exported: .*data-dependent.*$"):
        export_program(drawn("container_light_tiny", affinity=Branches), (3, 64, 64), any_size=False)
    assert capsys.readouterr().err == ""  # and no graph
    program = export_program(drawn("container_light_tiny", affinity=Bessel), (3, 64, 64), any_size=False)
    with pytest.raises(UserError, match=r"^the network cannot be exported to ONNX: .*bessel_j1.*$"):
        to_onnx(program, {})


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "d.safetensors", {"a": torch.zeros(1)}, {"task": "detection"})
    with pytest.raises(UserError, match="is of the task 'detection'"):
        command.open_described(str(tmp_path / "d.safetensors"), None)


def test_timm_networks_are_described_too() -> None:
    model, description = command.open_described("resnet18", None)
    assert isinstance(model, timm.models.ResNet)
    assert description["preprocessing"]["input_size"] == (3, 224, 224)


def test_what_is_taken_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_weights(
        tmp_path / "run" / "checkpoints" / "last.safetensors",
        contagg.create("container_light_tiny", num_classes=2).state_dict(),
        {"model": {"name": "container_light_tiny", "options": {"num_classes": 2}}, "class_names": ["a", "b"]},
    )
    _, description = command.open_described(str(tmp_path / "run"), None)
    assert description["class_names"] == ["a", "b"]
    assert [message for message in caplog.messages if message.endswith("last.safetensors is taken")] == caplog.messages[
        :1
    ]
    with pytest.raises(UserError, match="has weights of its own"):
        command.open_described(str(tmp_path / "run"), "other.pth")
