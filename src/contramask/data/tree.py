"""The files of a data set by name, whether they lie in folders or in zip files."""

import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from contramask.data.record import UnreadableImage

#: Bytes one member of a zip file may unpack to.
_MAX_MEMBER = 1 << 30


class FileTree:
    """All files under `root` by their name inside it (posix, sorted); `root` may be a zip file.

    A zip file directly under root counts as a folder of its own name: `images.zip` holding `a.png`
    gives `images/a.png`. Hidden files are left out. `closed` counts folders and zip files that
    could not be opened. May be used from several threads at once.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.closed: Counter[str] = Counter()
        self._files: dict[str, Path] = {}
        self._members: dict[str, tuple[Path, str]] = {}
        self._archives: dict[Path, zipfile.ZipFile] = {}
        if root.is_file():
            self._mount(root, "")
        else:
            for file, name in walk(root, self.closed):
                self._files[_unused(name, self._files)] = file
            for name in [n for n in self._files if "/" not in n and n.lower().endswith(".zip")]:
                self._mount(self._files[name], name[:-4] + "/")
        self.loose = sorted(self._files)
        self.names = sorted({*self._files, *self._members})

    def __contains__(self, name: object) -> bool:
        return name in self._files or name in self._members

    def image(self, name: str) -> Path | Callable[[], bytes]:
        """A record's `image`: the file, or what fetches it from its zip file."""
        return self._files[name] if name in self._files else partial(self.read, name)

    def read(self, name: str) -> bytes:
        """The content of a file; raises `OSError`, or `UnreadableImage` from a damaged zip."""
        if name in self._files:
            return self._files[name].read_bytes()
        path, member = self._members[name]
        archive = self._archives[path]
        size = archive.getinfo(member).file_size
        if size > _MAX_MEMBER:
            raise UnreadableImage(f"would unpack to {size:,} bytes; unpack {path.name} by hand")
        try:
            return archive.read(member)
        except Exception as error:  # zip, checksum, decompressor: each raises errors of its own
            raise UnreadableImage(f"cannot be taken out of {path.name} ({error})") from error

    def text(self, name: str) -> str:
        """The content of a text file; raises `ValueError` naming the file when it is none."""
        try:
            return self.read(name).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError, UnreadableImage) as error:
            raise ValueError(f"{self.root / name} cannot be read as text ({error})") from error

    def below(self, folder: str, *suffixes: str) -> list[str]:
        """The files under a folder ("" = all), with one of the suffixes (lower case) if given."""
        start = folder.rstrip("/") + "/" if folder else ""
        found = (name for name in self.names if name.startswith(start))
        # os.path is several times faster than pathlib, which counts with a million names.
        return [n for n in found if not suffixes or os.path.splitext(n)[1].lower() in suffixes]

    def holders(self, folder: str) -> list[str]:
        """Where folders of this name lie: "" for root itself, else their parent, ending in /."""
        inside, there = f"/{folder}/", set()
        for name in self.names:
            before, found, _ = f"/{name}".partition(inside)
            if found:
                there.add(f"{before}/"[1:])
        return sorted(there)

    def _mount(self, path: Path, start: str) -> None:
        try:
            archive = zipfile.ZipFile(path)
            listed = [info for info in archive.infolist() if not info.is_dir()]
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
            self.closed["zip file that cannot be opened"] += 1
            return
        members = {info.filename.replace("\\", "/"): info.filename for info in listed}
        members = {name: member for name, member in members.items() if _is_shown(name)}
        if start and members and all(name.startswith(start) for name in members):
            start = ""  # images.zip holding images/...: no images/images
        self._archives[path] = archive
        for name, member in members.items():
            self._members.setdefault(start + name, (path, member))


def _unused(name: str, taken: dict[str, Path]) -> str:
    while name in taken:  # two names that are no UTF-8 may read alike
        name += "~"
    return name


def _is_shown(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def walk(root: Path, closed: Counter[str]) -> Iterator[tuple[Path, str]]:
    """Every file under `root` that is not hidden, and its name inside it (posix).

    Links are followed, each folder once. Folders that cannot be opened are counted in `closed`.
    """
    visited = set()

    def complain(error: OSError) -> None:
        closed["folder that cannot be opened"] += 1

    for here, folders, files in os.walk(root, onerror=complain, followlinks=True):
        if os.path.realpath(here) in visited:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(os.path.realpath(here))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in (Path(here, name) for name in files if not name.startswith(".")):
            if not _is_special(file):
                # A name that is no UTF-8 could not be written into any table.
                relative = os.fsencode(file.relative_to(root).as_posix())
                yield file, relative.decode("utf-8", "replace")


def _is_special(file: Path) -> bool:
    """Whether reading would wait or never end: a pipe, a socket or a device."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False  # a dangling link is reported when it is read
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def given_root(root: Path | None, source: str, wanted: str) -> Path:
    """The absolute `dataset.root`; raises `ValueError` ending in `wanted` when it is missing."""
    if root is None:
        raise ValueError(
            f"dataset.source {source} needs dataset.root, and it was not given; {wanted}"
        )
    found = root.expanduser().resolve()
    if not found.exists():
        raise ValueError(f"dataset.root {found} does not exist (seen from {Path.cwd()}); {wanted}")
    return found


def given_tree(root: Path | None, source: str, wanted: str) -> FileTree:
    """The files under `dataset.root`, a folder or a zip file; raises as `given_root` does."""
    found = given_root(root, source, wanted)
    if found.is_file() and not zipfile.is_zipfile(found):
        raise ValueError(f"dataset.root {found} is a file and no zip file; {wanted}")
    return FileTree(found)


def inside(tree: FileTree, given: Path, key: str) -> str:
    """A path the user wrote for `dataset.<key>` as a name inside the tree.

    It may be absolute, relative to root, or relative to the working folder. Raises `ValueError`
    when nothing of that name is there.
    """
    wanted = given.expanduser()
    choices = [PurePosixPath(wanted.as_posix())]
    if wanted.resolve().is_relative_to(tree.root):
        choices.append(PurePosixPath(wanted.resolve().relative_to(tree.root).as_posix()))
    for choice in choices:
        name = choice.as_posix().removesuffix(".zip").removeprefix("./")
        for found in (choice.as_posix(), name):
            if found in tree or tree.below(found):
                return found if found in tree and not found.endswith(".zip") else name
    tops = sorted({name.split("/")[0] for name in tree.names})[:12]
    raise ValueError(
        f"dataset.{key} {given} is not under dataset.root {tree.root}; there: {', '.join(tops)}"
    )
