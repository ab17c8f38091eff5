"""Which data a run was made with, small enough to lie in every training state, and in words what differs by now.

A run that goes on with other images, other classes or another validation set gives figures of nothing. Looked at are
names, labels, class names and sizes in bytes (for images in memory: their pixels), so that data that only moved are the
same. Not noticed is a file replaced by another of its name and size: that would take reading all of them.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from contagg.errors import plural, printable, shortened

_SHOWN = 80  # characters of a name in a message


@dataclass(frozen=True)
class Listing:
    """What is known of the N images of a split without decoding them, in the order of the data set.

    Attributes:
        names: N names as bytes, such as paths below the root. Of a stream: of its shards.
        labels: (N,) integers: classes, or hashes of what else an image was labelled with.
        contents: (N,) integers: sizes in bytes, or hashes of pixels.
    """

    names: Sequence[bytes]
    labels: np.ndarray
    contents: np.ndarray


class Fingerprint:
    """Of class names and of each split, by its name.

    >>> cats = Listing([b"cat/1.png", b"dog/1.png"], np.array([0, 1]), np.array([910, 877]))
    >>> before = Fingerprint(["cat", "dog"], training=cats).state_dict()
    >>> shrunk = Listing([b"cat/1.png", b"dog/1.png"], np.array([0, 1]), np.array([910, 512]))
    >>> Fingerprint(["cat", "dog"], training=cats).difference(before)
    ''
    >>> Fingerprint(["cat", "dog"], training=shrunk).difference(before)
    '1 of 2 training images are not of the size or pixels they had, the first dog/1.png'
    """

    def __init__(self, class_names: Sequence[str], **splits: Listing) -> None:
        self.class_names, self.splits = list(class_names), splits
        self._states = {name: _state(listing, len(class_names)) for name, listing in splits.items()}

    def state_dict(self) -> dict[str, Any]:
        """Plain values; 6 bytes per image."""
        return {"class_names": self.class_names, "splits": self._states}

    def difference(self, before: Mapping[str, Any]) -> str:
        """What is not as it was in another's `state_dict`, in one line; empty where nothing differs."""
        found = [_class_difference(before["class_names"], self.class_names)]
        for name, listing in self.splits.items():
            if name not in before["splits"]:
                found.append(f"there are {name} images by now")
            elif before["splits"][name] != self._states[name]:
                found.append(self._split_difference(name, listing, before["splits"][name], before["class_names"]))
        found += [f"there are no {name} images any more" for name in before["splits"] if name not in self.splits]
        return "; ".join(part for part in found if part)

    def _split_difference(self, name: str, listing: Listing, before: Mapping[str, Any], classes: Sequence[str]) -> str:
        marks, old = _marks(self._states[name]), _marks(before)
        if before["names"] == self._states[name]["names"]:
            changed = np.flatnonzero(marks != old)
            what = [
                words
                for part, words in (("labels", "labelled as they were"), ("contents", "of the size or pixels they had"))
                if before[part] != self._states[name][part]
            ]
            where = f", the first {_shown(listing.names[changed[0]])}" if len(changed) else ""
            return f"{len(changed)} of {len(marks)} {name} images are not {' or '.join(what)}{where}"
        new = np.flatnonzero(~np.isin(marks, old))
        words = [f"{plural(len(marks), f'{name} image')}, before {len(old)}"] if len(marks) != len(old) else []
        counts, old_counts = (np.array(state["counts"]) for state in (self._states[name], before))
        if len(counts) == len(old_counts) == len(classes) and (counts != old_counts).any():
            other = int(np.flatnonzero(counts != old_counts)[0])
            words.append(f"of class {classes[other]!r} {counts[other]}, before {old_counts[other]}")
        if len(new):
            words.append(
                f"{plural(len(new), f'{name} image was', f'{name} images were')} not there before, such as "
                f"{_shown(listing.names[new[0]])}"
            )
        return ", ".join(words) or f"the {name} images are named otherwise or in another order"


def which_were_in(split: str, before: Mapping[str, Any], listing: Listing, class_names: Sequence[str]) -> np.ndarray:
    """Which images of a listing a split of earlier data held, by name, class and size: booleans, (N,).

    Args:
        before: A Fingerprint's `state_dict`.
        class_names: Of the listing's labels; classes are matched by their names.
    """
    known = before["class_names"]
    number = np.array([known.index(name) if name in known else -1 for name in class_names])
    labels = number[listing.labels]
    return np.isin(_marked(Listing(listing.names, labels, listing.contents)), _marks(before["splits"][split]))


def _state(listing: Listing, classes: int) -> dict[str, Any]:
    labels = np.asarray(listing.labels).astype("<i8")
    is_class = len(labels) > 0 and labels.min() >= 0 and labels.max() < classes
    return {
        "names": _digest(b"\0".join(listing.names)),
        "labels": _digest(labels.tobytes()),
        "contents": _digest(np.asarray(listing.contents).astype("<u8").tobytes()),
        "counts": np.bincount(labels, minlength=classes).tolist() if is_class else [],
        "marks": base64.b64encode(_marked(listing).tobytes()).decode(),
    }


def _marked(listing: Listing) -> np.ndarray:
    """Four bytes per image that say which it is."""
    labels, contents = np.asarray(listing.labels).astype("<i8"), np.asarray(listing.contents).astype("<u8")
    names = np.fromiter((crc32(name) for name in listing.names), dtype="<u4", count=len(labels))
    mixed = (labels.view("<u8") * np.uint64(0x9E3779B97F4A7C15)) ^ (contents * np.uint64(0xC2B2AE3D27D4EB4F))
    return (names ^ (mixed >> np.uint64(32)).astype("<u4")).astype("<u4")


def _marks(state: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(state["marks"]), dtype="<u4")


def _class_difference(before: Sequence[str], now: Sequence[str]) -> str:
    if list(before) == list(now):
        return ""
    if sorted(before) == sorted(now):
        place = next(place for place, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
        return f"the classes are in another order: class {place} is {now[place]!r}, before {before[place]!r}"
    parts = [
        f"{words} {', '.join(map(repr, names[:5]))}"
        for words, names in (
            ("without", [name for name in before if name not in now]),
            ("with", [name for name in now if name not in before]),
        )
        if names
    ]
    return f"the classes differ: {len(now)}, before {len(before)}, by now {' and '.join(parts)}"


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _shown(name: bytes) -> str:
    return shortened(printable(name.decode("utf-8", "surrogateescape")), _SHOWN)
