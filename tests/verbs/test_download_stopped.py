"""A download that is stopped or has no room: no partial file has its name, and again it goes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.test_fetch import FILES, lying
from tests.hub_server import Hub
from tests.verbs.test_download import COPY, kept


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def hub(served: Hub) -> Hub:
    served.heal()
    served.add("user/repo", FILES)
    served.requests.clear()
    return served


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_stopped_in_the_middle(number: int, hub: Hub, tmp_path: Path) -> None:
    hub.fault("stall", "adapter_model.safetensors", method="GET", after=5000, seconds=3)
    again = ["download", "user/repo", "--local-dir", "copy"]
    # Whoever runs the tests in the background made them deaf to it, and their children with them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = hub.start(tmp_path, "-m", "adaptertools", *again)
    while not any(one.method == "GET" and one.origin == "cdn" for one in hub.requests):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert "Traceback" not in said
    named = {n for n in lying(tmp_path / "copy") if "partial" not in n} if number == 9 else set()
    assert named == set()
    assert (tmp_path / "copy").exists() is (number == signal.SIGKILL)
    hub.heal()
    assert hub.run(tmp_path, *again).returncode == 0
    assert kept(tmp_path / "copy") == COPY


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir(mode=0o500)
    done = hub.run(tmp_path, "download", "user/repo", "--local-dir", "copy")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk(hub: Hub, tmp_path: Path) -> None:
    # A limit on the size of files takes the path that a full disk takes.
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
        "from adaptertools.cli import main; sys.argv[1:1] = ['download', 'user/repo']; main()"
    )
    for more in ((), ("--local-dir", "copy")):
        done = hub.call(tmp_path, code, *more)
        assert done.returncode == 1
        assert "no space left" in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "copy").exists()
    assert all(data in FILES.values() for data in lying(tmp_path / "hf" / "hub").values() if
               len(data) > 1000)  # fmt: skip


def test_a_place_that_cannot_be(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = hub.run(tmp_path, "download", "user/repo", "--local-dir", "file/copy")
    assert done.returncode == 1
    assert "file/copy" in done.stderr
    assert "Not a directory" in done.stderr
    assert done.stderr.count("\n") == 1
