import os
import zipfile
from pathlib import Path

import pytest

from contramask.data.record import UnreadableImage
from contramask.data.tree import FileTree, given_tree, inside


def _zip(path: Path, *members: str) -> Path:
    """A zip file whose members hold their own names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in members:
            archive.writestr(name, name)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> FileTree:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.TXT").write_text("loose")
    (tmp_path / ".hidden").write_text("no")
    _zip(tmp_path / "b.zip", "train/y.txt", "__MACOSX/y.txt", "train/.y.txt")
    _zip(tmp_path / "c.zip", "c/z.txt")
    _zip(tmp_path / "a" / "deep.zip", "z.txt")
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    return FileTree(tmp_path)


def test_folders_and_zip_files_are_one_tree(tree: FileTree) -> None:
    inner = ["a/deep.zip", "a/x.TXT", "b.zip", "b/train/y.txt", "broken.zip", "c.zip", "c/z.txt"]
    assert tree.names == inner
    assert tree.loose == [name for name in inner if "y.txt" not in name and "z.txt" not in name]
    assert dict(tree.closed) == {"zip file that cannot be opened": 1}
    assert tree.text("b/train/y.txt") == "train/y.txt"
    assert tree.image("a/x.TXT") == tree.root / "a" / "x.TXT"
    assert tree.image("c/z.txt")() == b"c/z.txt"
    assert tree.below("a", ".txt") == ["a/x.TXT"]
    assert tree.below("") == inner
    assert tree.holders("train") == ["b/"]
    assert tree.holders("c") == [""]
    assert "c/z.txt" in tree
    assert "c" not in tree


def test_a_zip_file_as_root(tmp_path: Path) -> None:
    assert FileTree(_zip(tmp_path / "set.zip", "set/x.txt", "set/y.txt")).names == [
        "set/x.txt",
        "set/y.txt",
    ]


def test_damaged_members_say_why(tmp_path: Path) -> None:
    path = _zip(tmp_path / "b.zip", "y.txt")
    path.write_bytes(path.read_bytes().replace(b"y.txty.txt", b"y.txtz.txt"))
    with pytest.raises(UnreadableImage, match=r"cannot be taken out of b\.zip"):
        FileTree(tmp_path).read("b/y.txt")
    with pytest.raises(ValueError, match=r"y\.txt cannot be read as text"):
        FileTree(tmp_path).text("b/y.txt")


def test_names_that_are_no_text_stay_apart(tmp_path: Path) -> None:
    for name in (b"\xff.txt", b"\xfe.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    tree = FileTree(tmp_path)
    assert len(tree.names) == 2
    assert {tree.read(name) for name in tree.names} == {b"\xff.txt", b"\xfe.txt"}


def test_pipes_are_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert FileTree(tmp_path).names == ["gone.png"]


def test_paths_the_user_writes(tree: FileTree, monkeypatch) -> None:
    assert inside(tree, Path("b"), "masks") == "b"
    assert inside(tree, Path("b.zip"), "masks") == "b"
    assert inside(tree, Path("./b/train/"), "masks") == "b/train"
    assert inside(tree, tree.root / "a" / "x.TXT", "masks") == "a/x.TXT"
    monkeypatch.chdir(tree.root.parent)
    assert inside(tree, Path(tree.root.name) / "a", "masks") == "a"
    with pytest.raises(ValueError, match=r"dataset\.masks nowhere is not under .*there: a, b"):
        inside(tree, Path("nowhere"), "masks")


def test_roots(tmp_path: Path, tree: FileTree) -> None:
    with pytest.raises(ValueError, match=r"coco needs dataset\.root, .*; give it"):
        given_tree(None, "coco", "give it")
    with pytest.raises(ValueError, match=r"nowhere does not exist \(seen from .*\); give it"):
        given_tree(tmp_path / "nowhere", "coco", "give it")
    with pytest.raises(ValueError, match=r"is a file and no zip file; give it"):
        given_tree(tmp_path / "a" / "x.TXT", "coco", "give it")
    assert given_tree(tmp_path / "b.zip", "coco", "").names == ["train/y.txt"]
