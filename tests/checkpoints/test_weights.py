"""Files of weights: written whole, read safely, refused by name."""

import pickle
from pathlib import Path

import pytest
import torch

import contagg
from contagg.checkpoints.fitting import load_into
from contagg.checkpoints.weights import load_model, read_weights, save_weights
from contagg.errors import UserError

METADATA = {"task": "classification", "model": {"name": "container_light_tiny", "options": {"num_classes": 3}}}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    model = contagg.create("container_light_tiny", num_classes=3).eval()
    path = tmp_path / "run" / "best.safetensors"
    save_weights(path, model.state_dict(), METADATA)
    return path, model


def test_a_file_knows_its_model(saved) -> None:
    path, model = saved
    loaded, metadata = load_model(path)
    images = torch.randn(2, 3, 41, 67)
    assert metadata == METADATA and not loaded.training
    assert torch.equal(loaded(images), model(images))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_timm_loads_the_file_too(saved) -> None:
    import timm

    path, model = saved
    loaded = timm.create_model("container_light_tiny", num_classes=3, checkpoint_path=str(path)).eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("moment", ["contagg.files.os.fsync", "contagg.files.Path.replace"])
def test_a_failed_write_leaves_the_file_before_it(saved, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = saved
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(moment, full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(path, {name: tensor + 1 for name, tensor in model.state_dict().items()}, {})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_another_architecture_is_named_with_tensors_and_shapes(saved) -> None:
    state = saved[1].state_dict()
    with pytest.raises(UserError) as error:
        load_into(contagg.create("container_light", num_classes=3), state, "'best.safetensors'")
    message = str(error.value)
    assert message.startswith("'best.safetensors' does not fit this Container: ")
    assert "tensors missing: stages.0.blocks.1.position.weight, stages.0.blocks.1.position.bias," in message
    assert "of another shape: stages.0.embedding.projection.weight (32, 3, 4, 4), the model's (64, 3, 4, 4)," in message
    with pytest.raises(UserError, match=r"8 tensors not in the model: stages\.3\.blocks\.0\.aggregation\.affinity\."):
        load_into(contagg.create("container_light_tiny", num_classes=3, affinity="dwconv5"), state, "'x'")


def test_a_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple:
            return Path.touch, (target,)

    for name in ("attack.pth", "plain.pth"):
        path = tmp_path / name
        if name == "plain.pth":
            path.write_bytes(pickle.dumps({"model": Attack()}))
        else:
            torch.save({"model": Attack()}, path)
        with pytest.raises(UserError, match="code in it was not run"):
            read_weights(path)
        assert not target.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(saved, suffix: str, share: float) -> None:
    path = saved[0].with_name(f"cut{suffix}")
    if suffix == ".pth":
        torch.save(saved[1].state_dict(), path)
        content = path.read_bytes()
    else:
        content = saved[0].read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=rf"cut\{suffix}' .*(truncated|no plain file)"):
        read_weights(path)


def test_other_files_are_answered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no weights at .*absent.pth'; a run folder or a weights file of a run"):
        read_weights(tmp_path / "absent.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        read_weights(tmp_path / "list.pth")
    save_weights(tmp_path / "bare.safetensors", {"weight": torch.ones(2)}, {})
    with pytest.raises(UserError, match="does not say which model it is of"):
        load_model(tmp_path / "bare.safetensors")
    save_weights(tmp_path / "detector.safetensors", {"weight": torch.ones(2)}, {"task": "detection"})
    with pytest.raises(
        UserError, match="is of the task 'detection': contagg inspect affinity, statistics and explore show"
    ):
        load_model(tmp_path / "detector.safetensors")


OLD = {
    "widths": [8, 8, 16, 32],
    "depths": [1, 1, 1, 1],
    "patches": [4, 2, 2, 1],
    "position": "convolution",
    "affinity": ["conv3", "conv5/8", "mlp rank 5", "attention + conv5"],
}
"""Options as version 0.1.0 wrote them."""
NEW = {
    "embed_dims": [8, 8, 16, 32],
    "depths": [1, 1, 1, 1],
    "patch_sizes": [4, 2, 2, 1],
    "position": "cpe",
    "affinity": ["dwconv3", "dwconv5/8", "token mlp rank 5", "attention + dwconv5"],
}


def test_a_file_written_before_the_words_changed_is_the_network_it_was(tmp_path: Path) -> None:
    shared = {"num_classes": 3, "in_chans": 1, "img_size": 64}
    model = contagg.create("container_light", **NEW, **shared).eval()
    said = {"task": "classification", "model": {"name": "container_light", "options": OLD | shared}}
    save_weights(tmp_path / "best.safetensors", model.state_dict(), said)
    loaded, metadata = load_model(tmp_path / "best.safetensors")
    images = torch.randn(2, 1, 64, 64)
    assert torch.equal(loaded(images), model(images))
    assert metadata["model"]["options"] == NEW | shared  # and so an export of it can be read by what comes after


@pytest.mark.parametrize("option", sorted(OLD.keys() - {"depths"}))
def test_a_person_is_still_told_the_word_of_now(option: str) -> None:
    with pytest.raises(UserError, match=r"is called '(embed_dims|patch_sizes|cpe|dwconv3)'"):
        contagg.create("container_light", **{option: OLD[option]})


def test_words_of_other_networks_are_theirs(tmp_path: Path) -> None:
    said = {"model": {"name": "resnet18", "options": {"widths": 1, "position": "convolution", "affinity": "conv3"}}}
    for odd in (said, {"model": ["conv3"]}, {"model": {"name": 3, "options": {"widths": 1}}}, {"detector": None}):
        save_weights(tmp_path / "odd.safetensors", {"weight": torch.zeros(1)}, odd)
        assert read_weights(tmp_path / "odd.safetensors")[1] == odd
