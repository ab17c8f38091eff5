"""`contagg place` as a run: killed in every phase it ends as one that was not, and what it hands over fits together."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fit_processes import TINY, Runs, with_ink
from kills import ALL, assert_equal, die, die_after_epoch, die_after_step, die_writing_state
from tiny_recipes import DINO, detection

from contagg.checkpoints.weights import load_model
from contagg.cli import main
from contagg.errors import UserError
from contagg.placement import handover, run
from contagg.placement.config import placement_recipes
from contagg.placement.price import Prices
from contagg.tasks import recipes
from contagg.training.recipe_file import read_recipe
from contagg.training.run_folder import RunFolder

MIXED = "attention/8 + dwconv3"
PLACED = ("--placement.budget", "0.95", "--placement.warmup", "0.2")
FILES = ("metrics.csv", "placement.csv", "checkpoints/best.safetensors", "checkpoints/last.safetensors")


def mixed(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with attention in every block."""
    options = {**recipe["model"]["options"], "affinity": MIXED}
    return {**recipe, "model": {**recipe["model"], "options": options}}


@pytest.fixture
def placing(tmp_path: Path) -> Runs:
    return Runs(tmp_path, mixed(TINY), "place")


def test_killed_in_every_phase(placing: Runs) -> None:
    """Of 12 steps the first 2 are random and the next 4 learn, with a moving average, two batches a step, in bf16."""
    options = (*PLACED, *ALL)
    assert placing.fit("whole", *options) == 0, placing.output
    meddled = (die_after_step(1), die_after_step(4), die_writing_state(2), die_after_step(6), die_after_step(7))
    for meddle in (*meddled, die_after_epoch):
        assert placing.fit("cut", *options, meddle=meddle) == -signal.SIGKILL, placing.output
    assert placing.fit("cut", *options) == 0, placing.output
    assert_equal(placing, "whole", "cut", FILES)


def test_what_is_handed_over(placing: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert placing.fit("run", *PLACED, meddle=with_ink) == 0, placing.output
    folder = placing.folder / "run"
    found = json.loads((folder / "placement.json").read_text())
    assert 0 < len(found["chosen"]) + 1 <= 4
    model, metadata = load_model(folder / "checkpoints" / "best.safetensors")
    affinity = metadata["model"]["options"]["affinity"]
    assert affinity == found["affinity"]
    names = model.state_dict().keys()
    for stage, word in enumerate(affinity):
        assert any(f"stages.{stage}.blocks.0.aggregation.affinity.first.query" in name for name in names) == (
            word == MIXED
        )
    recipe = read_recipe(["-c", str(folder / "placed.yaml")], recipes())
    assert recipe.model.options["affinity"] == affinity and recipe.run.folder.endswith("run/again")
    costs = {(cost["network"], cost["height"]): cost for cost in found["costs"]}
    predicted = found["prices"]["closed"] + sum(
        cost for cost, word in zip(found["prices"]["added"], affinity, strict=True) if word == MIXED
    )
    assert costs["placed", 16]["multiply_adds"] == predicted <= 0.95 * costs["all open", 16]["multiply_adds"]
    assert costs["placed", 16]["parameters"] == sum(p.numel() for p in model.parameters())
    assert (folder / "figures" / "placement.png").stat().st_size > 5000
    assert (folder / "figures" / "predictions.png").is_file() and "read back: accuracy" in placing.output, (
        "as of any run"
    )
    assert "stay open" in placing.output and "counted" in placing.output
    k, said = r"[\d.]+ k multiply-adds", placing.output
    assert re.search(
        rf"an image of 16 x 16 costs {k} with all closed, {k} with all open, of which 1.1 {k}", placing.output
    )
    assert re.search(rf"chance to be open 1.1 [\d.]+, .*; expected cost {k} of {k}\n", said)
    main(["validate", str(folder / "checkpoints" / "best.safetensors")])
    assert "accuracy" in capsys.readouterr().out


def test_what_was_not_handed_over_is_by_the_same_command(placing: Runs) -> None:
    """A run that was killed once it was trained, or whose files were lost."""

    def die_measuring() -> None:
        handover.measured = lambda *_: die()

    assert placing.fit("whole", *PLACED) == 0, placing.output
    said = placing.output
    assert placing.fit("cut", *PLACED, meddle=die_measuring) == -signal.SIGKILL
    for name in ("placement.csv", "placed.yaml", "placement.json", "figures/placement.png"):
        assert (placing.folder / "cut" / name).is_file(), "what needs no measuring is written before"
    (placing.folder / "cut" / "placement.csv").unlink()
    assert placing.fit("cut", *PLACED) == 0, placing.output
    assert "going on from" in placing.output and "counted" in placing.output and "counted" in said
    assert_equal(placing, "whole", "cut", FILES)
    whole, cut = (json.loads((placing.folder / name / "placement.json").read_text()) for name in ("whole", "cut"))
    assert whole["chosen"] == cut["chosen"] and len(cut["costs"]) == 2


def test_ms_are_measured_once(placing: Runs) -> None:
    """On a machine that has become slower the budget would lie below all closed."""

    def machine(closed: float, meddle: Callable[[], None] = lambda: None) -> Callable[[], None]:
        def meddled() -> None:
            run.price = lambda *_: Prices(unit="ms", size=(16, 16), closed=closed, added=(1.0,) * 4)
            meddle()

        return meddled

    options = ("--placement.warmup", "0.2", "--budget", "12ms")
    assert placing.fit("run", *options, meddle=machine(50)) == 2
    assert "costs 50 ms with every dynamic part closed" in placing.output
    assert placing.fit("run", *options, meddle=machine(10, die_after_step(4))) == -signal.SIGKILL, placing.output
    assert placing.fit("run", *options, meddle=machine(50)) == 0, placing.output
    assert json.loads((placing.folder / "run" / "placement.json").read_text())["prices"]["closed"] == 10
    assert placing.fit("run", *options, "--model.drop_path", "0.3", meddle=machine(50)) == 2
    assert "holds a run of another recipe" in placing.output


def test_before_the_choice_no_weights_are_the_best(placing: Runs) -> None:
    assert placing.fit("run", *PLACED, meddle=die_after_step(8)) == -signal.SIGKILL
    names = {path.name for path in (placing.folder / "run" / "checkpoints").glob("*.safetensors")}
    assert names == {"last.safetensors"}


def test_another_budget_is_another_run(placing: Runs) -> None:
    assert placing.fit("run", *PLACED, meddle=die_after_step(8)) == -signal.SIGKILL
    assert placing.fit("run", *PLACED, "--budget", "0.9") == 2
    assert "placement.budget is 0.95 there and 0.9 here" in placing.output


def test_a_run_of_fit_is_refused_and_stays_as_it_is(placing: Runs) -> None:
    """Keys younger than a run count as their defaults: with a budget among them its recipe was taken for this one."""
    keys, run = ["-c", str(placing.recipe), "--run.folder", str(placing.folder / "run")], placing.folder / "run"
    fitted, placed = read_recipe(keys, recipes()), read_recipe([*keys, "--placement.budget=0.9"], placement_recipes())
    RunFolder(run).claim(fitted)
    (run / "metrics.csv").touch()
    before = (run / "recipe.yaml").read_bytes()
    with pytest.raises(
        UserError, match=r"holds a run of another recipe: placement\.budget is absent there and 0\.9 here"
    ):
        RunFolder(run).claim(placed)
    assert (run / "recipe.yaml").read_bytes() == before
    assert placing.fit("none") == 2 and "placement.budget" in placing.output


@pytest.mark.slow
@pytest.mark.parametrize("task", ["dino", "detection"])
def test_other_tasks_are_placed_and_resumed(task: str, composed: Path, tmp_path: Path) -> None:
    recipe = mixed(DINO if task == "dino" else detection(composed))
    if task == "detection":
        recipe["augmentation"]["long_side"] = 90
    runs = Runs(tmp_path, recipe, "place")
    options = ("--budget", "0.95", "--at", "50x70" if task == "detection" else "16x16")
    assert runs.fit("whole", *options) == 0, runs.output
    for step in (3, 8):
        assert runs.fit("cut", *options, meddle=die_after_step(step)) == -signal.SIGKILL, runs.output
    assert runs.fit("cut", *options) == 0, runs.output
    assert_equal(runs, "whole", "cut", FILES[:2])
    part = "backbone" if task == "detection" else "network"
    assert re.search(rf"^{part} +contagg\.create\(", runs.output, re.MULTILINE)
    validates = runs.output.splitlines()[-1].split()[1] == "validate"
    assert validates == (task == "detection"), "DINO's own lines say how neighbours are asked"
    assert (runs.folder / "cut" / "figures" / "curves.png").is_file()
    state = runs.state("whole")["state_dict"]
    found = json.loads((runs.folder / "whole" / "placement.json").read_text())
    queries = [name for name in state if name.endswith("affinity.first.query.weight")]
    assert len(queries) == (2 if task == "dino" else 1) * len(found["chosen"])
    seen = [64, 96] if task == "detection" else [16, 16]  # a detector's images are padded
    assert found["prices"]["size"] == seen and [found["costs"][-1][side] for side in ("height", "width")] == seen


@pytest.mark.slow
def test_two_processes_share_z_and_go_on_exactly(placing: Runs) -> None:
    options = (*PLACED, "--optimization.batch_size", "14")
    assert placing.fit("whole", *options, ranks=2) == 0, placing.output
    for step in (4, 7):
        assert placing.fit("cut", *options, ranks=2, victim=step % 2, meddle=die_after_step(step)) == -signal.SIGKILL
    assert placing.fit("cut", *options, ranks=2) == 0, placing.output
    assert_equal(placing, "whole", "cut", FILES)


BAD = [
    (["--budgt", "0.9"], "unknown option --budgt. Did you mean 'budget'?"),
    (["--budget", "3.2X"], "placement.budget must be multiply-adds such as 3.2G"),
    (["--at", "big"], "placement.at must be height and width in pixels such as 800x1333"),
    (["--run.compile", "true"], "run.compile must be false"),
    (["--run.devices", "2", "--run.strategy", "ddp"], "run.strategy ddp waits for gradients"),
    (["--from", "nowhere"], "no weights at 'nowhere'"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["place", "-c", "digits", "--budget", "0.9", *words])
    printed = capsys.readouterr().err
    assert leave.value.code == 2 and message in printed and printed.count("\n") == 1


def test_a_run_of_too_few_steps_and_a_network_without_places(placing: Runs) -> None:
    assert placing.fit("run", *PLACED, "--placement.freeze", "0.21") == 2
    assert "raise optimization.epochs" in placing.output
    assert placing.fit("other", *PLACED, "--model.options", "{affinity: dwconv3}") == 2
    assert "nothing can be closed in blocks of 'dwconv3'" in placing.output
    assert not (placing.folder / "other").exists()


def test_where_nothing_says_which_weights_are_best_the_last_are_told(tmp_path: Path) -> None:
    recipe = mixed(DINO)
    runs = Runs(tmp_path, {**recipe, "knn": {**recipe.get("knn", {}), "every": 0}}, "place")
    assert runs.fit("run", "--budget", "0.95") == 0, runs.output
    told = next(line for line in runs.output.splitlines() if line.startswith("weights")).split()[1]
    assert told.endswith("last.safetensors") and Path(told).is_file()
