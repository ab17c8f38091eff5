"""A recipe of one of timm's plain vision transformers, in the words of a network of ours that answers alike."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import VisionTransformer
from torch import Tensor, nn

from contagg.data.transforms import per_channel
from contagg.errors import UserError
from contagg.nn.plain_vit import mixer_like, mixer_name
from contagg.training.building import build_model


def in_words(recipe: Any) -> tuple[Any, Callable[[nn.Module], None]]:
    """The recipe, with a network of ours in the place of a plain vision transformer of timm's; others as they are.

    Returns:
        It, and what is to be done with its networks once they have their weights: ours is given images normalized in
        its own way, which goes into the layer that takes them.

    Raises:
        UserError: timm's transformer is no plain one.
    """
    name = getattr(recipe.model, "name", None)
    if name is None or not timm.models.model_entrypoint(name.split(".")[0]).__module__.startswith("timm."):
        return recipe, lambda network: None
    with torch.device("meta"):
        theirs, _ = build_model(replace(recipe.model, init_weights=None, probe=False), num_classes=2)
    if not isinstance(theirs, VisionTransformer):
        return recipe, lambda network: None
    try:
        options, ours = mixer_like(theirs)
    except UserError as error:
        raise UserError(f"placement: model.name {name!r} is {error}") from error
    channels = recipe.model.channels
    given, wanted = (
        [torch.tensor(per_channel(resolve_model_data_config(each)[part], channels)) for part in ("mean", "std")]
        for each in (theirs, ours)
    )
    model = replace(recipe.model, name=mixer_name(theirs), options=options)
    return replace(recipe, model=model), lambda network: renormalize(network.patch_embed.proj, given, wanted)


@torch.no_grad()
def renormalize(layer: Any, given: list[Tensor], wanted: list[Tensor]) -> None:
    """Let a convolution answer to (pixels - mean) / std of the `wanted` mean and std as it did to those `given`.

    Raises:
        UserError: it has no bias.
    """
    (mean, std), (other_mean, other_std) = given, wanted
    if torch.equal(mean, other_mean) and torch.equal(std, other_std):
        return
    if layer.bias is None:
        raise UserError(
            "placement: a network of ours sees images normalized otherwise, and this one's first layer has no bias "
            "that could take that up"
        )
    layer.bias += (layer.weight * ((other_mean - mean) / std)[:, None, None]).sum((1, 2, 3))
    layer.weight *= (other_std / std)[:, None, None]
