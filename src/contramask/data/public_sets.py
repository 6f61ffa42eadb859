"""Public sets that a user may name: where they come from, what they are, on which terms.

Checksums are the publishers' (CIFAR, Tiny-ImageNet) or those torchvision downloads by.
"""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from contramask.data.config import DatasetConfig
from contramask.data.download import Archive, DownloadFailed, download, unpack, verify

_log = logging.getLogger(__name__)
_IMAGENET = "images of ImageNet: for non-commercial research and education only"
_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"


@dataclass(frozen=True)
class PublicSet:
    """A set to download: its files, the folder inside them that is `dataset.root`, its terms."""

    title: str
    page: str
    terms: str
    files: tuple[Archive, ...]
    root: str = ""

    @property
    def megabytes(self) -> int:
        """What has to be downloaded."""
        return sum(file.megabytes for file in self.files)


#: By the name `dataset.source` knows them by.
PUBLIC_SETS: dict[str, PublicSet] = {
    "imagenette": PublicSet(
        "Imagenette, 13,394 photographs of 10 classes, short side 320 px",
        "https://github.com/fastai/imagenette",
        _IMAGENET,
        (
            Archive(
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",
                *(342, "3df6f0d01a2c9592104656642f5e78a3"),
            ),
        ),
        root="imagenette2-320",
    ),
    "tiny_imagenet": PublicSet(
        "Tiny-ImageNet-200, 110,000 labelled images of 64 px with a box each",
        "http://cs231n.stanford.edu/",
        _IMAGENET,
        (
            Archive(
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                *(248, "90528d7ca1a48142e341f4ef8d21d0de"),
            ),
        ),
        root="tiny-imagenet-200",
    ),
    "cifar10": PublicSet(
        "CIFAR-10, 60,000 images of 32 px in 10 classes",
        f"{_TORONTO}cifar.html",
        "no licence is stated; its authors ask to cite their report of 2009",
        (Archive(f"{_TORONTO}cifar-10-binary.tar.gz", 170, "c32a1d4ab5d03f1284b67883e8d87530"),),
        root="cifar-10-batches-bin",
    ),
    "cifar100": PublicSet(
        "CIFAR-100, 60,000 images of 32 px in 100 classes",
        f"{_TORONTO}cifar.html",
        "no licence is stated; its authors ask to cite their report of 2009",
        (Archive(f"{_TORONTO}cifar-100-binary.tar.gz", 169, "03b5dce01913d631647c71ecec9e9cb8"),),
        root="cifar-100-binary",
    ),
    "oxford_pets": PublicSet(
        "Oxford-IIIT Pet, 7,349 photographs of 37 breeds with masks",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        "CC BY-SA 4.0; the photographs' copyright stays with their owners",
        (
            Archive(f"{_OXFORD}images.tar.gz", 792, "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            Archive(f"{_OXFORD}annotations.tar.gz", 19, "95a8c909bbe2e81eed6a22bccdf3f68f"),
        ),
    ),
    "voc": PublicSet(
        "Pascal VOC 2012, 17,125 photographs with boxes, 2,913 of them with masks",
        "https://www.robots.ox.ac.uk/~vgg/projects/pascal/VOC/voc2012/",
        "photographs from Flickr: under Flickr's terms of use",
        (
            Archive(
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                *(2000, "6cd6e144f989b92b3379bac3b3de84fd"),
            ),
        ),
    ),
}


def with_files(config: DatasetConfig) -> DatasetConfig:
    """The config with `root` filled in where a public set was named without one.

    Downloads the set below `config.downloads` unless it is there. Raises `DownloadFailed`.
    """
    if config.root is not None or config.source not in PUBLIC_SETS:
        return config
    if not (config.downloads.expanduser() / config.source).is_dir():
        for line in announcement(config.source).splitlines():
            _log.info(line)
    return replace(config, root=fetch_set(config.source, config.downloads))


def fetch_set(name: str, downloads: Path) -> Path:
    """The folder of a public set, downloaded, checked and unpacked on the first call.

    What a call that was stopped had received stays in `downloads/.<name>` for the next one. An
    archive that lies in `downloads` already is taken in place of a download. Raises
    `DownloadFailed` with what to do by hand.
    """
    wanted = PUBLIC_SETS[name]
    downloads = downloads.expanduser().resolve()
    folder = downloads / name
    if not folder.is_dir():
        _check_room(wanted, downloads)
        scratch = downloads / f".{name}"
        try:
            _assemble(wanted, downloads, scratch)
        except OSError as error:
            raise DownloadFailed(f"{error}\n{_by_hand(name, downloads)}") from error
        except DownloadFailed as error:
            raise DownloadFailed(f"{error}\n{_by_hand(name, downloads)}") from error
        (scratch / "unpacked").rename(folder)  # at once: a folder of this name is complete
        shutil.rmtree(scratch)
    inner = folder / wanted.root
    return inner if inner.is_dir() else folder


def _assemble(wanted: PublicSet, downloads: Path, scratch: Path) -> None:
    """Leave the whole set in `scratch/unpacked`."""
    scratch.mkdir(parents=True, exist_ok=True)
    open_archives: list[Callable[[], None]] = []
    unpacked = scratch / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    for archive in wanted.files:
        path = downloads / archive.name
        if path.is_file():
            verify(path, archive)
        else:
            path = scratch / archive.name
            download(archive, path)
        open_archives.append(partial(unpack, path, unpacked))
    for open_archive in open_archives:  # only when all files are there
        open_archive()


def announcement(name: str) -> str:
    """What a set is, how large and on which terms: to be shown before it is downloaded."""
    wanted = PUBLIC_SETS[name]
    return (
        f"{wanted.title}: {wanted.megabytes:,} MB, see {wanted.page}\n"
        f"terms: {wanted.terms}; by using it you accept them"
    )


def _check_room(wanted: PublicSet, downloads: Path) -> None:
    # The archives and, unpacked, about as much again.
    needed = 2.2e6 * wanted.megabytes
    downloads.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(downloads).free
    if free < needed:
        raise DownloadFailed(
            f"downloading and unpacking needs {needed / 1e9:.1f} GB under {downloads} and"
            f" {free / 1e9:.1f} GB are free; free some, or set dataset.downloads to another disk"
        )


def _by_hand(name: str, downloads: Path) -> str:
    wanted = PUBLIC_SETS[name]
    listed = "\n".join(f"  - {file.url} (md5 {file.md5})" for file in wanted.files)
    return (
        f"What has been received is kept: run the same command again to go on. Without a network,"
        f" fetch on another machine\n{listed}\nand put it into {downloads} as it is, or unpack it"
        f" anywhere and give that folder: dataset.source={name}, dataset.root=<folder>. Its terms:"
        f" {wanted.terms} ({wanted.page})"
    )
