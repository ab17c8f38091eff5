"""Words and kinds: "attention + dwconv5", "token mlp/32 rank 49", and whatever is registered beside them."""

import functools
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from contagg.affinity.attention import SelfAttention
from contagg.affinity.attention_forms import DifferentialAttention, GatedAttention, SinkAttention
from contagg.affinity.attention_positions import DecayingAttention, RelativeAttention, RotaryAttention
from contagg.affinity.base import Affinity, Site
from contagg.affinity.delta import DeltaRule
from contagg.affinity.depthwise_conv import DepthwiseConv
from contagg.affinity.dynamic_conv import DeformableConv, DynamicConv, OutlookAttention
from contagg.affinity.fixed import Identity, Pooling, RandomMixing, Strips
from contagg.affinity.low_rank import AgentAttention, LinearAttention, PooledAttention
from contagg.affinity.mixture import GateWord, Mixture
from contagg.affinity.scan import SelectiveScan
from contagg.affinity.spectral import GlobalFilter, Heat, Toeplitz
from contagg.affinity.static_heads import PartlyStaticAttention
from contagg.affinity.token_mlp import TokenMLP
from contagg.affinity.windows import AxialAttention, NeighborhoodAttention, WindowAttention
from contagg.errors import UserError, nearest
from contagg.names import pattern_of

Factory = Callable[[Site], Affinity]
"""Makes an affinity for a site. In the place of a word it stands for itself; registered, it has words."""


@dataclass(frozen=True)
class Kind:
    """A template of words, and what makes the affinity that such a word names."""

    template: str
    examples: tuple[str, ...]
    factory: Callable[..., Affinity]

    @property
    def pattern(self) -> str:
        """As a regular expression."""
        return pattern_of(self.template)

    def numbers(self, term: str) -> dict[str, Any] | None:
        """What a word gives to the factory by name, whole numbers and tuples of them; None where it is not of it."""
        match = re.fullmatch(self.pattern, term)
        if not match:
            return None
        given = {name: tuple(map(int, value.split())) for name, value in match.groupdict().items() if value is not None}
        several = re.findall(r"\{(\w+)\.\.\.\}", self.template)
        return {name: values if name in several else values[0] for name, values in given.items()}


_KINDS: dict[str, Kind] = {}
_RENAMED = ((r"conv(?=\d)", "dwconv"), (r"mlp(?=/| |$)", "token mlp"))


def register_affinity(template: str, factory: Callable[..., Affinity], examples: Sequence[str] = ()) -> None:
    """Add words for a kind of affinity; from then on they stand wherever a word may.

    Args:
        template: The word. `{size}` stands for a whole number that `factory` takes as `size`, `{sizes...}` for several,
            a tuple, with spaces between them, `[...]` for what may be left out: "dilated{kernel_size}[x{dilation}]"
            serves "dilated3" and "dilated5x2".
        factory: Called with the `Site`, and with each number of the word by its name.
        examples: Words of it, for error texts and `list_affinities`; the template itself where it takes no numbers.

    Raises:
        UserError: the template is another kind's, or cannot be a word, or does not serve its examples.

    Examples:
        >>> import contagg
        >>> from contagg.affinity import DepthwiseConv
        >>> contagg.register_affinity(
        ...     "biasless{size}", lambda site, size: DepthwiseConv(site.channels, size, bias=False), ["biasless3"]
        ... )
        >>> "biasless3" in contagg.list_affinities()
        True
    """
    kind = Kind(template, tuple(examples) or (template,), factory)
    if "+" in template or ":" in template or template != template.strip() or not template.isprintable():
        raise UserError(f"affinity {template!r}: a word has no '+' or ':' and no spaces around it")
    try:
        unserved = [word for word in kind.examples if not re.fullmatch(kind.pattern, word)]
    except re.error as error:
        raise UserError(f"affinity {template!r} is no template of words: {error}") from error
    if unserved:
        raise UserError(f"affinity {template!r} does not serve its example {unserved[0]!r}; give examples of its words")
    for other in _KINDS.values():
        # The same factory again is a module that was loaded again.
        if _name(other.factory) != _name(factory) and any(re.fullmatch(other.pattern, word) for word in kind.examples):
            raise UserError(f"affinity {template!r}: {kind.examples[0]!r} is a word of {other.template!r} already")
    _KINDS[template] = kind


def _name(factory: Callable[..., Affinity]) -> tuple[str, str]:
    return getattr(factory, "__module__", ""), getattr(factory, "__qualname__", repr(factory))


def list_affinities() -> list[str]:
    """Examples of every word that names an affinity, those of installed packages included; any two make a mixture."""
    _load_installed()
    return [example for kind in _KINDS.values() for example in kind.examples]


@functools.cache
def _load_installed() -> None:
    """Import what installed packages have under the entry point `contagg.affinities`; they register when imported."""
    for entry in entry_points(group="contagg.affinities"):
        try:
            entry.load()
        except Exception as error:  # what another package raises must not take all other words away
            warnings.warn(f"affinities of {entry.value} cannot be loaded: {error!r}", stacklevel=3)


def build_affinity(word: str | Factory, site: Site, gate: GateWord = "free", also: Sequence[str] = ()) -> Affinity:
    """The affinity that a word names or a factory makes, for a site.

    Args:
        also: Other words that an error may suggest.

    Raises:
        UserError: the word, or a size in it, is wrong; says what is allowed and the nearest match. Or it is neither a
            word nor a factory, or the factory gives no affinity.
    """
    if isinstance(word, Affinity) or not (isinstance(word, str) or callable(word)):
        what = f"an affinity that was made already, {type(word).__name__}" if isinstance(word, Affinity) else repr(word)
        raise UserError(f"affinity: {what}; give a word, or a class or function that makes one for a Site")
    if not isinstance(word, str):
        return _checked(word(site), word)
    terms = [term.strip() for term in word.split("+")]
    if len(terms) > 2:
        raise UserError(f"affinity {word!r} mixes {len(terms)} affinities; two at most, as in 'attention + dwconv5'")
    affinities = [_build_term(term, site, word, also) for term in terms]
    return Mixture(affinities[0], affinities[1], gate) if len(affinities) == 2 else affinities[0]


def _build_term(term: str, site: Site, word: str, also: Sequence[str]) -> Affinity:
    kind, sizes = _find(term, word) or (None, {})
    if kind is None:
        offered = [*list_affinities(), *also]
        kind, sizes = _find(term, word) or (None, {})  # of a package that has just been loaded
    if kind is not None:
        return _checked(kind.factory(site, **sizes), kind.factory)
    if (current := current_word(term)) != term:
        raise UserError(f"affinity {word!r}: {term!r} is called {current!r} now")
    raise UserError(
        f"affinity {word!r}: {term!r} is not a known affinity.{nearest(term, offered)} "
        f"contagg.list_affinities() gives all {len(offered)}, such as {', '.join(offered[:6])}; two mix with a +"
    )


def current_word(word: str) -> str:
    """A word as it is called now: files keep what it was called when they were written.

    >>> current_word("attention + conv5"), current_word("mlp/32 rank 49")
    ('attention + dwconv5', 'token mlp/32 rank 49')
    """
    return " + ".join(_current_term(term.strip()) for term in word.split("+"))


def _current_term(term: str) -> str:
    if any(re.fullmatch(kind.pattern, term) for kind in _KINDS.values()):
        return term
    return next((re.sub(old, new, term, count=1) for old, new in _RENAMED if re.match(old, term)), term)


def _find(term: str, word: str) -> tuple[Kind, dict[str, Any]] | None:
    for kind in _KINDS.values():
        if (sizes := kind.numbers(term)) is not None:
            if any(0 in (value if isinstance(value, tuple) else (value,)) for value in sizes.values()):
                raise UserError(f"affinity {word!r}: a size of 0 in {term!r}; sizes start at 1")
            return kind, sizes
    return None


def _checked(affinity: Affinity, factory: Callable[..., Affinity]) -> Affinity:
    if not isinstance(affinity, Affinity):
        raise UserError(f"affinity {' '.join(_name(factory))}: it gives {type(affinity).__name__}, no Affinity")
    return affinity


def _attention(site: Site, head_width: int | None = None) -> Affinity:
    return SelfAttention(site.channels, head_width or site.head_width, site.prefix, site.attn_drop)


def _depthwise(site: Site, kernel_size: int, head_width: int = 1, dilation: int = 1) -> Affinity:
    return DepthwiseConv(site.channels, kernel_size, head_width, dilation=dilation)


def _token_mlp(site: Site, head_width: int | None = None, rank: int | None = None) -> Affinity:
    return TokenMLP(site.channels, site.grid, head_width, rank, site.prefix)


# Dynamic ones: attention to all tokens, through fewer keys, to some tokens; kernels of the tokens' own.
register_affinity("attention[/{head_width}]", _attention, ["attention", "attention/64"])
register_affinity("attention[/{head_width}] relative", RelativeAttention, ["attention relative"])
register_affinity("attention[/{head_width}] rope", RotaryAttention, ["attention rope"])
register_affinity("decay[/{head_width}]", DecayingAttention, ["decay"])
register_affinity("attention[/{head_width}] diff", DifferentialAttention, ["attention diff"])
register_affinity("attention[/{head_width}] gated", GatedAttention, ["attention gated"])
register_affinity("attention[/{head_width}] sink", SinkAttention, ["attention sink"])
register_affinity(
    "attention[/{head_width}] static{kernel_size} in heads {heads...}",
    PartlyStaticAttention,
    ["attention static7 in heads 1"],
)
register_affinity("pooled{size}[/{head_width}]", PooledAttention, ["pooled4"])
register_affinity("linear[/{head_width}]", LinearAttention, ["linear"])
register_affinity("agent{agents}[/{head_width}]", AgentAttention, ["agent49"])
register_affinity("window{size}[/{head_width}]", WindowAttention, ["window7"])
register_affinity("window{size}[/{head_width}] shifted", WindowAttention.shifted, ["window7 shifted"])
register_affinity("neighborhood{size}[/{head_width}]", NeighborhoodAttention, ["neighborhood7"])
register_affinity("axial[/{head_width}]", AxialAttention, ["axial"])
register_affinity("dynamic{size}[/{head_width}]", DynamicConv, ["dynamic3"])
register_affinity("outlook{size}[/{head_width}]", OutlookAttention, ["outlook3"])
register_affinity("deformable{points}[/{head_width}]", DeformableConv, ["deformable9"])
register_affinity(
    "dwconv{kernel_size}[/{head_width}][ dilated {dilation}]",
    _depthwise,
    ["dwconv3", "dwconv5", "dwconv5/32", "dwconv3 dilated 2"],
)
register_affinity(
    "token mlp[/{head_width}][ rank {rank}]", _token_mlp, ["token mlp", "token mlp/32", "token mlp/32 rank 49"]
)

# Static ones without a learnt A, or with bands of one.
register_affinity("strips{size}", lambda site, size: Strips(site.channels, size), ["strips11"])
register_affinity("pool{size}", lambda site, size: Pooling(size), ["pool3"])
register_affinity("identity", lambda site: Identity(site.prefix))
register_affinity("random", lambda site: RandomMixing(site.channels, site.grid, site.prefix))

# Static ones that are cheap in another basis.
register_affinity("filter", lambda site: GlobalFilter(site.channels, site.grid))
register_affinity("heat", lambda site: Heat(site.channels))
register_affinity(
    "toeplitz[/{head_width}]",
    lambda site, head_width=1: Toeplitz(site.channels, site.grid, head_width),
    ["toeplitz", "toeplitz/32"],
)

# Recurrent ones.
register_affinity(
    "scan{states}", lambda site, states: SelectiveScan(site.channels, states, prefix=site.prefix), ["scan16"]
)
register_affinity(
    "cross scan{states}",
    lambda site, states: SelectiveScan(site.channels, states, directions=4, prefix=site.prefix),
    ["cross scan16"],
)
register_affinity(
    "delta[/{head_width}]",
    lambda site, head_width=None: DeltaRule(site.channels, head_width or site.head_width, site.prefix),
    ["delta"],
)
