import pytest

from contagg.affinity import Affinity, DepthwiseConv, Mixture, SelfAttention, Site, TokenMLP, build_affinity
from contagg.errors import UserError
from contagg.nn.aggregation import WORDS, ChannelMixingConvolution, build_aggregation

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


@pytest.mark.parametrize("word", WORDS)
def test_every_word_that_an_error_offers_is_served(word: str) -> None:
    mixer = build_aggregation(word, SITE).affinity
    assert isinstance(mixer, ChannelMixingConvolution if "-conv" in word else Affinity)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("atention", r"'atention' is not a known affinity. Did you mean 'attention'\? Allowed: attention, "),
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
