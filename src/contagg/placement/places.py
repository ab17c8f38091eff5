"""The places of a network: its blocks whose mixture can be closed; and a choice of them in words."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from contagg.affinity import Mixture
from contagg.errors import UserError
from contagg.nn.aggregation import Aggregation
from contagg.nn.network import Container


@dataclass(frozen=True, kw_only=True)
class Place:
    """A block whose dynamic part may be open or closed. Stages and blocks count from 1.

    Attributes:
        name: Of its aggregation within the network.
        word: Of its affinity with all open.
        static_word: Of what closing leaves.
    """

    name: str
    stage: int
    block: int
    word: str
    static_word: str

    @property
    def label(self) -> str:
        """Such as `3.2`, stage and block."""
        return f"{self.stage}.{self.block}"

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


def find_places(network: nn.Module) -> list[Place]:
    """The places of a network of ours, or of what holds one, such as a detector's backbone, in its order.

    Raises:
        UserError: it is made of no words, or nothing in it can be closed.
    """
    prefix, container = _container(network)
    places = []
    for stage, (body, of_blocks) in enumerate(zip(container.stages, container.config.blocks, strict=False), start=1):
        blocks: Any = body.blocks
        for number, (block, word) in enumerate(zip(blocks, of_blocks, strict=True), start=1):
            mixture = block.aggregation.closable()
            if mixture is None:
                continue
            if not isinstance(word, str):
                raise UserError(f"placement: block {stage}.{number} has a factory and no word: register its affinity")
            terms = [term.strip() for term in word.split("+")]
            static = terms[1] if mixture.dynamic_first else terms[0]
            name = f"{prefix}stages.{stage - 1}.blocks.{number - 1}.aggregation"
            places.append(Place(name=name, stage=stage, block=number, word=word, static_word=static))
    if not places:
        words = sorted({str(word) for stage in container.config.blocks for word in stage})
        raise UserError(
            f"placement: nothing can be closed in blocks of {', '.join(map(repr, words))}: give model.options.affinity "
            "a mixture of a dynamic and a static one, such as 'attention + dwconv5'"
        )
    return places


def affinity_option(network: nn.Module, places: Sequence[Place], opened: Collection[int]) -> list[str | list[str]]:
    """The option `affinity` of a network in which of the places those whose number is in `opened` are open.

    One word for a stage whose blocks are alike.
    """
    blocks = [list(words) for words in _container(network)[1].config.blocks]
    for number, place in enumerate(places):
        blocks[place.stage - 1][place.block - 1] = place.word if number in opened else place.static_word
    return [words[0] if len(set(words)) == 1 else words for words in blocks]  # type: ignore[misc]


def _container(network: nn.Module) -> tuple[str, Container]:
    for name, module in network.named_modules():
        if isinstance(module, Container):
            return f"{name}." if name else "", module
    raise UserError(
        f"placement: {type(network).__name__} is not made of words: give one of contagg's networks, such as "
        "container_tiny"
    )
