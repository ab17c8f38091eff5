"""Stages and blocks in the names that models give their modules."""

import re
from collections import Counter
from collections.abc import Sequence

_PLACE = re.compile(r"(?:^|\.)(\d+)(?:\.(?:(?:blocks?|layers?)\.)?(\d+))?(?=\.|$)")


def stage_and_block(name: str) -> tuple[int, int]:
    """Both from 1, and 1 where a name has none.

    >>> stage_and_block("stages.0.blocks.3.attn"), stage_and_block("features.1.0.attn"), stage_and_block("layer.7")
    ((1, 4), (2, 1), (1, 8))
    """
    numbers = _numbers(name)
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (1, *numbers, 1)[:2]  # type: ignore[return-value]


def labels(names: Sequence[str]) -> list[str]:
    """Stage and block in words; where several layers share a block, also what each is called there.

    >>> labels(["blocks.0.attn", "blocks.1.attn", "blocks.1.mlp.conv", "stem.conv"])
    ['block 1', 'block 2: attn', 'block 2: mlp.conv', 'stem.conv']
    """
    found = [_words(name) for name in names]
    times = Counter(words for words, _ in found)
    return [
        name if not words else words if times[words] == 1 else f"{words}: {rest}"
        for name, (words, rest) in zip(names, found, strict=True)
    ]


def _numbers(name: str) -> list[int]:
    match = _PLACE.search(name)
    return [int(number) + 1 for number in match.groups() if number is not None] if match else []


def _words(name: str) -> tuple[str, str]:
    """Where a module is, and the rest of its name."""
    match, numbers = _PLACE.search(name), _numbers(name)
    if match is None:
        return "", name
    where = f"block {numbers[-1]}" if len(numbers) == 1 else f"stage {numbers[0]}, block {numbers[1]}"
    return where, name[match.end() + 1 :]
