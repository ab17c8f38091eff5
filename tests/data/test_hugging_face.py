"""Hugging Face's data sets: labels, names of classes, nothing fetched or run that they ask for."""

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from opening import refused
from photographs import piece
from test_sources import hugging_face
from test_tables import write

from contagg.data.config import DataConfig
from contagg.data.sources import open_data


def test_texts_are_labels_too(tmp_path: Path) -> None:
    """They were `invalid literal for int()`."""
    for split in ("train", "validation"):
        write(
            tmp_path / f"set/data/{split}-00000-of-00001.parquet", ["dog", "cat", "dog"], first=3 * (split == "train")
        )
    data = open_data(DataConfig(name=f"hfds/{tmp_path}/set", root=str(tmp_path / "cache")))
    assert data.class_names == ("cat", "dog") and data.train.labels.tolist() == [1, 0, 1]


def test_splits_that_name_their_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    """`datasets` takes the first split's names for both."""
    datasets = pytest.importorskip("datasets")
    name = hugging_face(tmp_path / "set", [0, 1, 1])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    rows = datasets.Dataset.from_dict({"image": [piece(9)] * 2, "label": [0, 1]}, features=features)
    rows.to_parquet(str(tmp_path / "set/data/validation-00000-of-00001.parquet"))
    message = (
        "classes differ in .*validation-.*parquet: they are in another order: class 0 is 'cat' in training, 'dog' in"
    )
    refused(DataConfig(name=name, root=str(tmp_path / "cache")), message)


@pytest.fixture
def asked() -> Iterator[tuple[int, list[str]]]:
    """A server's port, and what it was asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, paths
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("file", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "place",
    [
        "http://127.0.0.1:{port}/x.parquet",
        "zip://x::http://127.0.0.1:{port}/y.zip",
        "../x.parquet",
        "/etc/x.csv",
    ],
)
def test_a_folder_makes_nobody_fetch(tmp_path: Path, file: str, place: str, asked: tuple[int, list[str]]) -> None:
    name = hugging_face(tmp_path / "set", [0, 1])
    port, paths = asked
    said = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '{place.format(port=port)}'\n"
    (tmp_path / "set" / file).write_text(f"---\n{said}---\n" if file == "README.md" else said)
    for kind in ("hfds", "hfids"):
        config = DataConfig(name=name.replace("hfds", kind), root=str(tmp_path / "cache"))
        refused(config, f"{file} says that data lie at '.*', outside of ")
    assert not paths


SAID = "configs:\n- config_name: default\n  data_files: 'http://127.0.0.1:{port}/x.parquet'\n"


@pytest.mark.parametrize(
    "readme",
    [
        "\n\n---\n{said}---\n",
        "\ufeff---\n{said}---\n",
        "---\nlicense: mit---x\n{said}---\n",
        "---\r\n{said}\r\n---\r\n",
        " ---\n{said}---",
    ],
)
def test_a_readme_is_read_as_datasets_reads_it(tmp_path: Path, readme: str, asked: tuple[int, list[str]]) -> None:
    """It was fetched from the address that stood below a blank line, a BOM or another ---."""
    name = hugging_face(tmp_path / "set", [0, 1])
    text = readme.format(said=SAID.format(port=asked[0]))
    (tmp_path / "set/README.md").write_bytes(text.encode())
    refused(DataConfig(name=name, root=str(tmp_path / "cache")), r"README\.md says that data lie at 'http.*', outside")
    assert not asked[1]


def test_nothing_of_a_folder_is_fetched_even_if_its_readme_is_misread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[int, list[str]]
) -> None:
    from contagg.data import hugging_face as room

    name = hugging_face(tmp_path / "set", [0, 1])
    monkeypatch.setattr(room, "_places_in", lambda file: [])
    config = DataConfig(name=name, root=str(tmp_path / "cache"))
    (tmp_path / "set/README.md").write_text(f"---\n{SAID.format(port=asked[0])}---\n")
    refused(config, "the folder .* says that data lie at an address of 'http', outside of it")
    hugging_face(tmp_path / "other", [0, 1])
    (tmp_path / "set/README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: ../other/data/*\n---\n"
    )
    refused(config, "the data of .* lie at '.*', outside of it")
    assert not asked[1]


NINES = "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefg"))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("a: &a [*a]", "stands within what it stands for"),
        (f"a: &a [1,1,1,1,1,1,1,1,1]\n{NINES}", "more than 20,000 values"),
        ("d: 2026-99-99", None),
        ("[" * 2000, "deep"),
        ("a: !!python/object:os.system x", "the tag"),
        ("a: [", "is not readable YAML"),
    ],
)  # fmt: skip
def test_a_readme_s_yaml_is_read_within_limits(tmp_path: Path, said: str, message: str | None) -> None:
    name = hugging_face(tmp_path / "set", [0, 1])
    (tmp_path / "set/README.md").write_text(f"---\n{said}\n---\n")
    refused(DataConfig(name=name, root=str(tmp_path / "cache")), message or "cannot open 'train': ValueError")


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:{port}/x", "zip://x::http://127.0.0.1:{port}/x", "pipe:touch canary", "a/b/c", "hf://datasets/x"]
)  # fmt: skip
def test_no_address_is_a_name(tmp_path: Path, kind: str, name: str, asked: tuple[int, list[str]]) -> None:
    config = DataConfig(name=f"{kind}/{name.format(port=asked[0])}", root=str(tmp_path))
    refused(config, "data.name: '.*' is neither a folder nor OWNER/NAME of the hub")
    assert not asked[1] and not Path("canary").exists()


def test_a_folder_s_own_code_is_not_run(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/set.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    refused(
        DataConfig(name=f"hfds/{tmp_path}/set", root=str(tmp_path / "cache")), "cannot open 'train': .*no longer supp"
    )
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["huggingface:x/y", "../x", "mnist;touch canary", "http://x"])
def test_no_address_is_a_name_of_tensorflow_s(name: str) -> None:
    refused(DataConfig(name=f"tfds/{name}", classes=2), "is no NAME, NAME/CONFIG or NAME:1.2.3 of tensorflow-datasets")


def test_hugging_face_s_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = hugging_face(tmp_path / "set", [0, 1, 1, 0, 1]).replace("hfds", "hfids")
    splits = "".join(f"  - name: {split}\n    num_examples: 5\n" for split in ("train", "validation"))
    (tmp_path / "set/README.md").write_text(f"---\ndataset_info:\n  splits:\n{splits}---\n")
    config = DataConfig(name=name, root=str(tmp_path / "cache"), classes=2)
    with caplog.at_level(logging.WARNING):
        data = open_data(config)
    seen = list(data.validation)
    assert [label for _, label in seen] == [0, 1, 1, 0, 1] and len(data.train) == 5
    assert np.array_equal(np.asarray(seen[3][0]), np.asarray(piece(3)))
