"""A hub that advertises xet, and nobody who answers for it: everything goes the old way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub_server import TOKEN, Hub
from tests.hub_server_adapter import adapter

FILES = adapter(layers=1, width=64)
IMPATIENT = {
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1",
    "HF_XET_CLIENT_RETRY_MAX_DURATION": "1s",
    "HF_XET_CLIENT_CONNECT_TIMEOUT": "1s",
}


def local(folder: Path) -> Path:
    place = folder / "mine"
    place.mkdir(parents=True)
    for name, data in adapter(layers=1, width=256, seed="new").items():
        place.joinpath(name).write_bytes(data)
    return place


@pytest.mark.parametrize("wish", ["", "0"], ids=["by default", "asked for"])
def test_download(tmp_path: Path, wish: str) -> None:
    pytest.importorskip("hf_xet")
    with Hub() as hub:
        hub.xet = True
        hub.add("user/repo", FILES)
        here = tmp_path / "here"
        done = hub.run(
            tmp_path, "download", "user/repo", "-q", "--local-dir", str(here),
            HF_HUB_DISABLE_XET=wish, **IMPATIENT,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert {name: here.joinpath(name).read_bytes() for name in FILES} == FILES
    assert any("xet" in one.path for one in hub.requests) is bool(wish)


@pytest.mark.parametrize("wish", ["", "0"], ids=["by default", "asked for"])
def test_upload(tmp_path: Path, wish: str) -> None:
    pytest.importorskip("hf_xet")
    with Hub() as hub:
        hub.xet = True
        repo = hub.add("user/repo", FILES)
        done = hub.run(
            tmp_path, "upload", "user/repo", str(local(tmp_path)), "-q",
            HF_HUB_DISABLE_XET=wish, **IMPATIENT,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    weights = (tmp_path / "mine" / "adapter_model.safetensors").read_bytes()
    assert repo.data("adapter_model.safetensors") == weights
    assert any("xet" in one.path for one in hub.requests) is bool(wish)
    secrets = [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert not secrets
