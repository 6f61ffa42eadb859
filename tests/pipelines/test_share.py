"""`dvc push` here, `dvc pull` in a fresh copy: report and encoder arrive untrained."""

import hashlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

SHARED = ["data/08_reporting/report.html", "data/06_models/mae-s0", "data/03_primary/store"]

HOW = "uv run --group s3test pytest tests/pipelines/test_share.py"


def shared(project: Path, remote: str, copy: Path, **settings: str) -> None:
    """Push to `remote`, clone without data, pull, and compare."""
    with Repo() as repo:
        with repo.config.edit() as conf:
            conf["remote"]["shelf"] = {"url": remote, **settings}
            conf["core"]["remote"] = "shelf"
        assert repo.push() > len(SHARED)
    ignored = shutil.ignore_patterns("data", "cache", "tmp")  # what git does not carry
    shutil.copytree(project, copy, ignore=ignored)
    assert not (copy / "data").exists()
    with Repo(str(copy)) as repo:
        repo.pull()
    for name in SHARED:
        assert (copy / name).stat().st_size > 0
        assert digest(copy / name) == digest(project / name)


def digest(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_results_travel_through_a_folder(stubbed_project: Any, tmp_path: Path) -> None:
    shared(stubbed_project.path, str(tmp_path / "shelf"), tmp_path / "clone")
    assert len(list((tmp_path / "shelf" / "files" / "md5").glob("*/*"))) > len(SHARED)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server on this machine, with an empty bucket `shelf`."""
    for package, extra in (("moto", "moto[server]"), ("dvc_s3", "dvc[s3]")):
        if find_spec(package) is None:
            pytest.skip(f"{extra} is not installed: {HOW}")
    import boto3

    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        address = f"http://127.0.0.1:{port}"
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="shelf")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"no server on port {port}")


def test_results_travel_through_s3(stubbed_project: Any, tmp_path: Path, s3: str) -> None:
    shared(stubbed_project.path, "s3://shelf/contramask", tmp_path / "clone", endpointurl=s3)
