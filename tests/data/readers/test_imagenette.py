from pathlib import Path

from contramask.data.config import DatasetConfig
from contramask.data.readers import imagenette
from contramask.data.tree import FileTree


def test_classes_have_their_names(draw) -> None:
    names = [f"{part}/{w}/{part}{w}.JPEG" for part in ("train", "val") for w in imagenette.NAMES]
    root: Path = draw(*names)
    source = imagenette.read(DatasetConfig(source="imagenette", root=root))
    assert source.classes == list(imagenette.NAMES.values())
    assert (source.splits.count("train"), source.splits.count("val")) == (10, 10)
    assert source.records[0].label == 0
    assert imagenette.recognise(FileTree(root)).source == "imagenette"


def test_other_classes_are_no_imagenette(draw) -> None:
    assert imagenette.recognise(FileTree(draw("train/cat/a.jpg", "train/dog/b.jpg"))) is None
