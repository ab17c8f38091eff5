"""Twenty steps of the original DINO in float64, and what holds between student and teacher."""

import json
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contagg.data.fingerprint import Fingerprint
from contagg.self_supervised.loss import DinoLoss
from contagg.self_supervised.networks import DinoHead, MultiCrop
from contagg.self_supervised.recipe import DINO_DEFAULTS, DinoConfig, KnnConfig
from contagg.self_supervised.task import Dino, drop_gradients, follow, teacher_temperature
from contagg.training.config import RunConfig
from contagg.training.engine import Job, train
from contagg.training.optimizer import build_optimizer, clip_each
from contagg.training.run_folder import RunFolder
from contagg.training.schedules import Schedules, cosine

GOLDEN = Path(__file__).parents[1] / "golden"
EPOCHS, STEPS, WARMUP, BATCH = 4, 20, 5, 8
SIZES = (32, 32, 16, 16, 16)
DINO = DinoConfig(outputs=32, teacher_warmup_temperature=0.02, teacher_warmup_epochs=2)
OPTIMIZATION = replace(DINO_DEFAULTS, epochs=EPOCHS, batch_size=BATCH, lr=2e-2, warmup_epochs=1, max_grad_norm=0.02)


def draw(name: str, shape: list[int]) -> Tensor:
    """A tensor by the rule of tests/golden/README.md."""
    numbers = np.random.RandomState(zlib.crc32(name.encode()) % 2**32).standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var"):
        numbers = np.exp(0.2 * numbers)
    elif name.endswith("weight_g"):
        numbers = np.ones(shape)
    elif len(shape) >= 2:
        numbers = numbers / np.sqrt(np.prod(shape[1:]))
    else:
        numbers = 1 + 0.1 * numbers if name.endswith("weight") else 0.1 * numbers
    return torch.from_numpy(np.asarray(numbers))


class SpatialMean(nn.Module):
    def forward(self, feature_map: Tensor) -> Tensor:
        return feature_map.mean(dim=(2, 3))


def network() -> MultiCrop:
    backbone = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 8, 4, stride=4), bn=nn.BatchNorm2d(8), act=nn.GELU(), mean=SpatialMean())
    )
    model = MultiCrop(backbone, DinoHead(8, outputs=32, hidden=16, bottleneck=8)).double()
    keys = json.loads((GOLDEN / "dino.keys.json").read_text())
    model.load_state_dict({name: draw(name, shape) for name, shape in keys})
    return model


def crops_of(step: int) -> list[Tensor]:
    random = np.random.RandomState(1000 + step)
    return [torch.from_numpy(random.standard_normal((BATCH, 3, size, size))) for size in SIZES]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "dino.npz"))


def test_twenty_steps_of_the_original(golden: dict[str, np.ndarray]) -> None:
    student, teacher = network(), network().requires_grad_(False)
    loss = DinoLoss(32).double()
    optimizer = build_optimizer(student, OPTIMIZATION)
    schedules = Schedules(config=OPTIMIZATION, peak_lr=OPTIMIZATION.peak_lr(1), steps_per_epoch=STEPS // EPOCHS)
    assert schedules.warmup_steps == WARMUP
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = schedules.lr(step)
            group["weight_decay"] = group["weight_decay"] and schedules.weight_decay(step)
        momentum = cosine(step, STEPS, 0.996, 1.0)
        crops = crops_of(step)
        outputs = teacher(crops[:2])
        value = loss(student(crops), loss.targets(outputs, teacher_temperature(DINO, step // 5)))
        loss.update_center(outputs)
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        clip_each(student.parameters(), 0.02)
        if step < 5:
            drop_gradients(student.head.last_layer)
        optimizer.step()
        follow(teacher, student, momentum)
        assert schedules.lr(step) == pytest.approx(golden["lr"][step], rel=1e-12, abs=1e-15)
        assert schedules.weight_decay(step) == pytest.approx(golden["weight_decay"][step], rel=1e-12)
        assert momentum == pytest.approx(golden["momentum"][step], rel=1e-12)
    np.testing.assert_allclose(losses, golden["losses"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(loss.center.numpy(), golden["center"], rtol=0, atol=1e-10)
    assert_ends_as(golden, {"student": student, "teacher": teacher})


def assert_ends_as(golden: dict[str, np.ndarray], networks: dict[str, nn.Module]) -> None:
    for prefix, model in networks.items():
        for name, tensor in model.state_dict().items():
            np.testing.assert_allclose(
                tensor.numpy(), golden[f"{prefix}.{name}"], rtol=0, atol=1e-8, err_msg=f"{prefix}.{name}"
            )


class Epochs:
    """The golden crops as the engine takes batches: five an epoch."""

    def __init__(self) -> None:
        self.sampler, self.epoch = self, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return STEPS // EPOCHS

    def __iter__(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        for batch in range(len(self)):
            yield crops_of(self.epoch * len(self) + batch), torch.zeros(BATCH)


def test_the_engine_takes_the_same_twenty_steps(golden: dict[str, np.ndarray], tmp_path: Path) -> None:
    task = Dino(
        network(),
        network().requires_grad_(False),
        DINO,
        OPTIMIZATION,
        KnnConfig(every=0),
        channels_last=False,
    ).double()
    job = Job(
        task=task,
        networks=[],
        train_batches=lambda rank, world_size: Epochs(),
        validation_batches=lambda rank, world_size: [],
        optimization=OPTIMIZATION,
        monitor="accuracy_knn10",
        export="teacher.backbone",
        metadata={},
        fingerprint=Fingerprint([]),
    )
    rows = train(job, RunConfig(folder=str(tmp_path), accelerator="cpu"), RunFolder(tmp_path))
    losses = [row["train_loss"] for row in rows]
    np.testing.assert_allclose(losses, golden["losses"].reshape(EPOCHS, -1).mean(1), rtol=0, atol=1e-10)
    np.testing.assert_allclose(task.loss.center.numpy(), golden["center"], rtol=0, atol=1e-10)
    assert_ends_as(golden, {"student": task.student, "teacher": task.teacher})


def test_batchnorm_counts_one_batch_a_step_in_the_teacher_and_two_in_the_student(golden: dict[str, np.ndarray]) -> None:
    student, teacher = network(), network()
    crops = [torch.randn(3, 3, size, size, dtype=torch.float64) for size in SIZES]
    student(crops)
    teacher(crops[:2])
    assert student.backbone.bn.num_batches_tracked == 2
    assert teacher.backbone.bn.num_batches_tracked == 1
    assert golden["student.backbone.bn.num_batches_tracked"] == 2 * STEPS


def test_crops_of_one_size_go_through_the_backbone_together() -> None:
    model = network().eval()
    crops = [torch.randn(3, 3, size, size, dtype=torch.float64) for size in (32, 32, 16)]
    together = model(crops)
    alone = torch.cat([model.head(model.backbone(crop)) for crop in crops])
    torch.testing.assert_close(together, alone)


def test_clipping_is_by_tensor() -> None:
    small, large = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    small.grad, large.grad = torch.tensor([0.3, 0.4]), torch.tensor([0.0, 6.0, 8.0])
    clip_each([small, large, nn.Parameter(torch.zeros(1))], 2.0)
    torch.testing.assert_close(small.grad, torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(large.grad, torch.tensor([0.0, 1.2, 1.6]), rtol=1e-5, atol=0)


def test_a_dropped_gradient_leaves_a_layer_as_it_is() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    before = model.head.last_layer.weight_v.clone()
    model([torch.randn(3, 3, 8, 8, dtype=torch.float64)]).square().mean().backward()
    drop_gradients(model.head.last_layer)
    optimizer.step()
    assert torch.equal(model.head.last_layer.weight_v, before)
    assert not torch.equal(model.head.mlp[0].weight, network().head.mlp[0].weight)


def test_the_teacher_follows_in_parameters_alone() -> None:
    student, teacher = network(), network()
    with torch.no_grad():
        student.backbone.conv.bias.add_(1.0)
        student.backbone.bn.running_mean.add_(1.0)
    before = teacher.backbone.conv.bias.clone()
    follow(teacher, student, 0.75)
    torch.testing.assert_close(teacher.backbone.conv.bias, before + 0.25)
    assert torch.equal(teacher.backbone.bn.running_mean, network().backbone.bn.running_mean)


def _center_of_part(rank: int, address: str, outcome: str, outputs: Tensor) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    loss = DinoLoss(outputs.shape[1])
    loss.update_center(outputs[rank::2])
    torch.save(loss.center, f"{outcome}.{rank}")
    torch.distributed.destroy_process_group()


def test_the_center_is_that_of_all_processes(tmp_path: Path) -> None:
    outputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    arguments = (str(tmp_path / "meet"), str(tmp_path / "center"), outputs)
    torch.multiprocessing.start_processes(_center_of_part, arguments, nprocs=2, start_method="fork")
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"center.{rank}"), 0.1 * outputs.mean(0, keepdim=True))


def test_the_backbone_has_a_rate_of_its_own() -> None:
    task = Dino(
        network(), network().requires_grad_(False), DINO, replace(OPTIMIZATION, backbone_lr_multiplier=0.25),
        KnnConfig(every=0), channels_last=False,
    )  # fmt: skip
    scales = {id(p): group["lr_scale"] for group in task.configure_optimizers().param_groups for p in group["params"]}
    for part, scale in ((task.student.backbone, 0.25), (task.student.head, 1.0)):
        assert {scales[id(p)] for p in part.parameters() if p.requires_grad} == {scale}


def test_the_loss_is_reckoned_in_float32_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under mixed precision networks answer in half; targets and losses of it would be rounded to 8 bits."""
    seen: list[torch.dtype] = []
    task = Dino(network(), network().requires_grad_(False), DINO, OPTIMIZATION, KnnConfig(every=0), channels_last=False)
    for half, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        task.to(half)
        task.loss.to(expected)
        seen.clear()
        handle = task.loss.register_forward_pre_hook(lambda module, given: seen.extend(part.dtype for part in given))
        monkeypatch.setattr(Dino, "current_epoch", 0)
        found = task.training_step(([crop.to(half) for crop in crops_of(0)], torch.zeros(BATCH)), 0)
        handle.remove()
        assert seen == [expected, expected] and found["loss"].dtype == expected
