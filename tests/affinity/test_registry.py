import sys
from pathlib import Path

import pytest
import torch

import contagg
from contagg.affinity import (
    Affinity,
    DepthwiseConv,
    Mixture,
    SelfAttention,
    Site,
    TokenMLP,
    build_affinity,
    list_affinities,
    register_affinity,
    registry,
)
from contagg.errors import UserError
from contagg.nn.aggregation import CHANNEL_MIXING, ChannelMixingConvolution, build_aggregation

SITE = Site(channels=64, grid=(3, 5))


def test_words_name_affinities() -> None:
    attention = build_affinity("attention", SITE)
    assert isinstance(attention, SelfAttention) and attention.heads == 2
    convolution = build_affinity("dwconv7/32", SITE)
    assert isinstance(convolution, DepthwiseConv) and convolution.weight.shape == (2, 1, 7, 7)
    mlp = build_affinity("token mlp/16 rank 5", SITE)
    assert isinstance(mlp, TokenMLP) and [tuple(factor.shape) for factor in mlp.factors] == [(4, 15, 5), (4, 5, 15)]
    mixture = build_affinity("attention + dwconv5", SITE)
    assert isinstance(mixture, Mixture) and isinstance(mixture.first, SelfAttention)


@pytest.mark.parametrize("word", [*list_affinities(), *CHANNEL_MIXING, "attention + dwconv5"])
def test_every_word_that_an_error_offers_is_served(word: str) -> None:
    mixer = build_aggregation(word, SITE).affinity
    assert isinstance(mixer, ChannelMixingConvolution if "-conv" in word else Affinity)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("atention", r"'atention' is not a known affinity. Did you mean 'attention'\? contagg.list_affinities"),
        ("attention + con5", r"'con5' is not a known affinity. Did you mean 'dwconv5'\?"),
        ("", "'' is not a known affinity"),
        ("attention + conv5/32", "'conv5/32' is called 'dwconv5/32' now"),
        ("mlp", "'mlp' is called 'token mlp' now"),
        ("mlp/32 rank 5", "'mlp/32 rank 5' is called 'token mlp/32 rank 5' now"),
        ("conv", "'conv' is not a known affinity"),
        ("attention + dwconv3 + token mlp", "mixes 3 affinities; two at most"),
        ("token mlp rank 0", "a size of 0"),
        ("dwconv4", "kernel size must be odd"),
        ("dwconv3/7", "head width 7 does not divide 64"),
        ("group-conv3", "'group-conv3/8' for eight groups"),
        ("full-conv3/2", "'group-conv3/8' for eight groups"),
        ("group-conv3/7", "groups must divide the channels"),
        ("group-conv3/0", "groups must divide the channels"),
        ("ful-conv3", r"Did you mean 'full-conv3'\?"),
    ],
)
def test_wrong_words_are_answered(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_aggregation(word, SITE)


class Still(Affinity):
    """The identity, as another package would write it."""

    dynamic = False

    def __init__(self, site: Site, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.given = site

    def forward(self, values, tokens, grid, mask=None):
        return values

    def rows(self, tokens, grid, positions, mask=None):
        return torch.eye(tokens.shape[1])[positions].expand(1, self.heads, -1, -1)

    def multiply_adds(self, grid):
        return 0


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered in a test is gone after it."""
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))


def test_a_registered_word_stands_where_any_word_does(registered: None) -> None:
    contagg.register_affinity("still[ {heads} heads]", Still, ["still", "still 4 heads"])
    assert {"still", "still 4 heads"} <= set(contagg.list_affinities())
    assert build_affinity("still 16 heads", SITE).heads == 16 and build_affinity("still", SITE).given is SITE
    assert isinstance(build_affinity("attention + still", SITE).second, Still)
    model = contagg.create("container_light_tiny", affinity="still 4 heads", num_classes=3)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(UserError, match=r"'stil' is not a known affinity. Did you mean 'still'\?"):
        contagg.create("container_light_tiny", affinity="stil")
    contagg.register_affinity("still[ {heads} heads]", Still, ["still"])  # its module was loaded again


def test_a_word_may_hold_several_numbers(registered: None) -> None:
    given = []
    register_affinity(
        "at {places...}[ of {size}]", lambda site, **numbers: given.append(numbers) or Still(site), ["at 3"]
    )
    for word in ("at 3", "at 3 1 12 of 4"):
        build_affinity(word, SITE)
    assert given == [{"places": (3,)}, {"places": (3, 1, 12), "size": 4}]
    with pytest.raises(UserError, match="a size of 0 in 'at 3 0'"):
        build_affinity("at 3 0", SITE)


def test_a_factory_stands_for_a_word_in_stages_and_blocks() -> None:
    blocks = ("dwconv3", Still, ["attention", Still], lambda site: Mixture(Still(site), SelfAttention(site.channels)))
    model = contagg.create("container_light_tiny", affinity=blocks, num_classes=3, img_size=64)
    kinds = [[type(block.aggregation.affinity) for block in stage.blocks] for stage in model.stages]
    assert kinds == [[DepthwiseConv], [Still], [SelfAttention, Still], [Mixture]]
    assert model.stages[2].blocks[1].aggregation.affinity.given == Site(channels=128, grid=(4, 4))
    assert model(torch.randn(1, 3, 47, 33)).shape == (1, 3)
    with pytest.raises(UserError, match=r"it gives Identity, no Affinity"):
        contagg.create("container_light_tiny", affinity=lambda site: torch.nn.Identity())
    with pytest.raises(UserError, match=r"an affinity that was made already, DepthwiseConv; give a word"):
        contagg.create("container_light_tiny", affinity=DepthwiseConv(32, 3))


def test_lists_of_words_a_block() -> None:
    words = ["dwconv5", "dwconv5", ["dwconv5", "attention + dwconv5"], "attention"]
    model = contagg.create("container_light_tiny", affinity=words)
    dynamic = [[block.aggregation.affinity.dynamic for block in stage.blocks] for stage in model.stages]
    assert dynamic == [[False], [False], [False, True], [True]]


def test_words_of_installed_packages_are_found_when_they_are_needed(
    registered: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "stranger.py").write_text(
        "import contagg\nfrom contagg.affinity import DepthwiseConv\n"
        "contagg.register_affinity('foreign', lambda site: DepthwiseConv(site.channels))\n"
    )
    (tmp_path / "stranger-1.dist-info").mkdir()
    (tmp_path / "stranger-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    (tmp_path / "stranger-1.dist-info" / "entry_points.txt").write_text(
        "[contagg.affinities]\nforeign = stranger\nbroken = no_such_module\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry._load_installed.cache_clear()
    assert "stranger" not in sys.modules
    with pytest.warns(UserWarning, match="affinities of no_such_module cannot be loaded"):
        assert isinstance(build_affinity("foreign", SITE), DepthwiseConv)
    assert "foreign" in list_affinities()
    registry._load_installed.cache_clear()


@pytest.mark.parametrize(
    ("template", "examples", "message"),
    [
        ("a + b", (), "a word has no '\\+' or ':'"),
        ("size{n}", (), "does not serve its example 'size{n}'; give examples"),
        ("size{n}", ["size"], "does not serve its example 'size'"),
        ("[open", (), "is no template of words"),
        ("dwconv{a}", ["dwconv7"], "'dwconv7' is a word of 'dwconv"),
    ],
)
def test_templates_that_cannot_be(registered: None, template: str, examples: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        register_affinity(template, Still, examples)
