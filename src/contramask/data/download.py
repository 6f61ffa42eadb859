"""Files from the network: resumed where they broke off, checked, and unpacked safely."""

import hashlib
import http.client
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from contramask.progress import byte_bar

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte
_PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
_RETRIED = (408, 429, 500, 502, 503, 504)


class DownloadFailed(ValueError):
    """A file could not be had whole; the text says which, why, and what is kept."""


@dataclass(frozen=True)
class Archive:
    """A file to download: address, size to announce, and the checksum published for it."""

    url: str
    megabytes: int
    md5: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.url).name


def download(archive: Archive, target: Path) -> None:
    """Leave the whole, checked file at `target`; bytes of an earlier attempt are not asked again.

    A broken connection is taken up a few times. Raises `DownloadFailed`; what came is kept at
    `target` + `.part` unless its checksum was wrong.
    """
    if target.is_file():
        verify(target, archive)
        return
    part = target.with_name(f"{target.name}.part")
    attempts, most = 0, -1
    while True:
        try:
            _receive(archive, part)
            break
        except (OSError, http.client.HTTPException) as error:
            received = part.stat().st_size if part.exists() else 0
            attempts = 1 if received > most else attempts + 1  # progress earns new attempts
            most = max(most, received)
            if attempts > len(_PAUSES) or not _may_pass(error):
                raise DownloadFailed(
                    f"{archive.url} could not be downloaded ({error}); {received / 1e6:,.1f} of"
                    f" about {archive.megabytes:,} MB are there"
                ) from error
            time.sleep(_PAUSES[attempts - 1])
    verify(part, archive)
    part.rename(target)


def verify(path: Path, archive: Archive) -> None:
    """Raise `DownloadFailed` unless the file has the published checksum; a `.part` is removed."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found == archive.md5:
        return
    advice = "delete it and fetch it again"
    if path.suffix == ".part":
        path.unlink()
        advice = "it was deleted; a proxy or a login page may have answered in the server's place"
    raise DownloadFailed(
        f"{path} is not the file that was published as {archive.name}: md5 {found}, expected"
        f" {archive.md5}; {advice}"
    )


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tar (of any compression) or zip file into `folder`.

    Raises `DownloadFailed` for damaged files and for members that would land elsewhere; links out
    of the folder, devices and the like are refused, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(path):
            _unzip(path, folder)
        else:
            _untar(path, folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise DownloadFailed(f"{path} cannot be unpacked: {error}") from error


def _receive(archive: Archive, part: Path) -> None:
    """Append what is missing to `part`; returns when the server says that this was all."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"User-Agent": "contramask"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing lies behind what we have: the checksum decides
            return
        raise
    with answer:
        if answer.status != 206:
            have = 0  # the server sends all of it, whatever was asked
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as stream, _bar(archive.name, have, total) as bar:
            while chunk := answer.read(_CHUNK):
                stream.write(chunk)
                bar(len(chunk))
            received = stream.tell()
    # Python ends quietly when a connection does.
    if total is not None and received < total:
        raise ConnectionError(f"the connection ended after {received:,} of {total:,} bytes")


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may help."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _RETRIED
    if isinstance(error, urllib.error.URLError):  # no such host, no route, refused
        return isinstance(error.reason, TimeoutError | ConnectionResetError)
    return isinstance(error, ConnectionError | TimeoutError | http.client.HTTPException)


@contextmanager
def _bar(name: str, done: int, total: int | None) -> Iterator[Any]:
    with byte_bar() as bar:
        task = bar.add_task(name, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


def _untar(path: Path, folder: Path) -> None:
    with path.open("rb") as raw, _bar(f"unpacking {path.name}", 0, path.stat().st_size) as bar:
        seen = 0
        with _opened_tar(raw) as archive:
            for member in archive:
                archive.extract(member, folder, filter="data")
                bar(raw.tell() - seen)
                seen = raw.tell()


def _opened_tar(raw: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=raw, mode="r:*")


def _unzip(path: Path, folder: Path) -> None:
    inside = folder.resolve()
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        size = sum(member.compress_size for member in members)
        with _bar(f"unpacking {path.name}", 0, size) as bar:
            for member in members:
                landing = (inside / member.filename.replace("\\", "/")).resolve()
                if not landing.is_relative_to(inside):
                    raise DownloadFailed(
                        f"{path} cannot be unpacked: its member {member.filename!r} would lie"
                        " outside the folder"
                    )
                archive.extract(member, folder)
                bar(member.compress_size)
