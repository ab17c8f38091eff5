"""A compiled run trains, and saves weights under plain names."""

import functools

import pytest
import torch
from fit_processes import Runs
from safetensors.torch import load_file
from torch import nn

COMPILED = ("--run.compile", "true", "--optimization.ema_decay", "0.9")


def without_cpp() -> None:
    """torch.compile's capture of both passes, without the minutes in which it writes and builds C++; says so."""
    from torch._dynamo.backends.debugging import aot_eager

    def announced(graph: torch.fx.GraphModule, inputs: list[torch.Tensor], **options: object) -> object:
        print("compiled a graph", flush=True)
        return aot_eager(graph, inputs, **options)

    nn.Module.compile = functools.partialmethod(nn.Module.compile, backend=announced)


def weights(runs: Runs, name: str) -> dict[str, torch.Tensor]:
    return load_file(runs.folder / name / "checkpoints" / "last.safetensors")


@pytest.mark.slow  # 28 s of a compiler
def test_a_compiled_run_is_captured_and_its_weights_have_plain_names(runs: Runs) -> None:
    short = ("--optimization.epochs", "2")
    assert runs.fit("plain", *COMPILED, *short, "--run.compile", "false", meddle=without_cpp) == 0, runs.output
    assert "compiled a graph" not in runs.output
    assert runs.fit("run", *COMPILED, *short, meddle=without_cpp) == 0, runs.output
    assert "compiled a graph" in runs.output
    plain, compiled = weights(runs, "plain"), weights(runs, "run")
    assert plain.keys() == compiled.keys() and not any("_orig_mod" in name for name in compiled)
    assert max((plain[name] - compiled[name]).abs().max().item() for name in plain) < 1e-3
