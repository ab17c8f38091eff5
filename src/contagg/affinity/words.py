"""Words for affinities: "attention + dwconv5", "dwconv3/32", "token mlp/32 rank 49"."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from contagg.affinity.attention import SelfAttention
from contagg.affinity.base import Affinity, Grid
from contagg.affinity.depthwise_conv import DepthwiseConv
from contagg.affinity.mixture import GateWord, Mixture
from contagg.affinity.token_mlp import TokenMLP
from contagg.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where an affinity works: channels, the grid it is made for, and the tokens before the grid."""

    channels: int
    grid: Grid
    prefix: int = 0


@dataclass(frozen=True)
class Kind:
    """A pattern whose named groups are the whole numbers that `build` takes beside the site."""

    pattern: str
    example: str
    build: Callable[..., Affinity]


KINDS = (
    Kind(
        r"attention(/(?P<head_width>\d+))?",
        "attention",
        lambda site, **sizes: SelfAttention(site.channels, prefix=site.prefix, **sizes),
    ),
    Kind(
        r"dwconv(?P<kernel_size>\d+)(/(?P<head_width>\d+))?",
        "dwconv5",
        lambda site, **sizes: DepthwiseConv(site.channels, **sizes),
    ),
    Kind(
        r"token mlp(/(?P<head_width>\d+))?( rank (?P<rank>\d+))?",
        "token mlp",
        lambda site, **sizes: TokenMLP(site.channels, site.grid, prefix=site.prefix, **sizes),
    ),
)
EXAMPLES = (
    "attention",
    "attention/64",
    "dwconv3",
    "dwconv5",
    "dwconv5/32",
    "token mlp",
    "token mlp/32",
    "token mlp/32 rank 49",
    "attention + dwconv5",
)


def build_affinity(word: str, site: Site, gate: GateWord = "free", offered: tuple[str, ...] = EXAMPLES) -> Affinity:
    """The affinity that a word names, made for a site; `offered` are the words that an error suggests.

    Raises:
        UserError: the word, or a size in it, is wrong; says what is allowed and the nearest match.
    """
    terms = [term.strip() for term in word.split("+")]
    if len(terms) > 2:
        raise UserError(f"affinity {word!r} mixes {len(terms)} affinities; two at most, as in 'attention + dwconv5'")
    affinities = [_build_term(term, site, word, offered) for term in terms]
    return Mixture(affinities[0], affinities[1], gate) if len(affinities) == 2 else affinities[0]


def _build_term(term: str, site: Site, word: str, offered: tuple[str, ...]) -> Affinity:
    for kind in KINDS:
        if match := re.fullmatch(kind.pattern, term):
            sizes = {name: int(value) for name, value in match.groupdict().items() if value is not None}
            if 0 in sizes.values():
                raise UserError(f"affinity {word!r}: a size of 0 in {term!r}; sizes start at 1")
            return kind.build(site, **sizes)
    if match := re.fullmatch(r"(conv(?=\d)|mlp(?=/| |$))(.*)", term):
        now = {"conv": "dwconv", "mlp": "token mlp"}[match[1]] + match[2]
        raise UserError(f"affinity {word!r}: {term!r} is called {now!r} now")
    raise UserError(
        f"affinity {word!r}: {term!r} is not a known affinity.{nearest(term, offered)} "
        f"Allowed: {', '.join(offered)} (/n: head width; dwconv: any odd kernel size)"
    )
