"""What is agreed on around a step: the mean loss over processes, where a step ends, what its randomness goes by."""

import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from contagg.data.streams import Count
from contagg.errors import UserError
from contagg.training.guards import CountSamples, SeedSteps, StepGuard, at_step_end


def trainer(**changed: Any) -> SimpleNamespace:
    """Of two processes, of which the other brings the same as this one."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=lambda sums, reduce_op: 2 * sums)
    parts = {
        "accumulate_grad_batches": 4, "num_training_batches": 10, "world_size": 2, "is_global_zero": True,
        "strategy": strategy, "current_epoch": 0, "global_step": 3, "global_rank": 0,
    }  # fmt: skip
    return SimpleNamespace(**parts | changed)


def guard() -> StepGuard:
    return StepGuard(SimpleNamespace(received=0), save_seconds=1e9)


def test_a_step_ends_with_its_last_batch_and_with_the_epoch() -> None:
    ends = [batch for batch in range(10) if at_step_end(trainer(), batch)]
    assert ends == [3, 7, 9]
    assert [batch for batch in range(3) if at_step_end(trainer(accumulate_grad_batches=1), batch)] == [0, 1, 2]


def test_losses_are_means_over_the_processes() -> None:
    """Lightning divided the loss by the batches of a step, and no other scalar."""
    ours = guard()
    ours.on_train_batch_end(trainer(), None, {"loss": torch.tensor(0.25), "share": torch.tensor(3.0)}, None, 0)
    assert ours.losses == {"loss": 1.0, "share": 3.0}
    assert not ours.stop and not ours.save_due


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("world_size", [1, 2])
def test_no_loss_that_is_not_finite_passes(value: float, world_size: int) -> None:
    with pytest.raises(UserError, match=r"share became -?(nan|inf) at epoch 1, batch 6, step 3"):
        losses = {"loss": torch.tensor(1.0), "share": torch.tensor(value)}
        guard().on_train_batch_end(trainer(world_size=world_size), None, losses, None, 5)


def test_each_step_of_each_process_and_epoch_draws_its_own() -> None:
    def drawn(batch: int = 0, **changed: Any) -> float:
        SeedSteps(5).on_train_batch_start(trainer(**changed), None, None, batch)
        return torch.rand(()).item()

    assert drawn() == drawn()
    assert len({drawn(), drawn(1), drawn(current_epoch=1), drawn(global_rank=1)}) == 4


@pytest.mark.parametrize("said, times", [(9, 1), (10, 0)])
def test_the_samples_of_all_processes_are_held_against_what_a_split_says(
    said: int, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of two reads five, of training and of validation images; said once of each, by the first."""
    for first in (True, False):
        counted = []
        for _ in range(2):
            counts = Count(0, 0.0)
            list(counts.read([("image", 0, "name")] * 5))
            counted.append(SimpleNamespace(stream_counts=counts, dataset=SimpleNamespace(stream=range(said))))
        plain = SimpleNamespace(stream_counts=None)
        loaders = {"train_dataloader": counted[0], "val_dataloaders": [plain, counted[1]]}
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                CountSamples().on_train_epoch_end(trainer(is_global_zero=first, **loaders), None)
                CountSamples().on_validation_end(trainer(is_global_zero=first, **loaders), None)
        assert caplog.text.count(f"holds more than the {said} images that its split says") == 2 * times * first
