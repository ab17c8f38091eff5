"""container with other words in its first stages: what each costs, and that the rest is the same."""

import torch

from tools.large_images import WHOLE, WORDS, measured, networks

SMALL = {"embed_dims": (32, 32, 64, 64), "depths": (1, 1, 1, 1)}


def test_each_word_is_cheaper_and_stands_in_two_stages() -> None:
    models = networks(img_size=64, **SMALL)
    rows = {row.word: row for row in measured(models, (96, 160), rounds=1)}
    assert list(rows) == list(WORDS) and rows[WHOLE].times_faster == 1
    for word, row in rows.items():
        assert row.peak_megabytes > 0 and row.seconds_low > 0
        if word != WHOLE:
            assert row.multiply_adds < rows[WHOLE].multiply_adds
    with torch.inference_mode():
        for word, model in models.items():
            assert model(torch.zeros(1, 3, 40, 52)).shape == (1, 64), word
