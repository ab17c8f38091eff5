"""`contagg place --from` on plain transformers: a place is a head, ours or timm's."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fit_processes import TINY, Runs, with_ink
from PIL import Image

import contagg
from contagg.benchmark.cost import multiply_adds
from contagg.checkpoints.weights import load_model
from contagg.errors import UserError
from contagg.nn.plain_vit import as_mixer, mixer_like, mixer_name
from contagg.placement.closing import ClosingHeads
from contagg.placement.config import PlacementConfig, placement_recipes
from contagg.placement.greedy import greedy
from contagg.placement.places import affinity_option, find_places
from contagg.placement.plain import in_words
from contagg.placement.price import price
from contagg.training.building import Preprocessing, build_model
from contagg.training.recipe_file import read_recipe

SMALL = {"patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3}
PIXELS = {"img_size": (20, 12), "num_classes": 5}
CPU = torch.device("cpu")


def test_places_are_heads_and_a_choice_is_a_word_a_block() -> None:
    network = contagg.create("vit_tiny_mixer", **SMALL, **PIXELS, affinity=["attention", "attention/12"])
    places = find_places(network, 3)
    assert [place.label for place in places] == ["1.1", "1.2", "1.3", "2.1", "2.2", "2.3", "2.4"]
    words = ["attention static3 in heads 1 3", "attention/12"]
    assert affinity_option(network, places, (1, 3, 4, 5, 6)) == words
    assert affinity_option(network, places, range(7)) == ["attention", "attention/12"]
    closed = contagg.create("vit_tiny_mixer", **SMALL, **PIXELS, affinity=words)
    assert [place.label for place in find_places(closed, 3)] == ["1.2", "2.1", "2.2", "2.3", "2.4"]
    places = find_places(closed, 5)
    assert affinity_option(closed, places, ())[0] == "attention static3 in heads 1 2 3", "one kernel size a block"
    prices, words = price(closed, places, (20, 12), 3, "share", "fp32", CPU), affinity_option(closed, places, (1, 2))
    chosen = contagg.create("vit_tiny_mixer", **SMALL, **PIXELS, affinity=words)
    assert prices.cost((1, 2)) == multiply_adds(chosen, (20, 12))


def test_blocks_of_mixtures_are_places_of_transformers_as_well() -> None:
    network = contagg.create("vit_tiny_mixer", **SMALL, **PIXELS, affinity=["attention + token mlp/16", "attention"])
    assert [place.label for place in find_places(network)] == ["1"]
    places = find_places(network, 3)
    assert [place.label for place in places] == ["1", "2.1", "2.2", "2.3"]
    assert affinity_option(network, places, (3,)) == ["token mlp/16", "attention static3 in heads 1 2"]


@pytest.mark.parametrize("given", [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}])
def test_the_sum_of_prices_is_what_every_choice_costs(given: dict) -> None:
    network = contagg.create("vit_tiny_mixer", **SMALL, **PIXELS, **given)
    places = find_places(network, 3)
    for size in ((20, 12), (28, 44)):
        prices = price(network, places, size, 3, "share", "fp32", CPU)
        for opened in ((), range(6), (0, 4), (5,)):
            affinity = affinity_option(network, places, opened)
            chosen = contagg.create("vit_tiny_mixer", **SMALL, **given, img_size=size, num_classes=5, affinity=affinity)
            assert prices.cost(opened) == multiply_adds(chosen, size)
    assert prices.added[0] > 0


def test_heads_share_the_milliseconds_of_their_block() -> None:
    network = contagg.create("vit_tiny_mixer", **SMALL, img_size=(64, 64), num_classes=5)
    prices = price(network, find_places(network, 3), (64, 64), 3, "ms", "fp32", CPU)
    assert len(prices.added) == 6 and len(set(prices.added)) == 1 and prices.closed > 0 and "torch" in prices.device


@torch.no_grad()
def told_by_positions() -> torch.nn.Module:
    """timm's network of 5 x 3 tokens and a class token; head 2 of block 1 gathers from each token itself alone.

    Sixteen channels of its tokens hold their place alone, which the queries and keys of that head read.
    """
    torch.manual_seed(1)
    network = timm.create_model("vit_tiny_patch16_224", **SMALL, **PIXELS).eval()
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    network.patch_embed.proj.weight[:16] = 0
    network.patch_embed.proj.bias[:16] = 0
    network.cls_token[..., :16] = 0
    network.pos_embed[0, :, :16] = 4 * torch.eye(16)
    attention, norm = network.blocks[0].attn, network.blocks[0].norm1
    norm.weight[:16], norm.bias[:16] = 1, 0
    for third in (0, 1):
        rows = slice(48 * third + 16, 48 * third + 32)
        attention.qkv.weight[rows], attention.qkv.bias[rows] = 0, 0
        attention.qkv.weight[rows, :16] = 20 * torch.eye(16)
    return network


def test_a_head_that_is_a_convolution_is_closed_first_and_changes_nothing() -> None:
    theirs, images = told_by_positions(), torch.randn(4, 3, 20, 12)
    ours = as_mixer(theirs)
    before = theirs(images).detach()
    torch.testing.assert_close(ours(images).detach(), before, rtol=1e-4, atol=1e-5)
    places = find_places(ours, 3)
    blocks = [ClosingHeads(ours, places[first]) for first in (0, 3)]
    hooks = [
        block.aggregation.register_forward_pre_hook(lambda _, inputs, block=block: block.see(*inputs))
        for block in blocks
    ]
    ours(images)
    for hook, block in zip(hooks, blocks, strict=True):
        hook.remove()
        block.fit()

    @torch.no_grad()
    def losses(opened: object) -> list[float]:
        for number, block in enumerate(blocks):
            block.close([places[i] for i in (0, 1, 2) if i + 3 * number not in opened])  # type: ignore[operator]
        return [float((one - other).square().mean()) for one, other in zip(ours(images), before, strict=True)]

    chosen, rises, _ = greedy(losses, [1.0] * 6, 5.0, "abcdef")
    assert chosen == (0, 2, 3, 4, 5) and rises[1] < 1e-9 and min(rises[:1] + rises[2:]) > 1e-6
    losses(chosen)
    torch.testing.assert_close(ours(images).detach(), before, rtol=1e-4, atol=1e-5)
    kernel = ours.blocks[0].attn.aggregation.affinity.static.weight[0, 0]
    assert kernel[1, 1].item() == pytest.approx(1, abs=1e-4)
    losses((0, 4))
    words = affinity_option(ours, places, (0, 4))
    assert words == ["attention static3 in heads 2 3", "attention static3 in heads 1 3"]
    again = contagg.create(mixer_name(theirs), **mixer_like(theirs)[0], **PIXELS, affinity=words).eval()
    again.load_state_dict(ours.state_dict())
    torch.testing.assert_close(again(images), ours(images))
    assert not torch.allclose(again(images), before, atol=1e-3)


RECIPE = {
    **TINY,
    "model": {**TINY["model"], "name": "vit_tiny_patch16_224", "options": {**SMALL, "embed_dim": 24, "reg_tokens": 1}},
    "optimization": {**TINY["optimization"], "epochs": 2},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run of timm's transformer."""
    runs = Runs(tmp_path_factory.mktemp("heads"), RECIPE)
    assert runs.fit("run") == 0, runs.output
    return runs


def recipe_of(runs: Runs, *keys: str) -> Any:
    weights = str(runs.folder / "run")
    given = ("--run.folder", "x", "--placement.budget", "0.9", "--model.init_weights", weights)
    return read_recipe(["-c", str(runs.recipe), *given, *keys], placement_recipes())


def test_photographs_are_answered_alike_before_anything_is_closed(trained: Runs) -> None:
    """Our network normalizes them in another way than timm's, which its first layer takes up."""
    theirs = recipe_of(trained)
    ours, renormalize = in_words(theirs)
    answers, photograph = [], Image.effect_noise((16, 16), 90)
    for recipe in (theirs, ours):
        model, _ = build_model(recipe.model, 10)
        if recipe is ours:
            assert type(model).__name__ == "MixerTransformer"
            renormalize(model)
        seen = Preprocessing.of(model, recipe.model, recipe.augmentation).evaluation()(photograph)
        answers.append(model.eval()(seen[None]).detach())
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def test_timms_transformer_is_placed_loads_by_words_and_trains_on(trained: Runs) -> None:
    trained = copy.copy(trained)
    trained.command = "place"
    keys = ("--from", str(trained.folder / "run"), "--budget", "0.9", "--placement.kernel_size", "3")
    assert trained.fit("placed", *keys, meddle=with_ink) == 0, trained.output
    folder = trained.folder / "placed"
    found = json.loads((folder / "placement.json").read_text())
    words, costs = found["affinity"], found["costs"]
    assert 0 < len(found["chosen"]) < 6 and any("static3 in heads" in word for word in words)
    model, metadata = load_model(folder / "checkpoints" / "best.safetensors")
    described = metadata["model"]
    assert described["name"] == "vit_small_mixer" and described["options"]["affinity"] == words
    model = contagg.create(described["name"], **described["options"])
    queries = sum(tensor.shape[0] for name, tensor in model.state_dict().items() if name.endswith("query.weight"))
    assert queries == 8 * len(found["chosen"])
    whole, placed = (next(c for c in costs if c["network"] == name) for name in ("all open", "placed"))
    assert placed["multiply_adds"] == multiply_adds(model, (16, 16), 1) <= 0.9 * whole["multiply_adds"]
    assert (folder / "figures" / "placement.png").stat().st_size > 5000
    rows = (folder / "placement.csv").read_text().splitlines()
    assert len(rows) == 7 and rows[1].startswith("1.1,attention,")
    trained.command, trained.recipe = "fit", folder / "placed.yaml"
    weights = folder / "checkpoints" / "best.safetensors"
    assert trained.fit("again", "--model.init_weights", str(weights)) == 0, trained.output
    assert Path(trained.folder / "again" / "checkpoints" / "best.safetensors").is_file()


@pytest.mark.parametrize(
    ("network", "kernel_size", "message"),
    [
        (("vit_tiny_mixer", {"affinity": "attention rope"}), 3, "nothing can be closed in blocks of 'attention rope'"),
        (("vit_tiny_mixer", {}), None, "in blocks of 'attention': .* heads of plain attention are closed with --from"),
        (("vit_tiny_patch16_224", {}), 3, "VisionTransformer is not made of words: .* with --from WEIGHTS a plain"),
        (("resnet18", {}), 3, "ResNet is not made of words"),
    ],
)
def test_a_network_without_places(network: tuple[str, dict], kernel_size: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_places(contagg.create(network[0], **network[1]), kernel_size)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deit_tiny_distilled_patch16_224", {}, "model.name 'deit_tiny_distilled_patch16_224' is no plain vision"),
        ("vit_tiny_patch16_224", {"qk_norm": True}, "is no plain vision transformer of timm's: .* other norms"),
        ("vit_tiny_patch16_224", {"pre_norm": True}, "this one's first layer has no bias"),
    ],
)
def test_a_transformer_that_cannot_become_ours(trained: Runs, name: str, options: dict, message: str) -> None:
    recipe = recipe_of(trained)
    model = replace(recipe.model, name=name, options={**recipe.model.options, **options}, init_weights=None)
    with pytest.raises(UserError, match=message) as caught:
        recipe, renormalize = in_words(replace(recipe, model=model))
        renormalize(build_model(recipe.model, 10)[0])
    assert "\n" not in str(caught.value)


def test_a_budget_out_of_range_is_told_the_range(trained: Runs) -> None:
    trained = copy.copy(trained)
    trained.command = "place"
    assert trained.fit("poor", "--from", str(trained.folder / "run"), "--budget", "0.1") == 2
    assert "placement.budget 0.1 of all open: at 16 x 16 pixels this network costs 0." in trained.output


def test_an_even_kernel_has_no_centre() -> None:
    with pytest.raises(UserError, match=r"placement\.kernel_size must be odd, not 4"):
        PlacementConfig(budget="0.9", kernel_size=4)
