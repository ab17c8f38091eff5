"""A small composed data set that needs no package beside scikit-learn."""

from tools.compose_coco import Composition

COMPOSITION = Composition(source="digits", size=96, classes=4, seed=5)
SPLITS = {"train": 30, "val": 11}
