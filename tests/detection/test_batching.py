"""From images to a batch, by hand: normalised pixels, zeros around them, where they are, and labels that begin at 0."""

import torch

from contagg.detection.batching import Batching

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def test_pixels_are_normalised_and_what_is_around_them_is_zero() -> None:
    whole = torch.full((3, 32, 32), 51, dtype=torch.uint8)
    small = torch.tensor([0.5, 0.65, 0.8])[:, None, None].expand(3, 5, 40)
    batch = Batching(MEAN, STD, first_label=0)([whole, small])[0]
    assert batch.tensors.shape == (2, 4, 32, 64) and batch.image_sizes == [(32, 32), (5, 40)]
    expected = torch.zeros(2, 4, 32, 64)
    expected[0, :, :, :32] = torch.tensor([-1.5, -0.8, -0.2, 1])[:, None, None]
    expected[1, :, :5, :40] = torch.tensor([0.0, 1.0, 1.0, 1.0])[:, None, None]
    torch.testing.assert_close(batch.tensors, expected)


def test_a_batch_that_is_filled_has_no_mask() -> None:
    batch = Batching(MEAN, STD, first_label=0)([torch.rand(3, 32, 64)] * 2)[0]
    assert batch.tensors.shape == (2, 3, 32, 64)


def test_labels_are_moved_for_the_network_and_back() -> None:
    batching = Batching(MEAN, STD, first_label=1)
    labels = torch.tensor([0, 2])
    _, targets = batching([torch.rand(3, 32, 32)], [{"labels": labels, "image_id": 7}])
    assert targets[0]["labels"].tolist() == [1, 3] and targets[0]["image_id"] == 7 and labels.tolist() == [0, 2]
    found = batching.postprocess([{"labels": targets[0]["labels"], "scores": torch.ones(2)}, {}], [], [])
    assert found[0]["labels"].tolist() == [0, 2] and found[0]["scores"].tolist() == [1, 1] and found[1] == {}
