"""What a person means by a run folder, a folder of the hub's, a weights file or a network's name. Needs no torch."""

import json
import logging
import re
from pathlib import Path
from typing import Any, Never

from contagg.errors import UserError, nearest
from contagg.files import PACKAGED

logger = logging.getLogger(__name__)

HEADER_LIMIT = 8 * 2**20
"""Bytes of a safetensors header: ten times that of 10,000 tensors and 20,000 class names. Parsed, it may take 25 times
its size, and the format itself allows 100 MB."""

ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Of weights files. Other words with a slash may be a hub's names."""

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights as timm and the hub keep them, beside a config.json."""


def weights_in(path: str | Path) -> Path:
    """The weights file that a path means.

    Of a run folder the best weights, or the last where there are no best ones, with a line that says so; of a folder
    as timm and the hub keep it `model.safetensors`; of a name with a tag, such as `container_light_tiny.caltech`, the
    weights that come with the package, also beside a folder of that name which holds none, such as the one that
    `contagg validate` writes pictures into; else the file itself.

    Raises:
        UserError: there is none; for a hub's name it says what to do.
    """
    found = find_weights(path)
    if found.name == "last.safetensors" and found != Path(path):
        logger.warning("%s has no best.safetensors: last.safetensors is taken", found.parent)
    return found


def find_weights(path: str | Path) -> Path:
    """As `weights_in`, which also says what is unusual."""
    found, path = packaged(path), Path(path)
    if path.is_dir():
        return _in_folder(path) or found or _refuse(path)
    if path.is_file():
        return path
    if found:
        return found
    if path.exists():
        raise UserError(f"{str(path)!r} is neither a file nor a folder: a run folder or a weights file was expected")
    expected = "a run folder or a weights file of a run was expected there"
    meant = _from_a_hub(str(path)) or _from_the_package(str(path))
    raise UserError(f"no weights at {str(path)!r}; {expected}{meant}")


def require_weights(path: str | None, key: str, network: str) -> None:
    """UserError, naming the recipe's key, unless it is null or names weights that are there.

    Where it is null and the name of the recipe's network is that of weights, a line says that they are not loaded.
    """
    if path is None and packaged(network):
        logger.warning("%s is null: the weights that %r names are not loaded. --%s %s", key, network, key, network)
    try:
        if path is not None:
            find_weights(path)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def weights_file(word: str | Path) -> Path | None:
    """As `weights_in`; None for what can only be a network's name."""
    return None if is_name(word) else weights_in(word)


def packaged(word: str | Path) -> Path | None:
    """The file of weights that come with the package under a network's name and a tag; None for any other word."""
    found = PACKAGED / f"{word}.safetensors"
    return found if re.fullmatch(r"\w+\.\w+", str(word)) and found.is_file() else None


def is_name(word: str | Path) -> bool:
    """Whether a word can only be a network's name, without weights of it."""
    path = Path(word)
    plain = len(path.parts) == 1 and path.suffix not in ENDINGS and ":" not in str(word)
    return plain and not path.exists() and not packaged(word)


def _in_folder(folder: Path) -> Path | None:
    for name in ("best.safetensors", "last.safetensors"):
        if (found := folder / "checkpoints" / name).is_file():
            return found
    if (folder / "config.json").is_file():
        for name in HUB_FILES:
            if (folder / name).is_file():
                return folder / name
    return None


def _refuse(folder: Path) -> Never:
    raise UserError(
        f"{str(folder)!r} is no run folder with weights: checkpoints/best.safetensors is missing, and so is "
        "model.safetensors with a config.json"
    )


def _from_a_hub(word: str) -> str:
    """What to do about `owner/name`, also behind `hf-hub:` or an address; nothing for other words."""
    found = re.fullmatch(r"(?:hf[-_]hub:|https?:/+huggingface\.co/)?([\w-][\w.-]*/[\w.-]+)", word)
    if not found or word.endswith(ENDINGS):
        return ""
    return f". Nothing is fetched: for a hub's model run `hf download {found[1]} --local-dir FOLDER` and give FOLDER"


def _from_the_package(word: str) -> str:
    """Weights that come with the package and may be meant by a name without a tag, or with another."""
    name = word.removesuffix(".safetensors").split(".")[0]
    found = sorted(file.stem for file in PACKAGED.glob("*.safetensors"))
    meant = [stem for stem in found if stem.split(".")[0] == name]
    if meant:
        return f". With the package come {', '.join(map(repr, meant))}"
    near = nearest(word, found)
    return f".{near}" if near else ""


def task_of(path: str | Path) -> str | None:
    """The task in the header of a run's weights; None for any other file, also a broken one: who reads it says why."""
    try:
        task = None if is_name(path) else read_description(find_weights(path)).get("task")
    except (UserError, OSError):
        return None
    return task if isinstance(task, str) else None


def read_description(path: Path) -> dict[str, Any]:
    """What a safetensors file of ours says of itself; {} for any other file.

    Raises:
        UserError: its header is too long, or no description.
    """
    if path.suffix != ".safetensors":
        return {}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_LIMIT:
            raise UserError(
                f"{str(path)!r} cannot be read as weights: its header claims {length} bytes, {HEADER_LIMIT} are taken"
            )
        content = file.read(length)
    try:
        said = json.loads(content).get("__metadata__", {}).get("contagg", "{}")
        description = json.loads(said)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{str(path)!r} cannot be read as weights, it may be truncated: {error}") from error
    if not isinstance(description, dict):
        raise UserError(f"{str(path)!r} says of itself {said!r}: names and values were expected")
    return description
