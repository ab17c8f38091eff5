"""The inference form of a network: the same answers from fewer passes over memory.

In a block nothing but BatchNorm, projections and depthwise kernels lies between residuals, all of them linear, so
neighbours fold into one another.
"""

import copy

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale, Mlp
from torch import Tensor, nn

from contagg.affinity.base import frozen
from contagg.errors import UserError
from contagg.nn.aggregation import Aggregation
from contagg.nn.block import Block
from contagg.nn.embedding import Halving


@torch.no_grad()
def fuse(model: nn.Module) -> nn.Module:
    """A copy of a network for inference, with the same interface; its answers differ by rounding only.

    - a block's BatchNorms go into the projections that read them (value, and the affinity's own where it reads
      tokens by projections alone; the first of the MLP), or into those that they follow;
    - the position encoding x + depthwise(x) becomes one kernel, 1 added to its centre;
    - an affinity becomes its own inference form (`Affinity.fold`): a mixture's gates go into static kernels, two
      kernels become one, a kernel per head becomes one per channel; a dynamic gate rides on the sum (Eq. 7);
    - LayerScale goes into the projections before it, and an overlapping embedding's BatchNorms into its convolutions;
    - stochastic depth goes;
    - on a CPU the MLP runs some tokens at a time, and projections that are compiled as 1 x 1 convolutions.

    The last BatchNorm stays: it is what `forward_features` promises, and covers 1 / 32 of each side.

    Args:
        model: a network of this package, or any module that holds one, such as a detector. It is not changed.
            Fuse in fp32 and lower the precision afterwards.

    Raises:
        UserError: there is nothing of ours in it.
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    aggregations = [module for module in fused.modules() if isinstance(module, Aggregation)]
    if not aggregations:
        raise UserError(f"fuse: {type(model).__name__} has none of this package's blocks; give one of its networks")
    for module in list(fused.modules()):
        if isinstance(module, Block):
            _fuse_block(module)
        elif isinstance(module, Halving):
            module.fold()
    for aggregation in aggregations:
        one = aggregation.value.weight.new_ones(1)
        aggregation.affinity = aggregation.affinity.fold(one) or aggregation.affinity  # type: ignore[operator]
    for module in list(fused.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, Projection(child))
    return fused


class Projection(nn.Linear):
    """A projection that a compiler for a CPU sees as a 1 x 1 convolution.

    Those are oneDNN's there, which apply the GELU that follows to what they still hold in registers. Uncompiled,
    the matrix product is as fast, and needs no weights in another order (docs/speed.md).
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.ndim == 3 and _compiled_for_cpu(tokens):
            return self.of_row(tokens.transpose(1, 2)[:, :, None])[:, :, 0].transpose(1, 2)
        return super().forward(tokens)

    def of_row(self, row: Tensor) -> Tensor:
        """(B, C, 1, N) -> (B, C', 1, N): tokens as one row of a channels_last map."""
        return F.conv2d(row, self.weight[:, :, None, None], self.bias)


def _compiled_for_cpu(tokens: Tensor) -> bool:
    # A graph that leaves home keeps the matrix product, which other runtimes do best.
    return tokens.is_cpu and torch.compiler.is_compiling() and not torch.compiler.is_exporting()


class SlicedMlp(nn.Module):
    """A block's MLP, on a CPU some tokens at a time: its hidden layer stays in the cache and is allocated once.

    Whole, stage 1's takes 51 MB for 8 images of 224 px, which the system clears page by page for every block anew.
    """

    HIDDEN = 2**20
    """Numbers of the hidden layer in a slice, 4 MB in fp32."""

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = Projection(mlp.fc1), mlp.act, Projection(mlp.fc2)  # type: ignore[arg-type]
        self.rows: int = max(1, self.HIDDEN // mlp.fc1.weight.shape[0])

    def forward(self, tokens: Tensor) -> Tensor:
        if _compiled_for_cpu(tokens):
            # One row throughout: the compiler then sees that GELU follows a convolution, and plans memory itself.
            row = tokens.flatten(0, 1).T[None, :, None]
            row = self.fc2.of_row(self.act(self.fc1.of_row(row)))
            return row[0, :, 0].T.unflatten(0, tokens.shape[:2])
        if not tokens.is_cpu or torch.compiler.is_exporting():
            return self.fc2(self.act(self.fc1(tokens)))
        flat = tokens.flatten(0, 1)
        answer = flat.new_empty(len(flat), self.fc2.out_features)
        for begin in range(0, len(flat), self.rows):
            part = slice(begin, begin + self.rows)
            answer[part] = self.fc2(self.act(self.fc1(flat[part])))
        return answer.unflatten(0, tokens.shape[:2])


def _fuse_block(block: Block) -> None:
    if block.position is not None:
        block.position.fold()
    projections = block.aggregation.affinity.projections()  # type: ignore[operator]
    if isinstance(block.norm1, nn.modules.batchnorm._BatchNorm) and projections is not None:
        _fold_norm(block.norm1, [block.aggregation.value, *projections])
        block.norm1 = nn.Identity()
    if isinstance(block.norm2, nn.modules.batchnorm._BatchNorm):
        _fold_norm(block.norm2, [block.mlp.fc1])  # type: ignore[list-item]
        block.norm2 = nn.Identity()
    block.post_norm1 = _fold_post_norm(block.post_norm1, block.aggregation.output)
    if block.post_norm1 is None:  # else a norm of another kind stands between
        block.scale1 = _fold_scale(block.scale1, block.aggregation.output)
    if isinstance(block.mlp, Mlp):
        block.post_norm2 = _fold_post_norm(block.post_norm2, block.mlp.fc2)  # type: ignore[arg-type]
        if block.post_norm2 is None:
            block.scale2 = _fold_scale(block.scale2, block.mlp.fc2)  # type: ignore[arg-type]
        block.mlp = SlicedMlp(block.mlp)  # type: ignore[assignment]
    for name in ("drop_path1", "drop_path2"):
        if isinstance(getattr(block, name), DropPath):
            setattr(block, name, nn.Identity())


def _affine(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """(s, t) of s x + t, which a norm in eval mode is, in float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _fold_norm(norm: nn.modules.batchnorm._BatchNorm, projections: list[nn.Linear]) -> None:
    """W (s x + t) + b = (W s) x + (W t + b), computed in float64."""
    scale, shift = _affine(norm)
    for projection in projections:
        matrix = projection.weight.double()
        projection.bias = frozen((projection.bias.double() + matrix @ shift).to(projection.weight.dtype))
        projection.weight = frozen((matrix * scale).to(projection.weight.dtype))


def _fold_post_norm(norm: nn.Module | None, projection: nn.Linear) -> nn.Module | None:
    """s (W x + b) + t, in the projection, in float64: what is left of a norm that follows it."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return norm
    scale, shift = _affine(norm)
    projection.weight = frozen((projection.weight.double() * scale[:, None]).to(projection.weight.dtype))
    projection.bias = frozen((projection.bias.double() * scale + shift).to(projection.weight.dtype))
    return None


def _fold_scale(scale: nn.Module, projection: nn.Linear) -> nn.Module:
    """diag(g) (W x + b), in the projection: what is left of a LayerScale."""
    if not isinstance(scale, LayerScale):
        return scale
    projection.weight = frozen(projection.weight * scale.gamma[:, None])
    projection.bias = frozen(projection.bias * scale.gamma)
    return nn.Identity()
