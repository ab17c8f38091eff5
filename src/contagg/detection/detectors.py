"""The detectors of a recipe, behind one interface (Sec. 4.2 to 4.4, appendix A.2 to A.4).

RetinaNet and Mask R-CNN are torchvision's networks on a pyramid of our making; for the others see `sets`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead

from contagg.checkpoints.options import check_model
from contagg.data.coco.dataset import Target
from contagg.detection.backbone import P6P7, Features, MaxP6, PyramidBackbone
from contagg.detection.batching import DETECTIONS, MEAN, STD, Batching, Detections, check_images, check_targets
from contagg.detection.config import DetectorConfig
from contagg.detection.detr.network import AttendingCore, SetNetwork
from contagg.detection.padding import EdgedRoIAlign

PAPER_CHANNELS = 256
"""Of the feature pyramid; torchvision's start of RetinaNet's head is made for it."""


class Detector(nn.Module):
    """A network behind one interface, in which labels begin at 0.

    Attributes:
        network: torchvision's, or a `SetNetwork`.
        classes: K.
        masks: Whether it learns and gives masks.
    """

    def __init__(self, network: nn.Module, classes: int, masks: bool) -> None:
        super().__init__()
        self.network, self.classes, self.masks = network, classes, masks

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses by name in training; otherwise what was found in each image, best first, in its own pixels.

        Args:
            images: uint8 or 0 to 1, (3, H, W), of any sizes.
            targets: One an image, see `contagg.data.coco.dataset`.

        Raises:
            UserError: images or targets that are not that; names the image.
        """
        check_images(images)
        if self.training:
            check_targets(images, targets, self.classes, self.masks)
            keep = ("boxes", "labels", "masks", "image_id")
            targets = [{key: t[key] for key in keep if key in t} for t in targets or ()]
        return self.network(images, targets if self.training else None)


class StridedAnchors(AnchorGenerator):
    """Anchors at the true strides of the levels; torchvision's derive them from sizes, wrongly where these round up."""

    def __init__(
        self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float], strides: Sequence[int]
    ) -> None:
        super().__init__(tuple(map(tuple, sizes)), (tuple(aspect_ratios),) * len(sizes))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors (A, 4) of each image, level after level."""
        first = feature_maps[0]
        self.set_cell_anchors(first.dtype, first.device)
        strides = [[torch.tensor(stride, device=first.device)] * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors([list(level.shape[-2:]) for level in feature_maps], strides))
        return [anchors for _ in image_list.image_sizes]


def build_detector(config: DetectorConfig, classes: int) -> Detector:
    """The detector of a recipe, its backbone without weights of its own. UserError for a backbone that cannot serve."""
    builders = {
        "retinanet": _retinanet,
        "mask_rcnn": _mask_rcnn,
        "detr": _attending,
        "smca_detr": _attending,
        "deformable_detr": _deformable,
    }
    return builders[config.detector](config, classes)


def features_of(model: nn.Module) -> Features:
    """A detector's backbone without its pyramid."""
    return next(module for module in model.modules() if isinstance(module, Features))


def _features(config: DetectorConfig, strides: Sequence[int]) -> Features:
    check_model(config.backbone, config.options, "model.backbone")
    features = Features(
        config.backbone,
        strides,
        config.norm == "frozen",
        pretrained=config.pretrained,
        drop_path_rate=config.drop_path,
        **config.options,
    )
    if config.checkpointing:
        features.checkpoint()
    return features


def _retinanet(config: DetectorConfig, classes: int) -> Detector:
    features = _features(config, (8, 16, 32))
    extra = P6P7(features.channels[-1], config.pyramid_channels)
    backbone = PyramidBackbone(features, config.pyramid_channels, extra)
    sizes = [[config.anchor_size * 2 ** (level + third / 3) for third in range(3)] for level in range(5)]
    network = RetinaNet(
        backbone,
        classes,
        anchor_generator=StridedAnchors(sizes, (0.5, 1.0, 2.0), backbone.strides),
        detections_per_img=config.detections_per_image or DETECTIONS,
    )
    network.transform = Batching(MEAN, STD, first_label=0)
    if config.pyramid_channels < PAPER_CHANNELS:
        start_narrow_head(network.head)
    backbone.padding_mask.zero_padding(network.head)
    backbone.padding_mask.mask_logits(network.head.classification_head.cls_logits)
    return Detector(network, classes, masks=False)


def start_narrow_head(head: RetinaNetHead) -> None:
    """He's normal for the hidden convolutions, in which a signal keeps its size.

    torchvision's deviation of 0.01 is made for 256 channels; of 64 channels four such layers leave a thousandth, and
    neither classes nor boxes are learnt for hundreds of steps.
    """
    for part in (head.classification_head.conv, head.regression_head.conv):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _mask_rcnn(config: DetectorConfig, classes: int) -> Detector:
    features = _features(config, (4, 8, 16, 32))
    channels = config.pyramid_channels
    backbone = PyramidBackbone(features, channels, MaxP6())
    sizes = [[config.anchor_size * 2**level] for level in range(5)]
    hidden = 4 * channels  # torchvision's 1024 at the usual 256
    network = MaskRCNN(
        backbone,
        rpn_pre_nms_top_n_train=2 * config.proposals,
        rpn_post_nms_top_n_train=2 * config.proposals,
        rpn_pre_nms_top_n_test=config.proposals,
        rpn_post_nms_top_n_test=config.proposals,
        box_batch_size_per_image=config.sampled_proposals,
        rpn_score_thresh=1e-30,  # below it are the scores of padding
        rpn_anchor_generator=StridedAnchors(sizes, (0.5, 1.0, 2.0), backbone.strides),
        box_roi_pool=EdgedRoIAlign(features.strides, 7),
        box_head=TwoMLPHead(channels * 7**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, classes + 1),
        box_detections_per_img=config.detections_per_image or DETECTIONS,
        mask_roi_pool=EdgedRoIAlign(features.strides, 14),
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes + 1),
    )
    network.transform = Batching(MEAN, STD, first_label=1)
    backbone.padding_mask.zero_padding(network.rpn.head)
    backbone.padding_mask.mask_logits(network.rpn.head.cls_logits)
    return Detector(network, classes, masks=True)


def _attending(config: DetectorConfig, classes: int) -> Detector:
    features = _features(config, (config.detr.stride,))
    core = AttendingCore(features.channels[0], config.detr, prior=config.detector == "smca_detr")
    kept = config.detections_per_image or config.detr.queries
    return Detector(SetNetwork(features, core, classes, config.detr, kept), classes, masks=False)


def _deformable(config: DetectorConfig, classes: int) -> Detector:
    from contagg.detection.detr.deformable import DeformableCore, start_boxes  # its library takes seconds to import

    features = _features(config, (config.detr.stride,))
    core = DeformableCore(features.channels[0], config.detr)
    network = SetNetwork(features, core, classes, config.detr, config.detections_per_image or DETECTIONS)
    start_boxes(network.box_head[-1])  # type: ignore[arg-type]
    return Detector(network, classes, masks=False)
