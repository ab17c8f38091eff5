"""Trains any task: what a task hands over (`Job`), and Lightning's Trainer set up so that nothing is lost."""

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import nn
from torch.utils.data import DataLoader

from contagg.data.fingerprint import Fingerprint
from contagg.errors import UserError, plural
from contagg.training.averaging import MovingAverage
from contagg.training.checkpoint import AtomicCheckpointIO, newest_sound_checkpoint, step_of
from contagg.training.config import OptimizationConfig, RunConfig
from contagg.training.guards import CountSamples, SeedSteps, StepGuard
from contagg.training.metrics import EpochMetrics, Row, make_loggers
from contagg.training.optimizer import PrepareGradients
from contagg.training.progress import Progress
from contagg.training.restarts import join_attempt
from contagg.training.run_folder import RunFolder, is_first_process
from contagg.training.saving import KeptWeights, SaveState
from contagg.training.schedules import SetSchedules
from contagg.training.signals import StoppedError, StopSignals, leave_to_parent

_PRECISION: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}

Batches = Callable[[int, int], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a task hands to the engine.

    Attributes:
        task: `training_step` returns a dict of scalars with `loss`; `validation_step` logs what the metrics file is to
            hold; `configure_optimizers` gives one optimizer.
        networks: The parts of it that `run.compile` compiles.
        train_batches: Of (rank, world size): equally many each epoch and in each process; has `state_dict` and
            `load_state_dict` to go on within an epoch, and a `sampler` with `set_epoch`.
        validation_batches: Of (rank, world size): what validation runs over.
        optimization: How long and how fast; `build_optimizer` makes the optimizer that goes with it.
        validate_every: Epochs between validations.
        monitor: The metric to be best in; the larger, the better.
        metrics: What `validation_step` logs; empty where that is known only once it was.
        export: The attribute of `task` whose weights are written for use.
        metadata: What weights files say of themselves.
        fingerprint: Of the data, which must not change when a run goes on.
        divisor: Of height and width of what the networks see: images are padded to multiples of so many pixels.
        callbacks: Called before the engine's own at each step, so that they may change the network and its optimizer;
            their `state_dict` is a part of the training state.
    """

    task: LightningModule
    networks: Sequence[nn.Module]
    train_batches: Batches
    validation_batches: Batches
    optimization: OptimizationConfig
    validate_every: int = 1
    monitor: str
    metrics: Sequence[str] = ()
    export: str = "model"
    metadata: Mapping[str, Any]
    fingerprint: Fingerprint
    divisor: int = 1
    callbacks: Sequence[Callback] = ()


class JobData(LightningDataModule):
    """A job's batches, made once Lightning knows which process this is."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def train_dataloader(self) -> Iterable[Any]:
        """What this process trains on."""
        return self._made(self.job.train_batches)

    def val_dataloader(self) -> Iterable[Any]:
        """This process's part of what is validated on."""
        return self._made(self.job.validation_batches)

    def _made(self, batches: Batches) -> Iterable[Any]:
        assert self.trainer is not None
        loader = batches(self.trainer.global_rank, self.trainer.world_size)
        if isinstance(loader, DataLoader) and loader.worker_init_fn is None:
            loader.worker_init_fn = leave_to_parent
        return loader


def check_machine(run: RunConfig) -> None:
    """UserError for devices that are not there, fp16 without a GPU, or a number of processes not the recipe's."""
    on_gpu = _on_gpu(run)
    present = torch.cuda.device_count()
    if on_gpu and run.devices > present:
        raise UserError(f"run.devices is {run.devices}, but this machine has {present} GPUs")
    if run.accelerator == "mps" and not torch.backends.mps.is_available():
        raise UserError("run.accelerator is mps, but this machine has no Apple GPU that PyTorch can use")
    cores = os.cpu_count() or 1
    if not on_gpu and run.devices > cores:
        raise UserError(f"run.devices is {run.devices}, but this machine has {cores} CPU cores, a process each")
    if not on_gpu and run.precision == "fp16":
        raise UserError("run.precision fp16 needs a GPU: take bf16 or fp32 on the CPU")
    if not on_gpu and run.synchronize_batchnorm:
        raise UserError("run.synchronize_batchnorm needs GPUs: turn it off on the CPU")
    started = os.environ.get("WORLD_SIZE")
    if started is not None and int(started) != run.world_size:
        raise UserError(
            f"{plural(int(started), 'process was', 'processes were')} started, but run.devices x run.nodes is "
            f"{run.world_size}: make them agree"
        )


def _on_gpu(run: RunConfig) -> bool:
    return run.accelerator == "cuda" or (run.accelerator == "auto" and torch.cuda.is_available())


def claim_folder(run: RunConfig, recipe: Any) -> RunFolder:
    """Take the run folder. UserError if it is in use or holds a run of another recipe."""
    folder = RunFolder(run.folder)
    if is_first_process():
        folder.claim(recipe)
    else:
        folder.check(recipe)
    return folder


def make_run(
    recipe: Any,
    open_data: Callable[[Any], Any],
    make_job: Callable[[Any, Any], Job],
    report: Callable[[RunFolder, Any, Any], None],
) -> None:
    """What `contagg fit` does, whatever the task.

    Args:
        recipe: Of the task; its `run` says where and how.
        open_data: recipe -> its data, opened and checked.
        make_job: (recipe, data) -> what to train.
        report: (run folder, recipe, data): draws, and says where all is. Asked of the first process when all is over.
    """
    check_machine(recipe.run)
    torch.manual_seed(recipe.run.seed)
    data = open_data(recipe)
    job = make_job(recipe, data)
    folder = claim_folder(recipe.run, recipe)
    train(job, recipe.run, folder)
    if is_first_process():
        report(folder, recipe, data)


def train(job: Job, run: RunConfig, folder: RunFolder) -> list[Row]:
    """Train, or go on from the newest sound state in `folder`; returns the rows of all epochs.

    Raises:
        UserError: a loss that is not finite, a disk that stays full, other data than before, nothing to resume.
        StoppedError: Ctrl-C or SIGTERM; the state is saved.
    """
    start = _where_to_start(run, folder)
    _quiet_lightning()
    if run.world_size > 1:
        join_attempt(_on_gpu(run))
    if run.channels_last:
        job.task.to(memory_format=torch.channels_last)
    if run.compile:
        for network in job.networks:
            network.compile()
    step = step_of(start) if start else 0
    loggers = make_loggers(run.loggers, folder.folder, step) if is_first_process() else []
    with StopSignals() as signals:
        writer = AtomicCheckpointIO()
        guard = StepGuard(signals, run.checkpoint_minutes * 60)
        metrics = EpochMetrics(folder.folder, guard, run.log_every, loggers)
        kept = KeptWeights(folder.checkpoints, metrics, job.monitor, f"{job.export}.", job.metadata, run.keep_best)
        saving = SaveState(folder, writer, guard, kept, job.fingerprint, run.keep_last)
        prepared = [SetSchedules(job.optimization), PrepareGradients(job.optimization)]
        watching = [guard, metrics, CountSamples(), Progress(metrics)]
        callbacks: list[Callback] = [SeedSteps(run.seed), *job.callbacks, *prepared, *watching]
        if job.optimization.ema_decay is not None:
            callbacks.insert(0, MovingAverage(job.optimization.ema_decay, metrics))
        trainer = _trainer(job, run, folder, [*callbacks, saving], writer)
        _fit(trainer, job, start)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # the first process goes on alone
    return metrics.rows


def _fit(trainer: Trainer, job: Job, start: Path | None) -> None:
    try:
        trainer.fit(job.task, datamodule=JobData(job), ckpt_path=start, weights_only=True)
    except BaseException as error:
        if isinstance(error, StoppedError) and not error.at_once:
            raise  # all processes leave together
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGKILL)  # the other processes would wait for this one
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            raise UserError(
                f"a process that reads data died: {error} The same command goes on from the last saved state; "
                "if memory ran out, lower run.workers"
            ) from error
        raise


def _trainer(
    job: Job,
    run: RunConfig,
    folder: RunFolder,
    callbacks: list[Callback],
    writer: AtomicCheckpointIO,
) -> Trainer:
    plugins: list[Any] = [writer]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # its own requeueing saves between steps
    return Trainer(
        default_root_dir=folder.folder,
        accelerator=run.accelerator,
        devices=run.devices,
        num_nodes=run.nodes,
        strategy=run.strategy,
        precision=_PRECISION[run.precision],
        sync_batchnorm=run.synchronize_batchnorm,
        max_epochs=job.optimization.epochs,
        accumulate_grad_batches=job.optimization.accumulate,
        check_val_every_n_epoch=job.validate_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        logger=False,
        callbacks=callbacks,
        plugins=plugins,
    )


def _where_to_start(run: RunConfig, folder: RunFolder) -> Path | None:
    path, passed_over = newest_sound_checkpoint(folder.checkpoints)
    if path is None and run.resume == "must":
        raise UserError(f"run.resume is must, but {folder.checkpoints} holds no training state to go on from")
    if not is_first_process():
        return path
    for damaged, reason in passed_over:
        damaged.rename(damaged.with_name(damaged.name + ".damaged"))
        print(f"warning: {damaged} is damaged ({reason}); it was renamed to {damaged.name}.damaged", flush=True)
    if path is not None:
        print(f"going on from {path}", flush=True)
    return path


def _quiet_lightning() -> None:
    """Its hints are about choices made here on purpose, and one is an advertisement."""
    logging.getLogger(f"{pytorch_lightning.__name__}.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message="Total length of .* across ranks is zero")  # nothing to validate yet
    warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined")  # and it is right
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
