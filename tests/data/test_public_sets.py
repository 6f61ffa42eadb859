"""Public sets by name: fetched once, resumed, and told how to do it by hand."""

import io
import logging
import tarfile
from pathlib import Path

import pytest

from contramask.data import public_sets
from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig
from contramask.data.download import Archive, DownloadFailed
from contramask.data.public_sets import PUBLIC_SETS, PublicSet, fetch_set, with_files
from contramask.data.readers import READERS, imagenette


def _tgz(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def tiny_set(web, picture_bytes, monkeypatch: pytest.MonkeyPatch) -> PublicSet:
    """Imagenette in small, in two archives, on this machine's server."""
    halves: list[dict[str, bytes]] = [{}, {}]
    for i, wnid in enumerate(imagenette.NAMES):
        for j in range(3):
            part = "val" if j == 2 else "train"
            halves[j % 2][f"small/{part}/{wnid}/{j}.JPEG"] = picture_bytes(10 * i + j)
    files = tuple(web.archive(f"part{i}.tgz", _tgz(half)) for i, half in enumerate(halves))
    made = PublicSet("a small set", "http://page", "for tests only", files, root="small")
    monkeypatch.setitem(PUBLIC_SETS, "imagenette", made)
    return made


def test_a_name_is_all_it_takes(web, tiny_set, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    config = DatasetConfig(source="imagenette", downloads=tmp_path / "raw", image_size=8)
    built = build_dataset(config, tmp_path / "work")
    assert built.store.manifest["splits"] == {"train": 20, "val": 10}
    assert built.store.manifest["classes"][:2] == ["tench", "English springer"]
    assert "terms: for tests only" in caplog.text
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["imagenette"]
    asked = len(web.asked)
    again = build_dataset(config, tmp_path / "work")
    assert len(web.asked) == asked
    assert again.store.data_hash == built.store.data_hash


def test_what_was_received_is_kept_for_the_next_call(web, tiny_set, tmp_path: Path) -> None:
    web.refusals = [404]
    with pytest.raises(DownloadFailed, match="run the same command again"):
        fetch_set("imagenette", tmp_path)
    first = len(web.files["part0.tgz"])
    web.cuts = [first, 100, *[0] * 10]
    with pytest.raises(DownloadFailed) as caught:
        fetch_set("imagenette", tmp_path)
    told = str(caught.value)
    assert all(file.url in told and file.md5 in told for file in tiny_set.files)
    assert str(tmp_path) in told
    assert "dataset.source=imagenette, dataset.root=<folder>" in told
    assert "for tests only" in told
    web.cuts, web.sent = [], 0
    assert fetch_set("imagenette", tmp_path) == tmp_path / "imagenette" / "small"
    assert web.sent == len(web.files["part1.tgz"]) - 100
    assert [p.name for p in tmp_path.iterdir()] == ["imagenette"]


def test_archives_put_there_by_hand_are_taken_and_left(web, tiny_set, tmp_path: Path) -> None:
    for file in tiny_set.files:
        (tmp_path / file.name).write_bytes(web.files[file.name])
    fetch_set("imagenette", tmp_path)
    assert web.asked == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["imagenette", "part0.tgz", "part1.tgz"]


def test_a_wrong_archive_by_hand_is_named(web, tiny_set, tmp_path: Path) -> None:
    (tmp_path / "part0.tgz").write_bytes(b"something else")
    with pytest.raises(DownloadFailed, match=r"part0\.tgz is not the file that was published"):
        fetch_set("imagenette", tmp_path)
    assert not (tmp_path / "imagenette").exists()


def test_a_full_disk_is_told_before(tiny_set, tmp_path: Path, monkeypatch) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(public_sets.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadFailed, match=r"set dataset\.downloads to another disk"):
        fetch_set("imagenette", tmp_path)


def test_a_given_root_or_another_source_downloads_nothing(tmp_path: Path) -> None:
    for config in (DatasetConfig(source="voc", root=tmp_path), DatasetConfig(source="coco")):
        assert with_files(config) is config


def test_every_set_has_a_reader_a_checksum_and_terms() -> None:
    assert set(PUBLIC_SETS) <= set(READERS)
    for known in PUBLIC_SETS.values():
        assert known.terms
        for file in known.files:
            assert isinstance(file, Archive)
            assert len(file.md5) == 32
            assert int(file.md5, 16)
            assert file.url.startswith("http")


def test_addresses_and_checksums_are_those_torchvision_downloads_by() -> None:
    from torchvision import datasets as theirs

    ours = {name: [(f.url, f.md5) for f in known.files] for name, known in PUBLIC_SETS.items()}
    assert ours["oxford_pets"] == list(theirs.OxfordIIITPet._RESOURCES)
    assert ours["imagenette"] == [theirs.Imagenette._ARCHIVES["320px"]]
    voc = theirs.voc.DATASET_YEAR_DICT["2012"]
    assert ours["voc"] == [(voc["url"], voc["md5"])]
