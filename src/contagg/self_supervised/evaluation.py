"""`contagg knn`: how well classes can be told by the nearest training images in a network's features."""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from contagg.checkpoints.fitting import load_fitted
from contagg.checkpoints.locate import weights_in
from contagg.checkpoints.models import run_model
from contagg.checkpoints.options import check_name
from contagg.checkpoints.weights import load_model, read_weights, save_weights
from contagg.data.config import NAMED_DATA, AugmentationConfig, DataConfig
from contagg.data.decode import UnreadableSampleError
from contagg.data.loaders import ImageLoader, evaluation_loader
from contagg.data.sources import ImageData, open_data
from contagg.device import choose_device, require_finite
from contagg.errors import UserError, plural
from contagg.figures import percent
from contagg.files import write_output
from contagg.models import create
from contagg.self_supervised.knn import Features, accuracies, check_neighbours
from contagg.training.building import Preprocessing, bit_depth_of, data_of_run
from contagg.training.config import ModelConfig


def knn(options: argparse.Namespace) -> None:
    """Print k-NN accuracy for each k, first of the file, then of what was asked for beside it."""
    path = weights_in(options.checkpoint)
    device = choose_device(options.device)
    if options.temperature <= 0:
        raise UserError(f"--temperature must be above 0, not {options.temperature}")
    backbone, preprocessing, fresh = open_backbone(path, options.model, options.image_size)
    config = _which_data(path, options)
    data = open_data(config)
    if config.is_stream:
        raise UserError(f"k nearest neighbours need images by number, and {config.name!r} is a stream")
    check_neighbours(options.k, len(data.train))
    rows = {str(path): backbone}
    if options.baselines:
        torch.manual_seed(0)
        rows |= {"untrained": fresh(), "raw pixels": nn.Flatten()}
    loaders = [
        evaluation_loader(
            images,
            preprocessing.evaluation(),
            options.batch_size,
            options.workers,
            max_corrupt_fraction=config.max_corrupt_fraction,
        )
        for images in (data.train, data.validation)
    ]
    found = {}
    for name, network in rows.items():
        cache = _cache(options.cache, network, preprocessing, config, data) if options.cache else (None, None)
        bank, queries = (features(network, *pair, device) for pair in zip(loaders, cache, strict=True))
        found[name] = accuracies(queries, bank, options.k, options.temperature, device)
        print(f"{name}: " + ", ".join(f"{k}-NN {percent(share, 2)}" for k, share in found[name].items()), flush=True)
    print(f"of {plural(len(data.validation), 'image')} among {len(data.train)}", flush=True)
    if options.output:
        result = {"data": config.name, "bank": len(data.train), "queries": len(data.validation), "accuracy": found}
        write_output(Path(options.output), json.dumps(result, indent=2).encode())


def open_backbone(
    path: Path, name: str | None, image_size: int
) -> tuple[nn.Module, Preprocessing, Callable[[], nn.Module]]:
    """The backbone in a file, how its images are prepared, and what makes it anew, untrained.

    Args:
        name: Which network, for a file that does not say so: plain weights, or a checkpoint of the original DINO, of
            which the teacher is taken.
        image_size: Pixels, with `name`.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    if name is None:
        model, metadata = load_model(path)
        preprocessing = Preprocessing.read(metadata, str(path))
        made = metadata["model"]
    else:
        check_name(name, "--model")
        state, _ = read_weights(path)
        made = {"name": name, "options": {"num_classes": 0}}
        model = create(name, num_classes=0)
        load_fitted(model, state, repr(str(path)))
        preprocessing = Preprocessing.of(model, ModelConfig(name=name, image_size=image_size), AugmentationConfig())
    return (
        _without_classifier(model),
        preprocessing,
        lambda: _without_classifier(create(made["name"], **made["options"])),
    )


def _without_classifier(model: nn.Module) -> nn.Module:
    if getattr(model, "num_classes", 0):
        model.reset_classifier(0)  # type: ignore[operator]
    return model.eval()


@torch.inference_mode()
def features(network: nn.Module, batches: ImageLoader, cache: Path | None, device: torch.device) -> Features:
    """The features of all images, of this process alone; taken from `cache` if it is there, else kept in it."""
    found = Features(len(batches.sampler))  # type: ignore[arg-type]
    if cache and cache.is_file():
        state, _ = read_weights(cache)
        found.add(state["features"], state["labels"])
        return found
    network = network.to(device).eval()
    for images, labels in batches:
        answers = run_model(network, images.to(device))
        require_finite({"what the network answers": answers}, "no neighbours")
        found.add(answers, labels)
    if cache:
        save_weights(cache, {"features": found.features, "labels": found.labels}, {})
    return found


def _cache(
    folder: str, network: nn.Module, preprocessing: Preprocessing, config: DataConfig, data: ImageData
) -> Iterable[Path]:
    """A file for the bank and one for the queries, named by all that the features depend on: the images' bytes too."""
    digest = hashlib.sha256(repr((type(network).__name__, preprocessing, config.max_pixels, config.bit_depth)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(
            name.encode() + tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    for images in (data.train, data.validation):
        part = digest.copy()
        part.update(images.labels.tobytes())
        for index in range(len(images)):
            part.update(hashlib.sha256(_content(images, index)).digest())
        yield Path(folder) / f"features-{part.hexdigest()[:20]}.safetensors"


def _content(images: Any, index: int) -> bytes:
    try:
        return images.content(index)
    except UnreadableSampleError:
        return b""


def _which_data(path: Path, options: argparse.Namespace) -> DataConfig:
    """The run's data, or those that were named."""
    name, root = options.data, options.root
    if name is None:
        return data_of_run(path, {"root": root})
    if name not in NAMED_DATA and Path(name).is_dir():
        name, root = "folder", name
    return DataConfig(name=name, root=root, bit_depth=bit_depth_of(path))
