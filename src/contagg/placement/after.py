"""`contagg place --from WEIGHTS`: dynamic parts of a trained network closed one by one, the least needed first.

Before a block, or a head of plain attention, is closed what is static in its A takes over: the convolution nearest to
its mean. How much it is needed is how much the loss rises on some hundred images once it is closed.
"""

import copy
import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning import LightningModule
from timm.layers import DropPath
from torch import nn

from contagg.arguments import load
from contagg.checkpoints.weights import save_weights
from contagg.data.sampling import seed_step
from contagg.device import choose_device
from contagg.errors import UserError, plural
from contagg.placement.closing import Closing, blocks_of, closing
from contagg.placement.config import Budget
from contagg.placement.greedy import greedy
from contagg.placement.handover import Finding, hand_over
from contagg.placement.places import Place, affinity_option, find_places
from contagg.placement.plain import in_words
from contagg.placement.run import costed_size, image_size, priced
from contagg.placement.search import with_affinity
from contagg.placement.trial import losses
from contagg.tasks import task_named
from contagg.training.checkpoint import checkpoints
from contagg.training.engine import Job, check_machine, claim_folder

IMAGES = 256
"""That the loss is taken of."""
FITTED = 16
"""Images that a kernel is fitted to; each gives an A of N x N."""


def after(recipe: Any) -> None:
    """Close what a trained network needs least until it meets the budget, and write what is left."""
    if recipe.run.world_size > 1:
        raise UserError("contagg place --from works in one process: set run.devices and run.nodes to 1")
    if checkpoints(Path(recipe.run.folder) / "checkpoints"):
        raise UserError(f"{recipe.run.folder} holds a run that was trained: give --run.folder another folder")
    check_machine(recipe.run)
    recipe, renormalize = in_words(recipe)
    job = trained_job(recipe)
    for network in job.networks:
        renormalize(network)
    written = set(job.task.get_submodule(job.export).modules())
    network = next(each for each in job.networks if each in written)
    size = costed_size(job, recipe)
    places = find_places(network, recipe.placement.kernel_size)
    prices = priced(network, places, size, recipe)
    folder = claim_folder(recipe.run, recipe)
    opened = copy.deepcopy(network)
    device = choose_device("cpu" if recipe.run.accelerator == "cpu" else "auto")
    trial = Trial(job, places, recipe, device)
    room = prices.room(Budget.read(recipe.placement.budget))
    chosen, rises, evidence = greedy(trial.losses, prices.added, room, [place.label for place in places])
    before, now = (sum(found) / len(found) for found in (trial.losses(range(len(places))), trial.losses(chosen)))
    trial.leave(chosen)
    weights = _save(job, folder.checkpoints / "best.safetensors", affinity_option(opened, trial.places, chosen))
    finding = Finding(
        places=trial.places,
        prices=prices,
        budget=Budget.read(recipe.placement.budget),
        chosen=chosen,
        scores=rises,
        evidence=evidence,
    )
    print(f"\nloss of {plural(trial.images, 'training image')}: {before:.4f} before, {now:.4f} now", flush=True)
    hand_over(finding, folder, recipe, opened, network, image_size(job), weights)


def trained_job(recipe: Any) -> Job:
    """A task's job all of whose weights come from the recipe's file.

    Raises:
        UserError: some are not in it, such as a classifier of other classes. They would be random, and so would be what
            a loss says.
    """
    task = task_named(recipe.task)
    make, data = load(task.job), load(task.open)(recipe)
    torch.manual_seed(recipe.run.seed + 1)
    with redirect_stdout(io.StringIO()):
        other = make(recipe, data).task.state_dict()
    torch.manual_seed(recipe.run.seed)
    job: Job = make(recipe, data)
    fresh = [name for name, own in job.task.named_parameters() if not torch.equal(own, other[name])]
    if fresh:
        shown = ", ".join(fresh[:3]) + (", ..." if len(fresh) > 3 else "")
        raise UserError(
            f"placement: {recipe.model.init_weights} lacks {shown}, or has it for other classes, and random weights "
            "would take its place. What is needed shows in the loss of a trained network: fine-tune it by this recipe "
            "first, or give --from a file that has all (of DINO's runs a training state has, checkpoints/epoch_*.ckpt)"
        )
    return job


def _save(job: Job, path: Path, affinity: Any) -> Path:
    prefix = f"{job.export}."
    state = {name.removeprefix(prefix): t for name, t in job.task.state_dict().items() if name.startswith(prefix)}
    save_weights(path, state, with_affinity(job.metadata, affinity))
    return path


class Trial:
    """A job's networks with any of their places closed, and the losses on the same training batches.

    Attributes:
        places: With the words that closing leaves now.
        images: How many the losses are of, about.
    """

    def __init__(self, job: Job, places: Sequence[Place], recipe: Any, device: torch.device) -> None:
        self.task, self.seed = job.task.to(device), recipe.run.seed
        size = recipe.optimization.batch_size
        batches = islice(iter(job.train_batches(0, 1)), -(-IMAGES // size))
        self.batches = [move_data_to_device(batch, device) for batch in batches]
        self.images = size * len(self.batches)
        steady(self.task)
        self.numbers = blocks_of(places)
        self.blocks = [[closing(network, places[some[0]]) for network in job.networks] for some in self.numbers]
        self.places = list(places)
        self._fit(-(-FITTED // size))

    def losses(self, opened: Collection[int]) -> list[float]:
        """One a batch, with the places of these numbers open."""
        return [self._loss(number, opened) for number in range(len(self.batches))]

    def _loss(self, number: int, opened: Collection[int]) -> float:
        settings = [lambda: self.set(opened)]
        return losses(self.task, self.batches[number], number, settings, lambda: seed_step(self.seed, 0, number, 0))[0]

    def set(self, opened: Collection[int]) -> None:
        """Close all places but these, so that they can be opened again."""
        for block, closed in self._closed(opened):
            block.close(closed)

    def leave(self, opened: Collection[int]) -> None:
        """Close all places but these for good."""
        for block, closed in self._closed(opened):
            block.leave(closed)

    def _closed(self, opened: Collection[int]) -> Iterator[tuple[Closing, list[Place]]]:
        """Each network's blocks, and which of their places are to be closed."""
        for numbers, blocks in zip(self.numbers, self.blocks, strict=True):
            closed = [self.places[number] for number in numbers if number not in opened]
            for block in blocks:
                yield block, closed

    def _fit(self, batches: int) -> None:
        """Make what takes the place of each A, from so many batches."""
        every = [block for blocks in self.blocks for block in blocks]
        hooks = [
            block.aggregation.register_forward_pre_hook(lambda _, inputs, block=block: block.see(*inputs[:2]))
            for block in every
        ]
        for number in range(min(batches, len(self.batches))):
            self._loss(number, range(len(self.places)))
        for hook in hooks:
            hook.remove()
        for block in every:
            block.fit()
        for numbers, blocks in zip(self.numbers, self.blocks, strict=True):
            for number in numbers:
                self.places[number] = blocks[0].named(self.places[number])


def steady(task: LightningModule) -> None:
    """Train mode, in which losses are told, but nothing in it is random or follows the batch."""
    task.train()
    for module in task.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd | DropPath):
            module.eval()
