"""Adapters in S3, as moto speaks it; what was written is read back by boto3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import adaptertools as at
from adaptertools.errors import HubError, NotFound, UnknownFormat
from adaptertools.hub import stores
from tests.hub_server import ROOT
from tests.hub_server_adapter import adapter

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'adaptertools[s3]'")
moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")

FILES = adapter(layers=2)
KEYS = {"AWS_ACCESS_KEY_ID": "opensesame", "AWS_SECRET_ACCESS_KEY": "dontlook",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(scope="module")
def boto(server: str) -> Any:
    import boto3

    made = boto3.client(
        "s3", endpoint_url=server, aws_access_key_id="x", aws_secret_access_key="y",
        region_name="us-east-1",
    )  # fmt: skip
    made.create_bucket(Bucket="shelf")
    for name, data in FILES.items():
        made.put_object(Bucket="shelf", Key=f"deep/one/{name}", Body=data)
    return made


def fetched(boto: Any, key: str) -> bytes:
    data: bytes = boto.get_object(Bucket="shelf", Key=key)["Body"].read()
    return data


def run(
    server: str, folder: Path, *command: str, env: Mapping[str, str] = KEYS
) -> subprocess.CompletedProcess[str]:
    """Run `adaptertools COMMAND` with S3 at the server, far from anybody's own settings."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "HF_"))}
    there = {"AWS_ENDPOINT_URL": server, "HOME": str(folder), "HF_HOME": str(folder / "hf"),
             "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "adaptertools", *command], capture_output=True, text=True,
        env=keep | there | dict(env), cwd=folder, timeout=100,
    )  # fmt: skip


def test_inspect_reads_headers_only(server: str, boto: Any, tmp_path: Path) -> None:
    done = run(server, tmp_path, "inspect", "s3://shelf/deep/one", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    config = json.loads(FILES["adapter_config.json"])
    assert (found["method"], found["base"]) == ("LORA", config["base_model_name_or_path"])
    assert found["weights"]["tensors"] == 8


def test_there_and_back(
    server: str, boto: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    done = run(server, tmp_path, "download", "s3://shelf/deep/one", "--local-dir", "here")
    assert done.returncode == 0, done.stderr
    for name in FILES:
        assert (tmp_path / "here" / name).read_bytes() == FILES[name]
    assert run(server, tmp_path, "verify", "here").returncode == 0

    done = run(server, tmp_path, "upload", "s3://shelf/two", "here")
    assert done.returncode == 0, done.stderr
    rows = boto.list_objects_v2(Bucket="shelf", Prefix="two/")["Contents"]
    there = {row["Key"].removeprefix("two/"): fetched(boto, row["Key"]) for row in rows}
    name = "adapter_model.safetensors"
    assert there[name] == FILES[name]
    receipt = json.loads(there.pop(stores.RECEIPT))
    assert {row["name"]: row["size"] for row in receipt["files"]} == {
        name: len(data) for name, data in there.items()
    }
    asked = [record.getMessage() for record in caplog.records if '"PUT /' in record.getMessage()]
    assert [line.split()[6] for line in asked[-2:]] == [
        "/shelf/two/adapter_config.json", f"/shelf/two/{stores.RECEIPT}"
    ]  # fmt: skip

    assert run(server, tmp_path, "download", "s3://shelf/two", "--local-dir", "b").returncode == 0
    assert (tmp_path / "b" / name).read_bytes() == FILES[name]


def test_a_damaged_object_is_noticed(server: str, boto: Any, tmp_path: Path) -> None:
    name = "adapter_model.safetensors"
    (tmp_path / "a").mkdir()
    for each, data in FILES.items():
        (tmp_path / "a" / each).write_bytes(data)
    assert run(server, tmp_path, "upload", "s3://shelf/three", "a").returncode == 0
    flipped = FILES[name][:-1] + bytes([FILES[name][-1] ^ 1])
    boto.put_object(Bucket="shelf", Key=f"three/{name}", Body=flipped)
    done = run(server, tmp_path, "download", "s3://shelf/three", "--local-dir", "out")
    assert done.returncode == 1
    assert "is damaged, or was changed after adaptertools.upload.json was written" in done.stderr
    assert not (tmp_path / "out").exists()


WRONG = {
    "s3://shelf/nothing": "there is no such folder",
    "s3://no-such-bucket/x": "(or bucket)",
    "s3://shelf/deep/one/adapter_config.json": "is a file",
    "s3://shelf/deep": "deep/one",
}


@pytest.fixture
def settings(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let S3 be the server in this process; every test its own client."""
    import s3fs

    for key in [key for key in os.environ if key.startswith("AWS_")]:
        monkeypatch.delenv(key)
    for key, value in {**KEYS, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("url", WRONG)
def test_wrong_addresses(url: str, settings: pytest.MonkeyPatch, boto: Any) -> None:
    with pytest.raises((NotFound, UnknownFormat)) as caught:
        at.inspect(url)
    assert WRONG[url] in str(caught.value)


def test_no_credentials(settings: pytest.MonkeyPatch, boto: Any, tmp_path: Path) -> None:
    for key in KEYS:
        if "KEY" in key:
            settings.delenv(key)
    settings.setenv("HOME", str(tmp_path))
    with pytest.raises(HubError, match="Set AWS_PROFILE, or AWS_ACCESS_KEY_ID"):
        at.inspect("s3://shelf/deep/one")


def test_no_server(settings: pytest.MonkeyPatch, boto: Any) -> None:
    settings.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    settings.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(HubError, match=r"the store failed .*Could not connect") as caught:
        at.inspect("s3://shelf/deep/one")
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
