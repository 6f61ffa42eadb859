"""A web server on this machine, with what real ones do to long downloads."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contramask.data import build, journal
from contramask.data.config import DatasetConfig
from contramask.data.download import Archive


@dataclass
class Web:
    """Files by name; `cut` ends the next answers after so many bytes, `ranges` allows resuming."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)  # status codes of the next answers
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0

    def archive(self, name: str, content: bytes) -> Archive:
        """Publish a file."""
        self.files[name] = content
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return Archive(f"{self.address}/{name}", 1, md5)


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            web.asked.append((self.path, wanted))
            if web.refusals:
                self.send_error(web.refusals.pop(0))
                return
            content = web.files.get(self.path[1:])
            if content is None:
                self.send_error(404)
                return
            start = int(wanted[6:-1]) if wanted and web.ranges else 0
            if start >= len(content):
                self.send_error(416)
                return
            body = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            part = body[: web.cuts.pop(0)] if web.cuts else body
            self.wfile.write(part)
            web.sent += len(part)

        def log_message(self, *_: object) -> None:
            return

    return Handler


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server on 127.0.0.1; no proxy stands between, and nobody waits between attempts."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("contramask.data.download._PAUSES", (0.0,) * 4)
    web = Web()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(web))
    web.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield web
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def picture_bytes() -> Callable[[int], bytes]:
    """A function that encodes a small noise picture of a seed."""

    def encode(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG")
        return stream.getvalue()

    return encode


class Killed(BaseException):
    """Ends a build as abruptly as a signal does: nothing in the library catches it."""


@pytest.fixture
def kill_at() -> Callable[[DatasetConfig, Path, int], None]:
    """Start a build that writes a piece an image, in a folder, and end it at its n-th image."""

    def build_and_end(config: DatasetConfig, work: Path, image: int) -> None:
        real, seen = build.prepare, list[int]()

        def prepare(*given: Any) -> Any:
            seen.append(1)
            if len(seen) == image:
                raise Killed
            return real(*given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "prepare", prepare)
            patch.setattr(journal, "PIECE_SECONDS", 0)
            patch.setattr(journal.os, "fsync", lambda _: None)
            with pytest.raises(Killed):
                build.build_dataset(config, work)

    return build_and_end
