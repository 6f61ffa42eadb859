"""Downloads from a server on this machine that breaks off, refuses and sends the wrong file."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from contramask.data.download import Archive, DownloadFailed, download, unpack, verify

CONTENT = np.random.default_rng(0).bytes(700_000)


def test_a_file_arrives_whole_and_is_not_asked_for_twice(web, tmp_path: Path) -> None:
    archive = web.archive("a.bin", CONTENT)
    download(archive, tmp_path / "a.bin")
    download(archive, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert web.asked == [("/a.bin", None)]
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_broken_connection_goes_on_where_it_ended(web, tmp_path: Path) -> None:
    archive = web.archive("a.bin", CONTENT)
    web.cuts = [300_000, 200_000]
    download(archive, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in web.asked] == [None, "bytes=300000-", "bytes=500000-"]
    assert web.sent == len(CONTENT)  # no byte twice


def test_a_later_call_goes_on_too(web, tmp_path: Path) -> None:
    archive = web.archive("a.bin", CONTENT)
    web.cuts, web.refusals = [300_000], []
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    download(archive, tmp_path / "a.bin")
    assert web.asked[0] == ("/a.bin", "bytes=1000-")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_that_sends_everything_again_is_understood(web, tmp_path: Path) -> None:
    archive = web.archive("a.bin", CONTENT)
    web.ranges, web.cuts = False, [300_000]
    download(archive, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_file_that_is_there_but_for_its_name_needs_no_byte(web, tmp_path: Path) -> None:
    archive = web.archive("a.bin", CONTENT)
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    download(archive, tmp_path / "a.bin")
    assert web.sent == 0
    assert (tmp_path / "a.bin").is_file()


def test_another_file_is_refused_and_not_kept(web, tmp_path: Path) -> None:
    archive = web.archive("a.bin", CONTENT)
    web.files["a.bin"] = b"<html>please log in</html>"
    with pytest.raises(DownloadFailed, match=r"not the file that was published as a\.bin: md5"):
        download(archive, tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.bin").write_bytes(b"something else")
    with pytest.raises(DownloadFailed, match="delete it and fetch it again"):
        verify(tmp_path / "a.bin", archive)
    assert (tmp_path / "a.bin").is_file()  # what a person put there is left alone


def test_an_overloaded_server_is_asked_again_and_a_missing_file_is_not(web, tmp_path: Path) -> None:
    archive = web.archive("a.bin", CONTENT)
    web.refusals = [503, 429]
    download(archive, tmp_path / "a.bin")
    assert len(web.asked) == 3
    with pytest.raises(DownloadFailed, match="404"):
        download(Archive(f"{web.address}/b.bin", 5, "0"), tmp_path / "b.bin")
    assert len(web.asked) == 4


def test_without_a_network_it_is_said_at_once(web, tmp_path: Path) -> None:
    nowhere = Archive("http://127.0.0.1:9/a.bin", 5, "0")
    with pytest.raises(DownloadFailed, match=r"could not be downloaded .*0\.0 of about 5 MB"):
        download(nowhere, tmp_path / "a.bin")


def test_a_server_that_gives_nothing_is_left_in_the_end(web, tmp_path: Path) -> None:
    archive = web.archive("a.bin", CONTENT)
    web.cuts = [100_000, *[0] * 20]
    with pytest.raises(DownloadFailed, match="ended after 100,000 of 700,000 bytes"):
        download(archive, tmp_path / "a.bin")
    assert (tmp_path / "a.bin.part").stat().st_size == 100_000
    assert len(web.asked) == 5


def _tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2"])
def test_tars_of_any_compression_are_unpacked(tmp_path: Path, mode: str) -> None:
    path = _tar(tmp_path / "a.tar", {"in/x": b"1", "in/deep/y": b"22"}, mode)
    unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / "in" / "deep" / "y").read_bytes() == b"22"


def test_zips_are_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/x", "1")
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out" / "in" / "x").read_text() == "1"


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    climbing = _tar(tmp_path / "a.tgz", {"../evil": b"1"})
    with pytest.raises(DownloadFailed, match="cannot be unpacked"):
        unpack(climbing, tmp_path / "out")
    with tarfile.open(tmp_path / "b.tgz", "w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../etc"
        archive.addfile(link)
    with pytest.raises(DownloadFailed, match="cannot be unpacked"):
        unpack(tmp_path / "b.tgz", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("../evil", "1")
    with pytest.raises(DownloadFailed, match="would lie outside"):
        unpack(tmp_path / "c.zip", tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_a_cut_off_archive_is_named(tmp_path: Path) -> None:
    whole = _tar(tmp_path / "a.tgz", {"x": CONTENT})
    whole.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(DownloadFailed, match=r"a\.tgz cannot be unpacked"):
        unpack(whole, tmp_path / "out")
