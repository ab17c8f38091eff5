"""The places of a network: blocks whose mixture can be closed, heads of attention; and a choice of them in words."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from contagg.affinity import Mixture
from contagg.affinity.static_heads import partly_static_word
from contagg.errors import UserError
from contagg.nn.aggregation import Aggregation
from contagg.nn.network import Container
from contagg.nn.vit import MixerTransformer


@dataclass(frozen=True, kw_only=True)
class Place:
    """A block whose dynamic part may be open or closed, or a head of it. Stages, blocks and heads count from 1.

    Attributes:
        name: Of its aggregation within the network.
        stage: None in a network that has none.
        head: None for the whole block.
        word: Of the block's affinity with all open.
        static_word: Of what closing leaves.
        kernel_size: What a closed head has.
    """

    name: str
    stage: int | None
    block: int
    word: str
    static_word: str
    head: int | None = None
    kernel_size: int = 0

    @property
    def label(self) -> str:
        """Such as `3.2`, stage and block; in a plain transformer `7`, and `7.3` for the third head of that block."""
        return ".".join(str(number) for number in (self.stage, self.block, self.head) if number is not None)

    def aggregation(self, network: nn.Module) -> Aggregation:
        """Its aggregation in a network, or in a copy of it."""
        found = network.get_submodule(self.name)
        assert isinstance(found, Aggregation)
        return found

    def mixture(self, network: nn.Module) -> Mixture:
        """Its mixture, as long as nothing was left of it for good."""
        found = self.aggregation(network).closable()
        assert found is not None
        return found


def find_places(network: nn.Module, kernel_size: int | None = None) -> list[Place]:
    """The places of a network of ours, or of what holds one, such as a detector's backbone, in its order.

    Args:
        kernel_size: With one each head of plain attention is a place too; beside closed heads their size holds.

    Raises:
        UserError: it is made of no words, or nothing in it can be closed.
    """
    prefix, container = _container(network)
    places: list[Place] = []
    made = dict(container.named_modules())
    for stage, blocks in _blocks(container):
        for number, (name, word) in enumerate(blocks, start=1):
            if not isinstance(aggregation := made.get(name), Aggregation):
                continue  # a detector's backbone ends where it is not needed any more
            mixture, heads = aggregation.closable(), () if kernel_size is None else aggregation.open_heads()
            if not (mixture or heads):
                continue
            label = ".".join(str(part) for part in (stage, number) if part is not None)
            if not isinstance(word, str):
                raise UserError(f"placement: block {label} has a factory and no word: register its affinity")
            known: dict[str, Any] = {"name": prefix + name, "stage": stage, "block": number, "word": word}
            if mixture is not None:
                terms = [term.strip() for term in word.split("+")]
                places.append(Place(**known, static_word=terms[1] if mixture.dynamic_first else terms[0]))
            size = aggregation.closed_kernel() or kernel_size or 0  # a block has one for all its closed heads
            places += [Place(**known, static_word=f"static{size}", head=head, kernel_size=size) for head in heads]
    if not places:
        words = sorted({str(word) for _, blocks in _blocks(container) for name, word in blocks if name in made})
        seen = f"{', '.join(map(repr, words))}{_end(container, made)}"
        wanted = "give model.options.affinity a mixture of a dynamic and a static one, such as 'attention + dwconv5'"
        plain = any(affinity.open_heads() for affinity in _aggregations(container))
        raise UserError(
            f"placement: nothing can be closed in blocks of {seen}: {wanted}"
            + ("; heads of plain attention are closed with --from WEIGHTS" if plain else "")
        )
    return places


def _end(container: Container | MixerTransformer, made: Collection[str]) -> str:
    """In words, where a detector's backbone ends before its last stage."""
    stages = [any(name in made for name, _ in blocks) for _, blocks in _blocks(container)]
    return "" if all(stages) else f" (it ends after stage {sum(stages)} of {len(stages)})"


def affinity_option(network: nn.Module, places: Sequence[Place], opened: Collection[int]) -> Any:
    """The option `affinity` of a network in which of the places those whose number is in `opened` are open.

    One word for a stage whose blocks are alike; of a plain transformer one for all blocks, or one a block.
    """
    prefix, container = _container(network)
    closed: dict[str, list[Place]] = {}
    for number, place in enumerate(places):
        if number not in opened:
            closed.setdefault(place.name, []).append(place)
    stages = []
    for _, blocks in _blocks(container):
        words = [_closed_word(closed[prefix + name]) if prefix + name in closed else word for name, word in blocks]
        stages.append(words[0] if len(set(words)) == 1 else words)
    return stages if isinstance(container, Container) else stages[0]


def _closed_word(places: Sequence[Place]) -> str:
    """The word of a block of which these places are closed."""
    heads = [place.head for place in places if place.head is not None]
    if not heads:
        return places[0].static_word
    return partly_static_word(places[0].word, places[0].kernel_size, heads)


def _container(network: nn.Module) -> tuple[str, Container | MixerTransformer]:
    for name, module in network.named_modules():
        if isinstance(module, Container | MixerTransformer):
            return f"{name}." if name else "", module
    raise UserError(
        f"placement: {type(network).__name__} is not made of words: give one of contagg's networks, such as "
        "container_tiny, or with --from WEIGHTS a plain vision transformer of timm's, such as vit_small_patch16_224"
    )


def _blocks(container: Container | MixerTransformer) -> Iterator[tuple[int | None, list[tuple[str, Any]]]]:
    """Each stage's number, None where there are none, and the names of its aggregations with their words."""
    if isinstance(container, MixerTransformer):
        yield None, [(f"blocks.{number}.attn.aggregation", word) for number, word in enumerate(container.words)]
        return
    for stage, words in enumerate(container.config.blocks):
        yield stage + 1, [(f"stages.{stage}.blocks.{number}.aggregation", word) for number, word in enumerate(words)]


def _aggregations(container: nn.Module) -> list[Aggregation]:
    return [module for module in container.modules() if isinstance(module, Aggregation)]
