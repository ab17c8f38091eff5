"""ImageNet-1k accuracies as their authors report them, at 224 px and without other data."""

TOP1 = {
    "container": 82.7,
    "container_light": 82.0,
    "container_v1_light": 82.26,
    "deit_small_patch16_224": 79.9,
    "resnet50": 76.2,
    "swin_tiny_patch4_window7_224": 81.3,
    "convnext_tiny": 82.1,
    "pvt_v2_b2": 82.0,
    "caformer_s18": 83.6,
    "poolformer_s24": 80.3,
}
"""The first three and DeiT-S as the paper and its authors' README give them; ResNet-50 as DeiT's paper does."""

PAPER_IMAGES_PER_SECOND = {
    "container_light": 1156.9,
    "container": 347.8,
    "deit_small_patch16_224": 940.4,
    "resnet50": 1250.3,
    "swin_tiny_patch4_window7_224": 755.2,
}
"""Table 1, on the authors' GPU."""

TABLE1 = tuple(TOP1)
