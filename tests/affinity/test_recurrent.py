"""Scans and the delta rule against loops over tokens; memory and range of what is computed in chunks."""

import pytest
import torch
import torch.nn.functional as F

from contagg.affinity import Affinity, Site, build_affinity
from contagg.affinity.delta import DeltaRule, unit_lower_inverse
from contagg.affinity.recurrent import Visits
from contagg.affinity.scan import MOST_FORGOTTEN, SelectiveScan
from contagg.benchmark.cost import peak_bytes
from contagg.errors import UserError

GRIDS = [(5, 7), (1, 11), (8, 8), (13, 3)]


def drawn(affinity: Affinity, grid: tuple[int, int], channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    affinity.double()
    for parameter in affinity.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    shape = 2, affinity.prefix + grid[0] * grid[1], channels
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def scanned(affinity: SelectiveScan, order: int, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Token by token, in the order in which they are given."""
    parts = affinity.project(tokens).unflatten(2, (affinity.directions, -1))[:, :, order]
    low, source, target = parts.split([affinity.rank, affinity.states, affinity.states], 2)
    steps = F.softplus(low @ affinity.step[order] + affinity.step_bias[order])
    decay = -affinity.log_decay[order].exp()
    state, answers = torch.zeros(len(values), affinity.heads, affinity.states, dtype=values.dtype), []
    for time in range(values.shape[1]):
        step = steps[:, time, :, None]
        kept = (decay[:, None] * step).clamp(min=-MOST_FORGOTTEN).exp()
        state = kept * state + step * values[:, time, :, None] * source[:, time, None]
        answers.append((state * target[:, time, None]).sum(2))
    return torch.stack(answers, 1)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("word", "prefix"), [("scan16", 0), ("scan3", 2), ("cross scan5", 0), ("cross scan2", 1)])
def test_scans_are_loops_over_tokens(word: str, prefix: int, grid: tuple[int, int]) -> None:
    affinity = build_affinity(word, Site(channels=8, grid=grid, prefix=prefix))
    assert isinstance(affinity, SelectiveScan)
    values, tokens = drawn(affinity, grid, 8)
    rows = torch.arange(values.shape[1])
    columns = torch.cat([rows[:prefix], rows[prefix:].view(grid).T.flatten()])
    orders = [rows, columns, rows.flip(0), columns.flip(0)][: affinity.directions]
    expected = affinity.skip * values
    for index, order in enumerate(orders):
        answer = scanned(affinity, index, values[:, order], tokens[:, order])
        expected = expected + answer[:, order.argsort()]
    torch.testing.assert_close(affinity(values, tokens, grid), expected, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_one_scan_looks_back_only_and_has_the_rank_of_its_states() -> None:
    affinity = SelectiveScan(8, states=2)
    _, tokens = drawn(affinity, (4, 5), 8)
    matrix = affinity.matrix(tokens, (4, 5))
    assert not matrix.triu(1).any()
    below = torch.linalg.svdvals(matrix[:, :, 12:, :12])  # semiseparable: any block below the diagonal
    assert (below[..., 1] > 1e-9).all() and (below[..., 2:] < 1e-15).all()


def recalled(affinity: DeltaRule, order: int, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The gated delta rule by its definition, token by token, one head after another."""
    split = (affinity.heads, affinity.head_width)
    query, key = (F.normalize(layer(tokens).unflatten(2, split), dim=3) for layer in (affinity.query, affinity.key))
    rate, step = affinity.gates(tokens).unflatten(2, (2, affinity.heads, 2))[:, :, order].unbind(3)
    fade = torch.exp(-affinity.log_decay[order].exp() * F.softplus(step + affinity.step_bias[order]))
    value, one = values.unflatten(2, split), torch.eye(affinity.head_width, dtype=values.dtype)
    memory, answers = torch.zeros(len(values), affinity.heads, *[affinity.head_width] * 2, dtype=values.dtype), []
    for time in range(values.shape[1]):
        k, r = key[:, time], rate[:, time].sigmoid()[..., None, None]
        erased = one - r * k[..., :, None] * k[..., None, :]
        memory = fade[:, time, :, None, None] * memory @ erased + r * value[:, time, ..., None] * k[..., None, :]
        answers.append((memory @ query[:, time, ..., None])[..., 0] * affinity.head_width**-0.5)
    return torch.stack(answers, 1).flatten(2)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("prefix", [0, 1])
def test_the_delta_rule_is_a_loop_over_tokens(grid: tuple[int, int], prefix: int) -> None:
    affinity = DeltaRule(8, 4, prefix)
    values, tokens = drawn(affinity, grid, 8)
    back = [recalled(affinity, 1, values.flip(1), tokens.flip(1)).flip(1)]
    expected = recalled(affinity, 0, values, tokens) + back[0]
    torch.testing.assert_close(affinity(values, tokens, grid), expected, rtol=1e-11, atol=1e-11)


def test_the_delta_rule_is_that_of_qwen3_next() -> None:
    qwen = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    affinity = DeltaRule(64, 32)
    values, tokens = (each.float() for each in drawn(affinity, (5, 7), 64))
    affinity.float()
    answers = []
    for order, turned in enumerate((lambda each: each, lambda each: each.flip(1))):
        value, token = turned(values), turned(tokens)
        query, key, value = (each.unflatten(2, (2, 32)) for each in (affinity.query(token), affinity.key(token), value))
        rate, step = affinity.gates(token).unflatten(2, (2, 2, 2))[:, :, order].unbind(3)
        fade = -affinity.log_decay[order].exp() * F.softplus(step + affinity.step_bias[order])
        answer, _ = qwen.torch_recurrent_gated_delta_rule(
            query, key, value, fade, rate.sigmoid(), None, False, use_qk_l2norm_in_kernel=True
        )
        answers.append(turned(answer.flatten(2)))
    torch.testing.assert_close(affinity(values, tokens, (5, 7)), sum(answers), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_triangles_are_inverted_also_where_all_keys_are_one(size: int) -> None:
    lower = torch.randn(3, 2, size, size, dtype=torch.float64).tril(-1) / 3
    torch.testing.assert_close(
        unit_lower_inverse(lower), torch.linalg.inv(torch.eye(size, dtype=torch.float64) + lower), rtol=1e-9, atol=1e-9
    )
    same = torch.ones(size, size).tril(-1)  # its powers are binomials: a series would lose all digits
    expected = torch.eye(size) - torch.eye(size).roll(1, 0).tril(-1)
    torch.testing.assert_close(unit_lower_inverse(same), expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("word", ["scan16", "cross scan16", "delta"])
@pytest.mark.parametrize("strength", [1.0, 30.0])
def test_fp32_holds_whatever_is_forgotten(word: str, strength: float) -> None:
    affinity = build_affinity(word, Site(channels=32, grid=(9, 11)))
    values, tokens = drawn(affinity, (9, 11), 32)
    expected = affinity(values, strength * tokens, (9, 11))
    found = affinity.float()(values.float(), strength * tokens.float(), (9, 11))
    assert found.isfinite().all()
    assert float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("word", ["scan16", "cross scan16", "delta"])
@pytest.mark.parametrize(("strength", "half"), [(30.0, False), (1.0, True)])
def test_gradients_are_finite_where_all_is_forgotten_and_in_half_precision(
    word: str, strength: float, half: bool
) -> None:
    affinity = build_affinity(word, Site(channels=32, grid=(9, 11)))
    values, tokens = (each.float().requires_grad_() for each in drawn(affinity, (9, 11), 32))
    affinity.float()
    # fp16 ends at 65,504, below what a chunk scales by.
    with torch.autocast("cpu", torch.float16, enabled=half):
        answer = affinity(values, strength * tokens, (9, 11))
    assert answer.isfinite().all()
    answer.mean().backward()
    found = [values.grad, tokens.grad, *(parameter.grad for parameter in affinity.parameters())]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found)


@torch.no_grad()
@pytest.mark.parametrize("word", ["scan16", "cross scan16", "delta"])
def test_memory_grows_with_the_number_of_tokens(word: str) -> None:
    affinity = build_affinity(word, Site(channels=32, grid=(16, 16)))
    most = []
    for side in (16, 64):
        values, tokens = torch.randn(2, 1, side**2, 32)
        work = lambda values=values, tokens=tokens, side=side: affinity(values, tokens, (side, side))  # noqa: E731
        work()
        most.append(peak_bytes(work, torch.device("cpu")))
    assert most[1] < 18 * most[0]  # 16 times the tokens, 256 times the entries of A


def test_visits_and_their_inverse() -> None:
    visits = Visits(torch.zeros(1, 7, 1), (2, 3), 4, 4)
    assert visits.order.tolist()[:2] == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 4, 2, 5, 3, 6]]
    assert visits.order.tolist()[2:] == [order[::-1] for order in visits.order.tolist()[:2]]
    assert torch.equal(visits.order.argsort(1), visits.place)


@pytest.mark.parametrize("word", ["scan16", "cross scan16", "delta"])
def test_tokens_fill_the_grid(word: str) -> None:
    affinity = build_affinity(word, Site(channels=32, grid=(5, 7), prefix=1))
    with pytest.raises(UserError, match=f"{word}: 35 tokens are not 1 prefix tokens and a grid of 5 x 7"):
        affinity(*[torch.randn(1, 35, 32)] * 2, (5, 7))
    with pytest.raises(UserError, match="delta/7: head width 7 does not divide 32"):
        build_affinity("delta/7", Site(channels=32, grid=(5, 7)))
