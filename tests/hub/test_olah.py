"""A foreign server: olah, a mirror that others wrote, in front of the loopback hub.

It lists files without sizes and tells no scan status, so that the tree has to be asked as well.
It brings many libraries along, so it may live in an environment of its own: OLAH names its command
then.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.hub_server import Hub
from tests.hub_server_adapter import adapter

FILES = adapter(layers=2)
OLAH = os.environ.get("OLAH") or shutil.which("olah-cli")
pytestmark = pytest.mark.skipif(
    not OLAH, reason="olah is not installed: pip install olah, or OLAH=/path/to/olah-cli"
)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add("user/lora", FILES)
        hub.add("user/private", FILES, private=True)
        yield hub


@contextmanager
def olah(folder: Path, basic: Mapping[str, object], more: str = "") -> Iterator[str]:
    """Start the mirror with some settings, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = f"127.0.0.1:{port}"
    settings = {"host": "127.0.0.1", "port": port, "mirror-netloc": here,
                "mirror-lfs-netloc": here, "repos-path": f"{folder}/repos", **basic}  # fmt: skip
    lines = ["[basic]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items()), more]
    (folder / "olah.toml").write_text("\n".join(lines))
    command = [str(OLAH), "--config", str(folder / "olah.toml"), "--log-path", str(folder)]
    with (folder / "said").open("wb") as said:
        running = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
    try:
        _wait(f"http://{here}/api/models/user/lora/revision/main", running, folder / "said")
        yield f"http://{here}"
    finally:
        running.terminate()
        running.wait()


@pytest.fixture(scope="module")
def mirror(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    there = hub.endpoint.removeprefix("http://")
    far = {"hf-scheme": "http", "hf-netloc": there, "hf-lfs-netloc": there}
    with olah(tmp_path_factory.mktemp("olah"), far) as address:
        yield address


def _wait(url: str, running: subprocess.Popen[bytes], said: Path) -> None:
    for _ in range(300):
        assert running.poll() is None, said.read_text()
        try:
            urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(said.read_text())


def test_the_mirror_is_not_the_hub(mirror: str) -> None:
    with urlopen(f"{mirror}/api/models/user/lora/revision/main?blobs=true") as answer:
        told = json.load(answer)
    assert "size" not in told["siblings"][0], "it tells sizes now: drop the fallback's excuse"


def test_inspect_and_validate_say_what_they_say_of_the_hub(
    hub: Hub, mirror: str, tmp_path: Path
) -> None:
    for command in (("inspect", "--json"), ("validate", "--format", "json")):
        done = hub.run(tmp_path, *command, "user/lora", HF_ENDPOINT=mirror)
        direct = hub.run(tmp_path / "direct", *command, "user/lora")
        assert done.returncode == direct.returncode, done.stderr
        told, wanted = json.loads(done.stdout), json.loads(direct.stdout)
        if command[0] == "inspect":
            assert set(wanted["remote"].pop("scan").values()) == {"safe"}
            assert told["remote"].pop("scan") == {}
        else:
            told, wanted = told["adapters"][0]["findings"], wanted["adapters"][0]["findings"]
        assert told == wanted


def test_download_and_verify(hub: Hub, mirror: str, tmp_path: Path) -> None:
    done = hub.run(tmp_path, "download", "user/lora", "--local-dir", "here", HF_ENDPOINT=mirror)
    assert done.returncode == 0, done.stderr
    for name in FILES:
        assert (tmp_path / "here" / name).read_bytes() == FILES[name], name
    assert hub.run(tmp_path, "verify", "here").returncode == 0
    done = hub.run(tmp_path, "download", "user/lora", "-q", HF_ENDPOINT=mirror)
    assert (Path(done.stdout.strip()) / "adapter_config.json").is_file()


def test_what_is_not_there(hub: Hub, mirror: str, tmp_path: Path) -> None:
    done = hub.run(tmp_path, "inspect", "user/nothing", HF_ENDPOINT=mirror)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "user/nothing" in done.stderr


def test_nothing_can_be_uploaded_and_nothing_is_lost(hub: Hub, mirror: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, data in FILES.items():
        (tmp_path / "a" / name).write_bytes(data)
    before = hub.repo("user/lora").head.id
    done = hub.run(tmp_path, "upload", "user/lora", "a", HF_ENDPOINT=mirror)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: user/lora")
    assert hub.repo("user/lora").head.id == before


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_git_repository_of_this_machine(hub: Hub, tmp_path: Path) -> None:
    """Real git says the commit and the blobs here, and nobody's hub."""
    folder = tmp_path / "shelf" / "models" / "user" / "lora"
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    git = ("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(folder))
    for step in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *step], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    local = {"mirrors-path": [str(tmp_path / "shelf")]}
    with olah(tmp_path, local, "[accessibility]\noffline = true\n") as address:
        # Without a revision, olah says that there is no such repository.
        to = ("download", "user/lora@main", "--local-dir", "here", "--json")
        done = hub.run(tmp_path, *to, HF_ENDPOINT=address, token=None)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["facts"]["commit"] == head.stdout.strip()
    for name in FILES:
        assert (tmp_path / "here" / name).read_bytes() == FILES[name], name
