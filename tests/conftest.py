"""Every test runs on one thread and without a network: a connection to another machine is an error."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import average  # noqa: F401  words of others, which tests of all words have whichever folders are run
import dilated  # noqa: F401
import pytest
import torch
from composed import COMPOSITION, SPLITS
from photographs import piece

from contagg.affinity import registry
from tools.compose_coco import write_split

torch.set_num_threads(1)
_LOCAL = ("127.0.0.1", "::1", "localhost", "")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def only_local(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in _LOCAL:
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_local)


@pytest.fixture(autouse=True, scope="module")
def registered_words() -> Iterator[None]:
    """What a file of tests registers is gone after it, as the next one in a random order may ask for all words."""
    before = dict(registry._KINDS)
    yield
    registry._KINDS.clear()
    registry._KINDS.update(before)


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make train/ and val/ of classes with so many images each: PNG and JPEG, the odd ones in a subfolder."""

    def make(classes: tuple[str, ...] = ("china", "flower"), train: int = 6, val: int = 3) -> Path:
        root = tmp_path / "images"
        for split, count in (("train", train), ("val", val)):
            for class_number, class_name in enumerate(classes):
                for number in range(count):
                    folder = root / split / class_name / ("deep" if number % 2 else "")
                    folder.mkdir(parents=True, exist_ok=True)
                    source = "china.jpg" if class_number % 2 == 0 else "flower.jpg"
                    kind = "png" if number % 3 == 0 else "JPEG"
                    where = number + 50 * (split == "val")
                    piece(where, name=source).save(folder / f"{class_name} {number}.{kind}")
        return root

    return make


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composed")
    for split, count in SPLITS.items():
        write_split(COMPOSITION, folder, split, count, workers=0)
    return folder
