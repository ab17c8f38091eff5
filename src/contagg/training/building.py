"""From a recipe to its network and to how images are prepared for it; and back from what a weights file says."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from timm.data import resolve_model_data_config
from torch import nn

from contagg.checkpoints.fitting import init_weights
from contagg.checkpoints.locate import read_description
from contagg.checkpoints.options import check_model
from contagg.data.config import AugmentationConfig, DataConfig
from contagg.data.transforms import evaluation_transform, train_transform
from contagg.errors import UserError
from contagg.files import PACKAGED
from contagg.models import create
from contagg.training.config import ModelConfig
from contagg.training.run_folder import is_first_process
from contagg.yaml_file import read_section

Transform = Callable[[Image.Image], torch.Tensor]


def build_model(
    config: ModelConfig, num_classes: int, class_names: Sequence[str] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The network, and the options with which `contagg.models.create` makes it again.

    Args:
        config: Of a recipe.
        num_classes: 0 for features alone.
        class_names: To compare with those of the file that the weights begin from.

    Raises:
        UserError: an unknown model or option, or weights that do not fit.
    """
    options = {"num_classes": num_classes, "in_chans": config.channels, **config.options}
    check_model(config.name, options, "the recipe's model")
    model, taken = _created(config, options)
    if "img_size" in taken:
        options |= {"img_size": config.image_size}
    if config.init_weights:
        lines = init_weights(model, config.init_weights, ema=config.init_ema, class_names=class_names)
        if lines and is_first_process():
            print("\n".join(lines), flush=True)
    if config.probe:
        model.requires_grad_(False).eval()  # Lightning leaves modes alone: BatchNorm's statistics stay, no drop path
        model.get_classifier().requires_grad_(True)  # type: ignore[operator]
    return model, options


def _created(config: ModelConfig, options: dict[str, Any]) -> tuple[nn.Module, set[str]]:
    """The network, and which arguments it took of those that not all networks take."""
    # Drop path is asked for even where it is 0: some of timm's networks have it by default.
    offered = {"img_size": config.image_size, "drop_path_rate": config.drop_path}
    while True:
        try:
            return create(config.name, **options, **offered), set(offered)
        except TypeError as error:
            refused = next((name for name in offered if f"'{name}'" in str(error)), None)
            if refused is None:
                raise UserError(f"model.options do not fit {config.name}: {error}") from error
            if refused == "drop_path_rate" and config.drop_path:
                raise UserError(
                    f"model.drop_path is {config.drop_path}, but {config.name} has no stochastic depth: set it to 0"
                ) from error
            del offered[refused]  # it serves any size, or drops no path
        except UserError:
            raise
        except Exception as error:  # each of timm's networks refuses wrong values in its own way
            raise UserError(f"model.options do not fit {config.name}: {type(error).__name__}: {error}") from error


def data_of_run(weights: Path, given: Mapping[str, Any]) -> DataConfig:
    """The data of the run that a weights file lies in, with what is `given` instead, by DataConfig's names.

    Raises:
        UserError: the file lies in no run folder, and nothing is given; or the two make no right DataConfig.
    """
    recipe = run_of(weights) / "recipe.yaml"
    given = {key: value for key, value in given.items() if value is not None}
    try:
        known = read_section(recipe, "data")
        if not known and not given:
            raise UserError(f"{recipe} is not there, so --data.name and --data.root must say which data to use")
        return DataConfig(**({"bit_depth": bit_depth_of(weights)} | known | given))
    except TypeError as error:  # a key that DataConfig does not have
        problem = f"{recipe} does not say which data to use ({error})"
        raise UserError(f"{problem}: give --data.name and --data.root") from error


def bit_depth_of(weights: Path) -> int | None:
    """The `data.bit_depth` with which the network in a file learnt to see, as far as the file says."""
    said = read_description(weights).get("preprocessing")
    return said.get("bit_depth") if isinstance(said, dict) else None


def run_of(weights: Path) -> Path:
    """The run folder that a weights file lies in, or the folder beside it where it lies in none.

    Of weights that come with the package a folder of their name, here: theirs is not a place to write to.
    """
    folder = weights.absolute().parent
    if folder == PACKAGED:
        return Path(weights.stem)
    return folder.parent if folder.name == "checkpoints" else folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are made into what a network takes. Part of a weights file's metadata.

    Attributes:
        input_size: (C, H, W).
        mean, std: A channel's, of pixels in [0, 1].
        crop, crop_fraction, interpolation: As in AugmentationConfig.
        bit_depth: As in DataConfig.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: Literal["resized", "padded"]
    crop_fraction: float
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    bit_depth: int | None = None

    @classmethod
    def of(
        cls, model: nn.Module, config: ModelConfig, augmentation: AugmentationConfig, bit_depth: int | None = None
    ) -> "Preprocessing":
        """For a recipe: normalized as the network's own configuration says."""
        data = resolve_model_data_config(model)
        return cls(
            input_size=(config.channels, config.image_size, config.image_size),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            crop=augmentation.crop,
            crop_fraction=augmentation.crop_fraction,
            interpolation=augmentation.interpolation,
            bit_depth=bit_depth,
        )

    @classmethod
    def read(cls, metadata: dict[str, Any], source: str) -> "Preprocessing":
        """From a weights file's metadata. UserError if it is not there."""
        try:
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in metadata["preprocessing"].items()
            }
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{source} does not say how images are prepared: give a file that contagg fit wrote"
            ) from error

    def training(self, augmentation: AugmentationConfig) -> Transform:
        """PIL image -> (C, H, W), varied at random."""
        return train_transform(augmentation, self.input_size, self.mean, self.std)

    def evaluation(self) -> Transform:
        """PIL image -> (C, H, W)."""
        cut = AugmentationConfig(crop=self.crop, crop_fraction=self.crop_fraction, interpolation=self.interpolation)
        return evaluation_transform(cut, self.input_size, self.mean, self.std)
