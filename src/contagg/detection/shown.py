"""A detector as any model is shown: its backbone's mixers, its encoder, and where its queries look."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import normalize, resize, to_dtype

from contagg.checkpoints.locate import weights_in
from contagg.data.coco.dataset import as_tensor, resized
from contagg.detection.backbone import Features
from contagg.detection.batching import DIVISOR, MEAN, STD
from contagg.detection.detectors import features_of
from contagg.detection.detr.network import AttendingCore, SetNetwork
from contagg.detection.detr.recorded import SELF, decoder_layers, encoder_layers, sampling_layers
from contagg.detection.saved import Saved, load_detector
from contagg.inspect.forms import RecordedLayer, Recording, Unshown
from contagg.inspect.seeing import see
from contagg.inspect.view import InParts, Tell, View

CONVOLUTIONS = Unshown(
    name="network, behind the backbone",
    reason="its pyramid and heads are convolutions over all channels, which mix channels with places: no one matrix",
)


class ShownDetector(InParts):
    """A detector in evaluation mode, its modules by the names that they have in a `Detector`."""

    def __init__(self, saved: Saved) -> None:
        super().__init__()
        self.network: Any = saved.model.network
        self.names = [category.name for category in saved.categories]
        self.resizing = saved.resizing
        self.eval()

    def forward(self, image: Tensor) -> list[Tensor]:
        """The backbone's maps of a normalised image (1, 3, H, W)."""
        return self._features(image)

    def look(self, image: Image.Image, size: int | None = None) -> View:
        """Resized as in validation, to the nearest multiples of 32, so that nothing is padded.

        Args:
            size: Pixels of the shorter side, whatever the longer becomes; None is what validation resizes to.
        """
        short, long = (self.resizing.short_sides[-1], self.resizing.long_side) if size is None else (size, 2**16)
        shape = [
            max(1, round(length / DIVISOR)) * DIVISOR for length in resized((image.height, image.width), short, long)
        ]
        pixels = to_dtype(resize(as_tensor(image), shape, antialias=True), scale=True).as_subclass(Tensor)
        tensor = normalize(pixels, list(MEAN), list(STD))[None]
        return View(image=image, tensor=tensor.to(next(self.parameters())))

    def see(self, image: Tensor, wanted: Callable[[str], bool], tell: Tell) -> Recording:
        """Backbone, then encoder and decoder, which look at its map; what has no A by name and reason."""
        prefix = next(name for name, module in self.named_modules() if module is self._features)
        found = see(self._features, image, lambda name: wanted(f"{prefix}.{name}"), tell=tell)
        layers = [replace(layer, name=f"{prefix}.{layer.name}") for layer in found.layers]
        unshown = [replace(each, name=f"{prefix}.{each.name}") for each in found.unshown]
        if not isinstance(self.network, SetNetwork):
            unshown.append(CONVOLUTIONS)
        else:
            behind = self._attending if isinstance(self.network.core, AttendingCore) else self._sampling
            layers += behind(image, wanted)
            unshown.append(SELF)
        return replace(found, layers=layers, unshown=unshown)

    def _attending(self, image: Tensor, wanted: Callable[[str], bool]) -> list[RecordedLayer]:
        decoder = decoder_layers(self.network, image, self.names)
        return encoder_layers(self.network, image, wanted) + [each for each in decoder if wanted(each.name)]

    def _sampling(self, image: Tensor, wanted: Callable[[str], bool]) -> list[RecordedLayer]:
        return [each for each in sampling_layers(self.network, image, self.names) if wanted(each.name)]

    @property
    def _features(self) -> Features:
        return features_of(self.network)


def open_shown(model: str) -> tuple[ShownDetector, Mapping[str, Any]]:
    """Of a run folder or a weights file of it. UserError where it cannot be read."""
    saved = load_detector(weights_in(model))
    return ShownDetector(saved), {"bit_depth": saved.bit_depth}
