"""`contagg place --from`: closed greedily after the fact, and what is written is what was measured."""

import json
import re
from pathlib import Path

import pytest
import torch
from fit_processes import TINY, Runs
from PIL import Image
from tiny_recipes import DINO, detection

import contagg
from contagg.affinity import Affinity, DepthwiseConv, Site, registry
from contagg.arguments import load
from contagg.benchmark.cost import multiply_adds
from contagg.checkpoints.weights import load_model, read_weights
from contagg.errors import UserError
from contagg.placement.after import Trial, trained_job
from contagg.placement.closing import closing
from contagg.placement.greedy import greedy
from contagg.placement.places import affinity_option, find_places
from contagg.placement.price import grids, price
from contagg.tasks import recipes, task_named
from contagg.training.recipe_file import read_recipe

MIXED = "attention/8 + dwconv3"


def losses_of(gains: list[float], together: float = 0.0) -> tuple[list, object]:
    """A loss that rises by a gain where a place is closed, and by more where the first two are both."""
    asked: list = []

    def loss(opened: object) -> list[float]:
        asked.append(sorted(opened))  # type: ignore[call-overload]
        closed = set(range(len(gains))) - set(opened)  # type: ignore[call-overload]
        rise = sum(gains[number] for number in closed) + (together if {0, 1} <= closed else 0)
        return [1 + rise, 2 + rise]

    return asked, loss


def test_what_is_needed_least_for_its_cost_is_closed_first() -> None:
    _, loss = losses_of([0.3, 0.1, 0.5, 0.4])
    assert greedy(loss, [1, 1, 1, 1], 2, "abcd")[0] == (2, 3)  # type: ignore[arg-type]
    assert greedy(loss, [9, 1, 1, 1], 3, "abcd")[0] == (1, 2, 3)  # type: ignore[arg-type]
    chosen, rises, _ = greedy(loss, [1, 1, 1, 1], 4, "abcd")  # type: ignore[arg-type]
    assert chosen == (0, 1, 2, 3) and rises == pytest.approx([0.3, 0.1, 0.5, 0.4])


def test_what_was_closed_before_counts() -> None:
    """0 and 1 are cheap to close one by one and dear together: after the first the other is measured anew."""
    asked, loss = losses_of([0.1, 0.1, 0.3, 0.4], together=5.0)
    assert greedy(loss, [1, 1, 1, 1], 2, "abcd")[0] == (1, 3)  # type: ignore[arg-type]
    assert [2, 3] in asked and [1, 2] not in asked, "what rose more before was measured though a smaller one stood"


def test_what_has_room_in_the_end_is_opened_again() -> None:
    """By cost 0 goes first and then 1, which is not enough: 2 must go, and without it both fit."""
    _, loss = losses_of([0.1, 0.3, 0.9])
    chosen, rises, _ = greedy(loss, [1, 2, 4], 3, "abc")  # type: ignore[arg-type]
    assert chosen == (0, 1) and rises == pytest.approx([0.1, 0.3, 0.9])
    _, loss = losses_of([-0.1, 0.3, 0.9])
    assert greedy(loss, [1, 2, 4], 3, "abc")[0] == (1,), "not what is better closed"  # type: ignore[arg-type]


def test_what_saves_nothing_stays_open() -> None:
    """Some heads are cheaper than the kernel that they would get."""
    _, loss = losses_of([-0.1, 0.3, 0.9])
    assert greedy(loss, [-1, 2, 4], 3, "abc")[0] == (0, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("static", ["dwconv3 dilated 2", "unbiased3"])
@torch.no_grad()
def test_a_fitted_convolution_costs_what_the_price_says_and_has_a_word(
    static: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    contagg.register_affinity("unbiased{size}", _unbiased, ["unbiased3"])
    given = {"img_size": 32, "num_classes": 3, "embed_dims": [16] * 4, "depths": [1] * 4}
    network = contagg.create("container_tiny", **given, affinity=f"attention/8 + {static}").eval()
    places, images = find_places(network), torch.randn(2, 3, 32, 32)
    prices = price(network, places, (32, 32), 3, "share", "fp32", torch.device("cpu"))
    blocks = [closing(network, place) for place in places]
    for block, place in zip(blocks, places, strict=True):
        grid = next(iter(grids(network, [place], (32, 32), 3)))
        block.see(torch.randn(2, grid[0] * grid[1], 16), grid)
        block.fit()
        block.leave([place])
    words = affinity_option(network, [block.named(place) for block, place in zip(blocks, places, strict=True)], ())
    again = contagg.create("container_tiny", **given, affinity=words).eval()
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(images), network(images))
    assert prices.closed == multiply_adds(again, (32, 32))


def _unbiased(site: Site, size: int) -> Affinity:
    return DepthwiseConv(site.channels, size, bias=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run with attention in all four blocks."""
    options = {**TINY["model"]["options"], "affinity": MIXED}
    runs = Runs(tmp_path_factory.mktemp("trained"), {**TINY, "model": {**TINY["model"], "options": options}})
    assert runs.fit("run") == 0, runs.output
    runs.command = "place"
    return runs


def test_a_trained_network_is_closed_and_loads(trained: Runs) -> None:
    weights = trained.folder / "run" / "checkpoints" / "last.safetensors"
    assert trained.fit("placed", "--from", str(weights), "--budget", "0.9") == 0, trained.output
    folder = trained.folder / "placed"
    found = json.loads((folder / "placement.json").read_text())
    model, metadata = load_model(folder / "checkpoints" / "best.safetensors")
    affinity = metadata["model"]["options"]["affinity"]
    assert affinity == found["affinity"] and 0 < affinity.count("dwconv3") < 4
    queries = [name for name in model.state_dict() if name.endswith("query.weight")]
    assert len(queries) == affinity.count(MIXED)
    placed, whole = (
        next(cost for cost in found["costs"] if cost["network"] == name) for name in ("placed", "all open")
    )
    assert placed["multiply_adds"] <= 0.9 * whole["multiply_adds"]
    assert re.search(r"closed \d.1, 3 of 4 are open: loss [+-]", trained.output) and "before, " in trained.output


def test_closing_takes_the_fitted_kernel_and_can_be_undone(trained: Runs) -> None:
    weights = trained.folder / "run" / "checkpoints" / "last.safetensors"
    arguments = ["-c", str(trained.recipe), "--run.folder", "x", "--model.init_weights", str(weights)]
    recipe = read_recipe(arguments, recipes())
    task = task_named("classification")
    job = load(task.job)(recipe, load(task.open)(recipe))
    network = job.networks[0]
    before = {name: tensor.clone() for name, tensor in job.task.state_dict().items()}
    trial = Trial(job, find_places(network), recipe, torch.device("cpu"))
    opened, closed = trial.losses(range(4)), trial.losses(())
    assert trial.losses(range(4)) == opened != closed
    assert all(torch.equal(tensor, before[name]) for name, tensor in job.task.state_dict().items())
    fitted = sum(closed)
    for block in trial.blocks:
        block[0].form = None  # type: ignore[attr-defined]
    assert sum(trial.losses(())) != fitted
    trial.leave((1,))
    torch.testing.assert_close(trial.task.training_step(trial.batches[0], 0)["loss"].isfinite(), torch.tensor(True))
    assert sum("query" in name for name in network.state_dict()) == 2


@pytest.mark.parametrize("task", ["dino", "detection"])
def test_networks_of_other_tasks_are_closed_all_alike(task: str, composed: Path, tmp_path: Path) -> None:
    """Of DINO's two that is written which is used: the teacher."""
    recipe = DINO if task == "dino" else detection(composed)
    options = {**recipe["model"]["options"], "affinity": MIXED}
    epochs = {**recipe["optimization"], "epochs": 1, "warmup_epochs" if task == "dino" else "warmup_steps": 0}
    runs = Runs(tmp_path, {**recipe, "model": {**recipe["model"], "options": options}, "optimization": epochs})
    assert runs.fit("run") == 0, runs.output
    runs.command = "place"
    named = "epoch*.ckpt" if task == "dino" else "last.safetensors"  # DINO's weights files have no heads
    weights = max((tmp_path / "run" / "checkpoints").glob(named))
    keys = ("--from", str(weights), "--budget", "0.95", *(("--at", "50x70") if task == "detection" else ()))
    assert runs.fit("placed", *keys) == 0, runs.output
    state, metadata = read_weights(tmp_path / "placed" / "checkpoints" / "best.safetensors")
    words = (metadata.get("detector") or metadata["model"])["options"]["affinity"]
    assert len([name for name in state if name.endswith("query.weight")]) == _count(words) < 5


def _count(words: list) -> int:
    """Blocks of the tiny networks, of 1, 1, 1 and 2 blocks, that are open."""
    stages = [
        stage if isinstance(stage, list) else [stage] * depth for stage, depth in zip(words, (1, 1, 1, 2), strict=True)
    ]
    return sum(stage.count(MIXED) for stage in stages)


def test_a_run_that_was_trained_is_not_written_over(trained: Runs) -> None:
    """Such as one that learnt its placement, begun from the same weights under the same budget."""
    weights, states = (
        trained.folder / "run" / "checkpoints" / "last.safetensors",
        trained.folder / "own" / "checkpoints",
    )
    states.mkdir(parents=True)
    (states / "epoch_00001_step_000000001.ckpt").write_bytes(b"")
    assert trained.fit("own", "--from", str(weights), "--budget", "0.9") == 2
    assert "own holds a run that was trained: give --run.folder another folder" in trained.output


def test_what_was_found_under_another_budget_is_not_written_over(trained: Runs) -> None:
    weights = trained.folder / "run" / "checkpoints" / "last.safetensors"
    found = trained.folder / "found" / "checkpoints" / "best.safetensors"
    assert trained.fit("found", "--from", str(weights), "--budget", "0.9") == 0, trained.output
    before = found.read_bytes()
    assert trained.fit("found", "--from", str(weights), "--budget", "0.8") == 2
    assert "placement.budget is 0.9 there and 0.8 here" in trained.output and found.read_bytes() == before
    assert trained.fit("found", "--from", str(weights), "--budget", "0.9") == 0, "the same command again is welcome"
    assert found.read_bytes() == before
    begun = ("--model.init_weights", str(weights), "--budget", "0.9")
    assert trained.fit("found", *begun) == 2 and "found holds what contagg place --from found" in trained.output
    assert found.read_bytes() == before


def test_what_does_not_fit_is_said_at_once_and_in_the_table(trained: Runs) -> None:
    weights = trained.folder / "run" / "checkpoints" / "last.safetensors"
    assert trained.fit("dear", "--from", str(weights), "--budget", "0.72") == 0, trained.output
    said = re.search(r"placement: (.*) will be closed: each alone costs more than the .* to share\n", trained.output)
    assert said, trained.output
    rows = re.findall(r"^(\d\.\d) .* closed, does not fit ", trained.output, re.MULTILINE)
    assert rows == said[1].split(", ") and "1.1" in rows and len(rows) < 5


def test_several_processes_are_refused(trained: Runs) -> None:
    weights = trained.folder / "run" / "checkpoints" / "last.safetensors"
    assert trained.fit("two", "--from", str(weights), "--budget", "0.9", "--run.devices", "2") == 2
    assert "works in one process" in trained.output
    assert isinstance(weights, Path)


def test_what_would_be_random_is_refused(trained: Runs, tmp_path: Path) -> None:
    """A loss of an untrained classifier says nothing of what is needed."""
    for name in ("one", "other", "third"):
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(14):
                Image.effect_noise((16, 16), 90).save(tmp_path / split / name / f"{number}.png")
    data = ("--data.name", "folder", "--data.root", str(tmp_path), "--data.fraction", "1")
    weights = str(trained.folder / "run" / "checkpoints" / "last.safetensors")
    assert trained.fit("classes", "--from", weights, "--budget", "0.9", *data) == 2
    assert f"{weights} lacks model.head.fc.weight, or has it for other classes" in trained.output
    assert not (trained.folder / "classes").exists()


def test_weights_without_dinos_heads_are_refused(tmp_path: Path) -> None:
    recipe = {**DINO, "model": {**DINO["model"], "options": {**DINO["model"]["options"], "affinity": MIXED}}}
    runs = Runs(tmp_path, {**recipe, "optimization": {**recipe["optimization"], "epochs": 1, "warmup_epochs": 0}})
    assert runs.fit("run") == 0, runs.output
    weights = tmp_path / "run" / "checkpoints" / "last.safetensors"
    arguments = ["-c", str(runs.recipe), "--run.folder", "x", "--model.init_weights", str(weights)]
    with pytest.raises(UserError, match=r"lacks student\.head\..*, \.\.\., or .*a training state has"):
        trained_job(read_recipe(arguments, recipes()))
