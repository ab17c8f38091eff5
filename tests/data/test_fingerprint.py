"""Other data are noticed and named; data that only moved are the same; ImageNet's list takes seconds."""

import json
import time

import numpy as np
import pytest

from contagg.data.fingerprint import Fingerprint, Listing

CLASSES = ["cat", "cow", "dog"]
NAMES = [f"{name}/{number}.png".encode() for name in CLASSES for number in range(5)]
LABELS = np.repeat([0, 1, 2], 5)
SIZES = np.arange(15) * 7 + 900
TRAINING = Listing(NAMES, LABELS, SIZES)
VALIDATION = Listing(NAMES[::2], LABELS[::2], SIZES[::2] + 1)


def difference(class_names: list[str] = CLASSES, training: Listing = TRAINING, validation: Listing = VALIDATION) -> str:
    """From what a state says, once written and read."""
    before = Fingerprint(CLASSES, training=TRAINING, validation=VALIDATION).state_dict()
    found = Fingerprint(class_names, training=training, validation=validation)
    return found.difference(json.loads(json.dumps(before)))


def without(which: int) -> Listing:
    return Listing(NAMES[:which] + NAMES[which + 1 :], np.delete(LABELS, which), np.delete(SIZES, which))


def test_the_same_data_are_the_same() -> None:
    assert difference(list(CLASSES), Listing(list(NAMES), LABELS.copy(), SIZES.astype(np.int32))) == ""


def other_sizes(*which: int) -> np.ndarray:
    sizes = SIZES.copy()
    sizes[list(which)] += 3
    return sizes


SWAPPED = LABELS.copy()
SWAPPED[[4, 5]] = SWAPPED[[5, 4]]
RENAMED = [*NAMES[:8], b"cow/a new\n.png", *NAMES[9:]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"class_names": ["cow", "cat", "dog"]},
            "the classes are in another order: class 0 is 'cow', before 'cat'",
        ),
        (
            {"class_names": ["cat", "cow", "fox"]},
            "the classes differ: 3, before 3, by now without 'dog' and with 'fox'",
        ),
        (
            {"training": Listing(NAMES, SWAPPED, SIZES)},
            "2 of 15 training images are not labelled as they were, the first cat/4.png",
        ),
        (
            {"training": Listing(NAMES, LABELS, other_sizes(7))},
            "1 of 15 training images are not of the size or pixels they had, the first cow/2.png",
        ),
        (
            {"training": Listing(NAMES, SWAPPED, other_sizes(7))},
            "3 of 15 training images are not labelled as they were or of the size or pixels they had, the first cat/4",
        ),
        ({"training": without(6)}, "14 training images, before 15, of class 'cow' 4, before 5"),
        (
            {"training": Listing(RENAMED, LABELS, SIZES)},
            r"1 training image was not there before, such as cow/a new\n.png",
        ),
        (
            {"training": Listing(NAMES[::-1], LABELS[::-1], SIZES[::-1])},
            "the training images are named otherwise or in another order",
        ),
        (
            {"validation": TRAINING},
            "15 validation images, before 8, of class 'cat' 5, before 3, 15 validation images were not there before, "
            "such as cat/0.png",
        ),
    ],
)
def test_what_differs_is_said_in_one_line(changed: dict, message: str) -> None:
    found = difference(**changed)
    assert found.startswith(message) and "\n" not in found


def test_splits_that_come_or_go_are_named() -> None:
    both, one = Fingerprint(CLASSES, training=TRAINING, validation=VALIDATION), Fingerprint(CLASSES, training=TRAINING)
    assert one.difference(both.state_dict()) == "there are no validation images any more"
    assert both.difference(one.state_dict()) == "there are validation images by now"


def test_any_integers_may_stand_for_labels() -> None:
    """As hashes of an image's boxes."""
    hashes = np.array([-5, 2**62, 17])
    before = Fingerprint(["ball"], training=Listing(NAMES[:3], hashes, SIZES[:3])).state_dict()
    after = Fingerprint(["ball"], training=Listing(NAMES[:3], hashes + np.array([0, 1, 0]), SIZES[:3]))
    assert after.difference(before) == "1 of 3 training images are not labelled as they were, the first cat/1.png"


def test_imagenets_list_is_cheap() -> None:
    count = 1_281_167
    names = [b"n%08d/n%08d_%d.JPEG" % (number % 1000, number % 1000, number) for number in range(count)]
    listing = Listing(names, np.arange(count) % 1000, np.arange(count) % 200_003)
    begin = time.process_time()
    found = Fingerprint([str(number) for number in range(1000)], training=listing)
    state = found.state_dict()
    assert found.difference(state) == ""
    assert time.process_time() - begin < 6  # 0.4 s on an idle core
    assert len(json.dumps(state)) < 8e6
