"""`python -m tools.package_weights RUN TAG`: a run's last weights into the package, with a model card.

Writes src/contagg/weights/NAME.TAG.safetensors and .json, which says of them what timm is to know, and docs/weights.md
with its picture. The weights are the last epoch's, whichever looked best: the images that judge them chose nothing.

Command   python -m tools.package_weights runs/caltech/container_light_tiny caltech101
"""

import argparse
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

import torch
from PIL import Image

from contagg.benchmark.bench import describe
from contagg.benchmark.cost import parameter_count
from contagg.checkpoints.hub_config import data_config
from contagg.checkpoints.weights import load_model, read_weights, save_weights
from contagg.classification.evaluation import Evaluation, evaluate_file
from contagg.data.sources import open_validation
from contagg.errors import UserError
from contagg.figures import percent
from contagg.files import PACKAGED, write_output
from contagg.training.building import data_of_run
from contagg.training.run_folder import RunFolder
from contagg.yaml_file import read_yaml

CARD = Path(__file__).with_suffix(".md")
DOCS = Path(__file__).parent.parent / "docs"
LARGEST = 5 * 10**6
"""Bytes of a weights file: what a package may carry."""
KEPT = ("task", "model", "class_names", "preprocessing")
"""Of a file's metadata: what it needs to be used, and nothing about the machine that made it."""


@dataclass(frozen=True)
class Source:
    """Where the images came from, and what may be done with what is learnt from them."""

    data: str
    license: str
    recipe: str
    url: str


SOURCES = {
    "caltech101": Source(
        data=(
            "Caltech-101 (F.-F. Li, M. Andreetto, M. Ranzato, P. Perona, 2022, doi 10.22002/D1.20086): 5,204 "
            "photographs to learn from and 2,603 to judge by, of 99 classes (without Faces and Faces_easy), shorter "
            "side at most 128"
        ),
        license="cc-by-4.0",
        recipe="recipes/caltech/container_light_tiny.yaml",
        url="https://data.caltech.edu/records/mzrjq-6wc02",
    )
}


def package(run: Path, tag: str, folder: Path = PACKAGED) -> Path:
    """Write the two files; returns the weights file.

    Raises:
        UserError: the tag is unknown, or the file would be too large.
    """
    if tag not in SOURCES:
        raise UserError(f"there is no source {tag!r}: known are {', '.join(SOURCES)}")
    state, metadata = read_weights(run / "checkpoints" / "last.safetensors")
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > LARGEST:
        raise UserError(f"{run} has weights of {size / 1e6:.1f} MB; a package may carry {LARGEST / 1e6:g} MB")
    name = metadata["model"]["name"]
    path = folder / f"{name}.{tag}.safetensors"
    save_weights(path, state, {key: metadata[key] for key in KEPT})
    write_output(path.with_suffix(".json"), (json.dumps(described(metadata, SOURCES[tag]), indent=1) + "\n").encode())
    return path


def described(metadata: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """What timm's PretrainedCfg is to hold of a file."""
    prepared = data_config(metadata["preprocessing"])
    return prepared | {
        "num_classes": len(metadata["class_names"]),
        "label_names": metadata["class_names"],
        "license": source.license,
        "description": f"trained from nothing on {source.data}",
        "origin_url": source.url,
    }


def card(path: Path, run: Path, found: Evaluation) -> str:
    """The model card of a packaged file: of what it learnt, how good it is, under which terms, by which commands."""
    model, metadata = load_model(path)
    name, tag = path.stem.split(".")
    source, prepared, device = SOURCES[tag], metadata["preprocessing"], describe(torch.device("cpu"))
    shares, counts = found.class_accuracies, found.confusion.sum(1)
    hardest = shares.argsort()[:5].tolist()
    return Template(CARD.read_text()).substitute(
        asdict(source),
        name=name,
        tag=tag,
        word=path.stem,
        megabytes=f"{path.stat().st_size / 1e6:.1f}",
        parameters=f"{parameter_count(model):,}",
        accuracy=percent(found.scores["accuracy"], 2),
        images=f"{found.images:,}",
        balanced=percent(found.balanced_accuracy, 2),
        fewest=counts.min().item(),
        most=counts.max().item(),
        hardest=", ".join(f"{found.class_names[index]} ({percent(shares[index].item())})" for index in hardest),
        side=prepared["input_size"][1],
        interpolation=prepared["interpolation"],
        crop=f"{prepared['crop_fraction']:g}",
        epochs=read_yaml(RunFolder(run).recipe)["optimization"]["epochs"],
        device=device["device"],
        commit=device["commit"],
        torch=device["torch"].partition("+")[0],
        classes=len(metadata["class_names"]),
    )


def picture(run: Path) -> Image.Image:
    """The run's own, of held-out images."""
    image = Image.open(run / "figures" / "predictions.png", formats=("PNG",)).convert("RGB")
    image.thumbnail((1400, 1400))
    return image


def main(arguments: list[str] | None = None) -> None:
    """Weights, what timm is to know of them, and the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run folder of a classification recipe")
    parser.add_argument("tag", choices=sorted(SOURCES), help="which data it learnt from")
    given = parser.parse_args(arguments)
    path = package(given.run, given.tag)
    config = data_of_run(given.run / "checkpoints" / "last.safetensors", {})
    images, names = open_validation(config)
    loading = {"batch_size": 64, "workers": 0, "device": torch.device("cpu")}
    found = evaluate_file(path, images, names, config.max_corrupt_fraction, **loading)
    write_output(DOCS / "weights.md", card(path, given.run, found).encode())
    buffer = io.BytesIO()
    picture(given.run).save(buffer, "JPEG", quality=85)
    write_output(DOCS / "pictures" / "weights.jpg", buffer.getvalue())
    print(f"{path}: {found}")


if __name__ == "__main__":
    main()
