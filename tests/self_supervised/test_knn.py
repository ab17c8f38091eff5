"""k nearest neighbours against lightly's, in parts and over processes, and at its edges."""

import pytest
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking.knn import knn_predict
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contagg.data.sampling import IGNORE_INDEX
from contagg.errors import UserError
from contagg.self_supervised.knn import Features, accuracies, nearest, vote

CPU = torch.device("cpu")


def features(vectors: Tensor, labels: Tensor) -> Features:
    result = Features(len(labels))
    half = len(labels) // 2
    result.add(vectors[:half], labels[:half])
    result.add(vectors[half:], labels[half:])
    return result


@pytest.fixture
def blobs() -> tuple[Features, Features]:
    """53 queries and a bank of 211 with 7 classes that overlap."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(7, 5, generator=random)
    sets = []
    for count in (53, 211):
        labels = torch.randint(0, 7, (count,), generator=random)
        sets.append(features(centres[labels] + torch.randn(count, 5, generator=random), labels))
    return sets[0], sets[1]


@pytest.mark.parametrize("parts", [(1024, 32768), (17, 19)])
def test_votes_as_lightly_does(
    blobs: tuple[Features, Features], parts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contagg.self_supervised.knn.QUERIES", parts[0])
    monkeypatch.setattr("contagg.self_supervised.knn.BANK", parts[1])
    queries, bank = blobs
    ours = accuracies(queries, bank, (1, 10, 200), 0.07, CPU)
    for k, accuracy in ours.items():
        theirs = knn_predict(queries.features, bank.features.T, bank.labels, 7, knn_k=k, knn_t=0.07)[:, 0]
        assert accuracy == pytest.approx((theirs == queries.labels).double().mean().item())
    assert 0.3 < ours[10] < 0.95


class Largest(TorchDispatchMode):
    """The most numbers that any operation gave."""

    numbers = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        result = operation(*arguments, **(keywords or {}))
        self.numbers = max([self.numbers, *(part.numel() for part in tree_leaves(result) if isinstance(part, Tensor))])
        return result


def test_similarities_are_computed_for_a_part_at_a_time(
    blobs: tuple[Features, Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contagg.self_supervised.knn.QUERIES", 17)
    monkeypatch.setattr("contagg.self_supervised.knn.BANK", 19)
    with Largest() as largest:
        accuracies(*blobs, (3, 10), 0.07, CPU)
    assert largest.numbers == 17 * (10 + 19) < 53 * 211


def test_predictions_are_lightlys(blobs: tuple[Features, Features], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contagg.self_supervised.knn.BANK", 19)
    queries, bank = blobs
    cosines, labels = nearest(queries.features, bank, 31, CPU)
    theirs = knn_predict(queries.features, bank.features.T, bank.labels, 7, knn_k=31, knn_t=0.07)[:, 0]
    assert torch.equal(vote(cosines, labels, 7, 0.07), theirs)
    assert (cosines.diff(dim=1) <= 0).all()


def test_a_near_neighbour_outvotes_far_ones() -> None:
    cosines, labels = torch.tensor([[0.9, 0.5, 0.5, 0.5]]), torch.tensor([[2, 1, 1, 1]])
    assert vote(cosines, labels, 3, 0.07).item() == 2
    assert vote(cosines, labels, 3, 10.0).item() == 1


def test_ignored_images_neither_vote_nor_count(blobs: tuple[Features, Features]) -> None:
    queries, bank = blobs
    wrong = Features(len(bank.labels) + 3)
    wrong.add(
        torch.cat([bank.features, queries.features[:3]]), torch.cat([bank.labels, torch.full((3,), IGNORE_INDEX)])
    )
    more = Features(len(queries.labels) + 2)
    more.add(
        torch.cat([queries.features, torch.ones(2, 5)]), torch.cat([queries.labels, torch.full((2,), IGNORE_INDEX)])
    )
    assert accuracies(more, wrong, (5,), 0.07, CPU) == accuracies(queries, bank, (5,), 0.07, CPU)


def test_k_beyond_the_bank_is_one_line(blobs: tuple[Features, Features]) -> None:
    with pytest.raises(UserError, match="212 nearest neighbours are more than the 211 training images"):
        accuracies(*blobs, (10, 212), 0.07, CPU)
    assert set(accuracies(*blobs, (10, 211), 0.07, CPU)) == {10, 211}


def test_one_query_is_enough(blobs: tuple[Features, Features]) -> None:
    queries, bank = blobs
    single = Features(1)
    single.add(queries.features[:1], queries.labels[:1])
    assert accuracies(single, bank, (1,), 0.07, CPU)[1] in (0.0, 1.0)
    nothing = Features(1)
    nothing.add(queries.features[:1], torch.tensor([IGNORE_INDEX]))
    with pytest.raises(UserError, match="no image"):
        accuracies(nothing, bank, (1,), 0.07, CPU)


def test_features_are_kept_at_unit_length() -> None:
    kept = features(torch.randn(7, 3) * 100, torch.arange(7)).features
    torch.testing.assert_close(kept, F.normalize(kept, dim=1))


def _part_of_two(rank: int, address: str, outcome: str, queries: Tensor, bank: Tensor) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    asked, kept = Features(27), Features(len(bank[rank::2]))
    mine = queries[rank::2]
    mine = F.pad(mine, (0, 0, 0, 27 - len(mine)), value=float(IGNORE_INDEX))
    asked.add(mine[:, 1:], mine[:, 0].long())
    kept.add(bank[rank::2, 1:], bank[rank::2, 0].long())
    torch.save(accuracies(asked, kept, (1, 10, 200), 0.07, CPU), f"{outcome}.{rank}")
    torch.distributed.destroy_process_group()


def test_two_processes_with_half_a_bank_each_find_the_same(blobs: tuple[Features, Features], tmp_path) -> None:
    queries, bank = (torch.cat([part.labels[:, None].float(), part.features], dim=1) for part in blobs)
    arguments = (str(tmp_path / "meet"), str(tmp_path / "found"), queries, bank)
    torch.multiprocessing.start_processes(_part_of_two, arguments, nprocs=2, start_method="fork")
    alone = accuracies(*blobs, (1, 10, 200), 0.07, CPU)
    for rank in range(2):
        assert torch.load(tmp_path / f"found.{rank}") == alone
