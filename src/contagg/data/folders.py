"""Image files in folders and in tars: each real file once, what systems leave behind passed over, nothing unpickled.

A class folder counts with all that lies below it. A tar means what the folder would that it was made of.
"""

import logging
import os
import stat
import tarfile
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from contagg.data.datasets import EncodedImages, Read
from contagg.data.decode import EXTENSIONS, open_regular
from contagg.errors import UserError, printable

logger = logging.getLogger(__name__)

_LEFT_BEHIND = frozenset(
    {
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb"),  # disk stations
        *("$recycle.bin", "recycler", "system volume information", "__macosx", "lost+found"),
    }
)

Split = tuple[EncodedImages, tuple[str, ...]]
"""Images, and the names of their classes."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is passed over: `.cache`, `._a.png` of a Mac, `@eaDir` of a disk station ..."""
    return name.startswith(".") or name.casefold() in _LEFT_BEHIND


def is_image(name: str) -> bool:
    """By its ending, whatever its case."""
    return name.lower().endswith(EXTENSIONS) and not is_hidden(name)


def class_of(name: str) -> str:
    """A folder's name as a class: as one composed text, since Macs write the same name in another form."""
    return unicodedata.normalize("NFC", name)


@dataclass
class FoundFiles:
    """The image files below some folders, and what was passed over.

    Attributes:
        paths: Relative to the root, in the order of their names within each folder.
        sizes: In bytes.
        tops: Which of the folders each lies in.
        left_out: How many were passed over by reason, with the first of each.
    """

    paths: list[str] = field(default_factory=list)
    sizes: array = field(default_factory=lambda: array("q"))
    tops: array = field(default_factory=lambda: array("q"))
    left_out: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def leave_out(self, reason: str, path: str) -> None:
        """Count one."""
        self.left_out[reason] += 1
        self.first.setdefault(reason, path)

    def tell(self, root: Path | str) -> None:
        """Say in one line what was passed over, if anything."""
        if self.left_out:
            parts = [f"{n} {reason}, such as {printable(self.first[reason])}" for reason, n in self.left_out.items()]
            logger.warning("%s: left out: %s", root, "; ".join(parts))


def walk(root: Path, tops: Sequence[str]) -> FoundFiles:
    """The images below folders of `root`. UserError for a folder that cannot be read.

    Links are followed, but no folder and no file is taken twice: not one that a link leads back to, nor one of another
    of the folders. What lies there itself goes before what is linked to.
    """
    return _Walk(root, tops).found


class _Walk:
    def __init__(self, root: Path, tops: Sequence[str]) -> None:
        self.found, self._start = FoundFiles(), len(str(root / "x")) - 1  # where a relative path begins
        self._rows: list[tuple[int, str, int, bool]] = []  # top, path, size, whether it is a link
        self._keys = array("Q")  # (device, inode) of each row, one after the other
        self._links: list[tuple[int, str]] = []
        self._folders = {_key(folder.stat()) for folder in root.resolve().parents}
        self._several = False  # whether a file may be reached twice
        folders = [root / top for top in tops]
        for folder in {root, *folders}:
            key = _key(folder.stat())
            if key in self._folders:
                raise UserError(f"data: {printable(str(folder))} is a link to a folder that is counted already")
            self._folders.add(key)
        for top, folder in enumerate(folders):
            self._gather(top, str(folder))
        for top, link in self._links:  # grows while links are met within links
            key = _key(Path(link).stat())
            if key in self._folders:
                self.found.leave_out("links to folders that are counted already", link[self._start :])
            else:
                self._folders.add(key)
                self._gather(top, link)
        self._keep()

    def _gather(self, top: int, folder: str) -> None:
        pending = [folder]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(folder) as entries:
                    ordered = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                raise UserError(f"data: {printable(folder)} cannot be read: {error.strerror}") from error
            for entry in ordered:
                if is_hidden(entry.name):
                    if is_image(entry.name.lstrip("._")) and not _leads_to_folder(entry):
                        self.found.leave_out("hidden files", entry.path[self._start :])
                elif entry.is_dir(follow_symlinks=False):
                    key = _key(entry.stat())
                    if key not in self._folders:
                        self._folders.add(key)
                        pending.append(entry.path)
                elif _leads_to_folder(entry):
                    self._several = True
                    self._links.append((top, entry.path))
                else:
                    self._take(top, entry, entry.path[self._start :])

    def _take(self, top: int, entry: "os.DirEntry[str]", path: str) -> None:
        if not is_image(entry.name):
            return self.found.leave_out("files that are no images", path)
        try:
            status = entry.stat()
        except OSError:
            return self.found.leave_out("links that lead nowhere", path)
        if not stat.S_ISREG(status.st_mode):
            return self.found.leave_out("files that are not regular", path)
        self._several |= entry.is_symlink() or status.st_nlink > 1
        self._keys.extend(_key(status))
        self._rows.append((top, path, status.st_size, entry.is_symlink()))
        return None

    def _keep(self) -> None:
        kept = list(range(len(self._rows)))
        if self._several:
            first: dict[tuple[int, int], int] = {}
            keys = list(zip(self._keys[::2], self._keys[1::2], strict=True))
            for row in sorted(kept, key=lambda row: self._rows[row][3]):
                if first.setdefault(keys[row], row) != row:
                    self.found.leave_out("links to files that are counted already", self._rows[row][1])
            kept = list(first.values())
        for top, path, size, _ in sorted(self._rows[row] for row in kept):
            self.found.paths.append(path)
            self.found.sizes.append(size)
            self.found.tops.append(top)


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def find_images(named: Iterable[str]) -> list[Path]:
    """Files as named, and the images in folders, however deep, sorted. UserError for what is not there or empty."""
    paths: list[Path] = []
    for name in named:
        path = Path(name)
        if path.is_dir():
            found = walk(path, [""])
            found.tell(path)
            if not found.paths:
                raise UserError(f"the folder {name} has no images ({', '.join(EXTENSIONS)})")
            paths += [path / inside for inside in found.paths]
        elif path.exists():
            paths.append(path)
        else:
            raise UserError(f"there is no image or folder {name}")
    return paths


class FolderSource:
    """Files by their paths below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, number: int, name: bytes) -> Path:
        """Where it lies. Names need not be text."""
        return self.root / os.fsdecode(name)


def read_folder(root: Path, read: Read) -> Split:
    """Images in the class folders of `root`, however deep; classes in the order of their names, also empty ones."""
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name))
    if not folders:
        raise UserError(f"data: {root} has no class folders")
    found = walk(root, folders)
    found.tell(root)
    class_names = sorted({class_of(folder) for folder in folders})
    label = np.array([class_names.index(class_of(folder)) for folder in folders])
    names, labels = np.array([os.fsencode(path) for path in found.paths]), label[np.asarray(found.tops)]
    images = EncodedImages(FolderSource(root), names, labels, np.asarray(found.sizes), read)
    return images, tuple(printable(name) for name in class_names)


def read_flat(root: Path, read: Read) -> EncodedImages:
    """All images below `root`, however deep, of one class."""
    found = walk(root, [""])
    found.tell(root)
    if not found.paths:
        raise UserError(f"data: {root} has no images ({', '.join(EXTENSIONS)})")
    names = np.array([os.fsencode(path) for path in found.paths])
    return EncodedImages(FolderSource(root), names, np.zeros(len(names)), np.asarray(found.sizes), read)


class TarSource:
    """Parts of tars, each opened anew: an open file must not be shared by forked workers, who would move its place.

    Args:
        tars: Their paths.
        which, offsets, sizes: Of each image: the tar's number, and where in it the file lies; (N,).
    """

    def __init__(self, tars: Sequence[Path], which: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> None:
        self.tars, self.which, self.offsets, self.sizes = tars, which, offsets, sizes

    def __call__(self, number: int, name: bytes) -> bytes:
        """The file's content."""
        with open_regular(self.tars[self.which[number]]) as file:
            file.seek(self.offsets[number])
            return file.read(self.sizes[number])


def read_tars(tars: Sequence[Path], read: Read) -> Split:
    """Images in class folders in one tar, which may itself lie in a folder or hold tars, or in one tar a class."""
    found, left_out = {}, FoundFiles()
    for which, tar in enumerate(tars):
        above = () if len(tars) == 1 else (tar.stem,)
        try:
            with tarfile.open(tar, "r:") as file:
                for parts, offset, size in _members(file, above, 0, left_out):
                    found[parts] = (which, offset, size)  # of two of a name the later one, as unpacking leaves it
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"data: cannot open the tar {tar}: {error}; it must be whole and not compressed") from error
    left_out.tell(tars[0] if len(tars) == 1 else tars[0].parent)
    paths = sorted(found)
    if paths and len({parts[0] for parts in paths}) == 1 and min(map(len, paths)) > 2:
        found = {parts[1:]: place for parts, place in found.items()}  # `tar cf train.tar train`
        paths = sorted(found)
    if not paths or min(map(len, paths)) < 2:
        what = f"images in no class folder, such as {min(paths, key=len)[0]}" if paths else "no images"
        raise UserError(f"data: {tars[0]} has {what}")
    class_names = sorted({class_of(parts[0]) for parts in paths})
    number = {name: place for place, name in enumerate(class_names)}
    which, offsets, sizes = np.array([found[parts] for parts in paths]).T
    names = np.array([os.fsencode("/".join(parts)) for parts in paths])
    labels = np.array([number[class_of(parts[0])] for parts in paths])
    images = EncodedImages(TarSource(tars, which, offsets, sizes), names, labels, sizes, read)
    return images, tuple(printable(name) for name in class_names)


def _members(
    tar: tarfile.TarFile, above: tuple[str, ...], start: int, left_out: FoundFiles
) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """(path's parts, offset, size) of each image, a tar within standing for a folder of its name."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else a million headers would stay
        parts = (*above, *(part for part in member.name.split("/") if part not in ("", ".")))
        name = "/".join(parts)
        if member.isdir() or (any(map(is_hidden, parts[:-1])) and ".." not in parts):
            continue
        if not member.isreg() or member.issparse() or ".." in parts:
            left_out.leave_out("files that are not regular", name)
        elif parts[-1].lower().endswith(".tar") and not above and not is_hidden(parts[-1]):
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                yield from _members(inner, (*parts[:-1], parts[-1][:-4]), start + member.offset_data, left_out)
        elif is_image(parts[-1]):
            yield parts, start + member.offset_data, member.size
        else:
            reason = "hidden files" if is_hidden(parts[-1]) else "files that are no images"
            left_out.leave_out(reason, name)
