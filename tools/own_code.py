"""Whether two pieces of our own code pay: the gradient of depthwise kernels, and the fused form's MLP in slices.

    python -m tools.own_code

prints the CPU time of one thread, taken in turns, by that of torch's own way: a training step of `container_light` for
the first, images through the fused form for the second, 8 images of 224 px each. docs/speed.md holds what it gave.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import contagg
from contagg.affinity import depthwise
from contagg.nn.fuse import SlicedMlp

BATCH, SIZE, ROUNDS = 8, 224, 6


def training_step(precision: torch.dtype, own: bool) -> Callable[[], object]:
    """A step of CONTAINER-LIGHT, in autocast below fp32, with our gradient of depthwise kernels or torch's."""
    model, images = contagg.create("container_light").train(), torch.randn(BATCH, 3, SIZE, SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    worthwhile = depthwise._WORTHWHILE if own else 2**60

    def step() -> None:
        depthwise._WORTHWHILE = worthwhile
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = nn.functional.cross_entropy(model(images), torch.arange(BATCH))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference(name: str, precision: torch.dtype, sliced: bool) -> Callable[[], object]:
    """Images through the fused form of a network, its MLPs in slices or whole."""
    model, images = contagg.fuse(contagg.create(name)), torch.randn(BATCH, 3, SIZE, SIZE, dtype=precision)
    model = copy.deepcopy(model).to(precision)
    for module in model.modules():
        if isinstance(module, SlicedMlp) and not sliced:
            module.forward = _whole(module)  # type: ignore[method-assign]
    return torch.inference_mode()(lambda: model(images))


def _whole(mlp: SlicedMlp) -> Callable[[Tensor], Tensor]:
    return lambda tokens: mlp.fc2(mlp.act(mlp.fc1(tokens)))


def ratio(torchs: Callable[[], object], ours: Callable[[], object]) -> float:
    """CPU time of ours by torch's, the median of rounds after one that warms up."""
    found = []
    for _ in range(ROUNDS + 1):
        seconds = []
        for work in (torchs, ours):
            begin = time.process_time()
            work()
            seconds.append(time.process_time() - begin)
        found.append(seconds[1] / seconds[0])
    return statistics.median(found[1:])


def rows() -> Iterator[str]:
    """A line for each comparison."""
    for precision in (torch.float32, torch.bfloat16):
        steps = [training_step(precision, own) for own in (False, True)]
        yield f"gradient of depthwise kernels, container_light, {precision}: {ratio(*steps):.2f}"
    for name in ("container_light", "container_v1_light"):
        for precision in (torch.float32, torch.bfloat16):
            passes = [inference(name, precision, sliced) for sliced in (False, True)]
            yield f"MLP in slices, {name}, {precision}: {ratio(*passes):.2f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in rows():
        print(row, flush=True)
