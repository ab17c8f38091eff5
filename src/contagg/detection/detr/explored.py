"""`contagg inspect explore` of DETR and SMCA-DETR: pick a query, see its cross-attention and SMCA's prior."""

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from contagg.affinity.forms import Dense
from contagg.data.coco.dataset import as_tensor, evaluation_transform
from contagg.data.decode import open_image
from contagg.detection.detr.cross_attention import CrossAttention, cross_attention
from contagg.detection.detr.cross_attention_figure import caption
from contagg.detection.saved import load_detector
from contagg.explorer.building import Explored, numbers_of
from contagg.explorer.commands import write
from contagg.explorer.exploring import page_of
from contagg.inspect.forms import RecordedLayer, Recording, Term, Unshown
from contagg.training.run_folder import weights_in

SELF = Unshown(
    name="decoder, self-attention", reason="queries gather from each other there, and they lie nowhere in the image"
)


def explore(options: argparse.Namespace) -> None:
    """Write the page of a detector's queries."""
    saved = load_detector(weights_in(options.model))
    image = as_tensor(open_image(options.image, saved.bit_depth))
    prepared: Any = evaluation_transform(saved.resizing)(image, {})[0]
    names = [category.name for category in saved.categories]
    model = explored_queries(saved.model, torch.as_tensor(prepared), names, Path(options.model).name)
    write(page_of(Image.fromarray(image.permute(1, 2, 0).numpy()), [model], options.note), options)


def explored_queries(model: Any, image: Tensor, names: list[str], name: str) -> Explored:
    """All decoder layers' cross-attention on an image (3, H, W), the surest queries first.

    Raises:
        UserError: another detector than DETR and SMCA-DETR.
    """
    last = cross_attention(model, image)
    order = last.probabilities.amax(1).argsort(descending=True)
    targets = tuple(f"{query + 1}: {caption(last, query + 1, names)}" for query in order.tolist())
    layers = [_layer(cross_attention(model, image, number), order, targets) for number in range(1, last.layer + 1)]
    size = (image.shape[1], image.shape[2])
    return numbers_of(Recording(layers=layers, unshown=[SELF]), size, name=name, about=f"{len(order)} queries")


def _layer(found: CrossAttention, order: Tensor, targets: tuple[str, ...]) -> RecordedLayer:
    one = torch.ones(1)

    def term(kind: str, maps: Tensor) -> Term:
        return Term(name=kind, weight=one, form=Dense(matrix=maps[:, order].flatten(2)))

    return RecordedLayer(
        name=f"decoder.layers.{found.layer - 1}.multihead_attn",
        label=f"decoder layer {found.layer}",
        grid=(found.attention.shape[2], found.attention.shape[3]),
        terms=(term("dynamic", found.attention),),
        beside=() if found.prior is None else (term("prior", found.prior),),
        targets=targets,
    )
