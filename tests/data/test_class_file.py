from pathlib import Path

import pytest

from contramask.data.class_file import find_class_file, read_class_file
from contramask.data.tree import FileTree

BY_VALUE = ([(0, "sky"), (7, "traffic light")], False)
BY_COLOUR = ([(128 * 65_793, "sky"), (64 * 256, "traffic light")], True)
IN_ORDER = ([(0, "sky"), (1, "traffic light")], False)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.json", '{"0": "sky", "7": "traffic light"}', BY_VALUE),
        ("a.json", '{"sky": 0, "traffic light": 7}', BY_VALUE),
        ("a.json", '["sky", "traffic light"]', IN_ORDER),
        ("a.json", '{"sky": [128, 128, 128], "traffic light": [0, 64, 0]}', BY_COLOUR),
        ("a.json", '[{"id": 0, "name": "sky"}, {"id": 7, "name": "traffic light"}]', BY_VALUE),
        ("a.json", '{"categories": [{"id": 0, "name": "sky", "color": [1, 2, 3]}]}', None),
        (
            "a.json",
            '[{"name": "sky", "color": [128, 128, 128]},'
            ' {"name": "traffic light", "color": [0, 64, 0]}]',
            BY_COLOUR,
        ),
        ("a.csv", "name,r,g,b\nsky,128,128,128\ntraffic light, 0, 64, 0\n", BY_COLOUR),
        ("a.csv", "id,name\n0,sky\n7,traffic light\n", BY_VALUE),
        ("a.csv", "class,other\nsky,x\ntraffic light,y\n", IN_ORDER),
        ("a.txt", "# colours\n128 128 128\tsky\n0 64 0\t\ttraffic light\n\n", BY_COLOUR),
        ("a.txt", "sky 128 128 128\ntraffic light 0 64 0", BY_COLOUR),
        ("a.txt", "0: sky\n7: traffic light", BY_VALUE),
        ("a.txt", "\ufeffsky\r\ntraffic light\r\n", IN_ORDER),
    ],
)
def test_every_form(tmp_path: Path, name: str, text: str, found) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    expected = found or ([(0, "sky")], False)
    assert read_class_file(FileTree(tmp_path), name) == expected


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "[1]", "is no list of classes"),
        ("a.json", "{", "is no list of classes"),
        ("a.json", '{"sky": [300, 0, 0]}', r"\[300, 0, 0\] is no colour"),
        ("a.csv", "name,id\nsky,x\n", "is no list of classes"),
        ("a.txt", "", "names no class"),
    ],
)
def test_other_forms_are_explained(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_class_file(FileTree(tmp_path), name)


def test_the_usual_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "class_dict.csv").write_text("x")
    (tmp_path / "README.txt").write_text("x")
    assert find_class_file(FileTree(tmp_path), None) == "class_dict.csv"
    (tmp_path / "labels.txt").write_text("x")
    assert find_class_file(FileTree(tmp_path), None) is None
    assert find_class_file(FileTree(tmp_path), Path("labels.txt")) == "labels.txt"
    (tmp_path / "semantic_classes.json").write_text("x")
    assert find_class_file(FileTree(tmp_path), None) == "semantic_classes.json"
