"""What a network costs: parameters and multiply-adds, and seconds and bytes on the CPU or a GPU."""

import ctypes
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own messages

Work = Callable[[], object]


def parameter_count(model: nn.Module, trainable_only: bool = False) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def multiply_adds(model: nn.Module, size: tuple[int, int] = (224, 224), channels: int = 3) -> int:
    """Multiply-adds of one image of (height, width): all products of matrices and convolutions, attention's included.

    What the paper and most others call FLOPs. Counted from the shapes that a forward pass on the meta device meets,
    so that any size costs nothing.
    """
    was_training = model.training
    model = model.eval()
    with flop_counter(model) as counter:
        tensors = {name: t.to("meta") for name, t in [*model.named_parameters(), *model.named_buffers()]}
        torch.func.functional_call(model, tensors, torch.empty(1, channels, *size, device="meta"))
    model.train(was_training)
    return counter.get_total_flops() // 2


@contextmanager
def flop_counter(model: nn.Module) -> Iterator[FlopCounterMode]:
    """torch's counter of a forward pass without gradients.

    It prepares a backward pass at each module's input, and fails at a view of a parameter (DETR's queries, one for each
    image), so meanwhile no parameter asks for a gradient.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        for parameter in trained:
            parameter.requires_grad_()


@dataclass(frozen=True)
class Spread:
    """Quartiles of measured seconds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Spread":
        if len(seconds) == 1:
            return cls(*seconds * 3)
        return cls(*statistics.quantiles(seconds, n=4, method="inclusive"))


def interleaved(works: Mapping[str, Work], rounds: int, device: torch.device) -> dict[str, Spread]:
    """Seconds of each work. Every round runs every one once, so that a busy minute falls on all of them alike."""
    for work in works.values():
        work()  # a warm-up
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(measure(work, device))
    return {name: Spread.of(values) for name, values in seconds.items()}


def measure(work: Work, device: torch.device) -> float:
    """Seconds of one run: by events on a GPU, which starts idle, and by the wall's clock on a CPU."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peak_bytes(work: Work, device: torch.device) -> int:
    """The most memory that torch held for a run beyond what it held before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _silent_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@contextmanager
def _silent_profiler() -> Iterator[None]:
    """Drop what libraries print on standard error: torch 2.14's profiler says there when it starts and stops."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def product(device: torch.device, dtype: torch.dtype, seconds: float = 0.05) -> tuple[Work, float]:
    """A product of square matrices that takes about `seconds` at most 4,096 wide, and its multiply-adds."""
    size, took = 128, 0.0
    while True:
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        work = _product(a, b)
        work()
        took = min(measure(work, device) for _ in range(2))
        if size >= 4096 or took * 8 > 2 * seconds:
            return work, size**3
        size *= 2


def _product(a: torch.Tensor, b: torch.Tensor) -> Work:
    return lambda: a @ b


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory, as torch's allocator for GPUs does; returns whether it will.

    By default it hands large blocks back, and the kernel clears each page anew when the next layer asks for it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    use_no_mmap, never_trim = (-4, 0), (-1, 2**31 - 1)
    return all(mallopt(*option) == 1 for option in (use_no_mmap, never_trim))
