import torch

from contagg.detection.backbone import Features


def test_frozen_norms_stay_frozen_where_others_take_their_places() -> None:
    """As run.synchronize_batchnorm has it."""
    features = torch.nn.SyncBatchNorm.convert_sync_batchnorm(Features("container_light_tiny", (8, 16, 32), frozen=True))
    norms = [module for module in features.train().modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    assert len(norms) == 10 and not any(norm.training for norm in norms)
    assert not any(parameter.requires_grad for norm in norms for parameter in norm.parameters())


def test_channels_that_come_last_are_found_also_where_a_side_is_as_long() -> None:
    """24 channels, and 24 rows of 96 pixels."""
    options = {"strict_img_size": False, "embed_dim": 24, "num_heads": (1, 2, 4, 8), "depths": (1, 1, 1, 1)}
    features = Features("swin_tiny_patch4_window7_224", (4, 8, 16, 32), frozen=False, **options).eval()
    for size in ((96, 96), (96, 64)):
        images = torch.rand(1, 3, *size)
        with torch.no_grad():
            found, last = features(images), features.body(images)
        assert all(torch.equal(one, other.permute(0, 3, 1, 2)) for one, other in zip(found, last, strict=True))
