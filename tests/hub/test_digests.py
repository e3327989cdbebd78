"""What a file hashes to, against git, coreutils and huggingface_hub."""

from __future__ import annotations

import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from adaptertools.hub import digests
from adaptertools.hub.repo import RemoteFile

CONTENTS = [b"", b"a", b"# card\n", b"\0" * 5000, bytes(range(256)) * 9000]
# The example of the LFS specification.
OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 12345\n".encode()


def told_by(*command: str, data: bytes | None = None) -> str:
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]} here")
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    return done.stdout.decode().split()[0]


@pytest.fixture(params=CONTENTS, ids=lambda data: f"{len(data)}B")
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(request.param)
    return path


def test_git_says_the_same(file: Path) -> None:
    assert digests.git_sha1(file) == told_by("git", "hash-object", "--no-filters", str(file))


def test_coreutils_say_the_same(file: Path) -> None:
    assert digests.sha256(file) == told_by("sha256sum", str(file))


def test_huggingface_hub_says_the_same(file: Path) -> None:
    data = file.read_bytes()
    assert digests.git_sha1(file) == git_hash(data)
    assert digests.sha256(file) == sha_fileobj(BytesIO(data)).hex()


def test_pointers() -> None:
    assert digests.pointer_sha1(OID, 12345) == git_hash(POINTER)
    assert digests.pointer_sha1(OID, 12345) == told_by(
        "git", "hash-object", "--stdin", data=POINTER
    )


def remote(path: Path, kind: str) -> RemoteFile:
    """Say of a file what a listing says of it, in each way that there is."""
    data = path.read_bytes()
    sha256 = sha_fileobj(BytesIO(data)).hex()
    pointer = POINTER.replace(OID.encode(), sha256.encode()).replace(b"12345", b"%d" % len(data))
    return {
        "large": RemoteFile(name="f", size=len(data), sha256=sha256, blob=git_hash(pointer)),
        "small": RemoteFile(name="f", size=len(data), blob=git_hash(data)),
        "pointer": RemoteFile(name="f", size=len(data), blob=git_hash(pointer)),
        "no size": RemoteFile(name="f", blob=git_hash(data)),
    }[kind]


@pytest.mark.parametrize("kind", ["large", "small", "pointer", "no size"])
def test_every_changed_bit_is_seen(file: Path, kind: str) -> None:
    told = remote(file, kind)
    assert digests.check(file, told) == ""
    assert digests.measure(file, told)[0] == digests.sha256(file)
    data = bytearray(file.read_bytes())
    for at in {0, len(data) // 2, len(data) - 1} if data else set():
        data[at] ^= 1
        file.write_bytes(data)
        assert "was expected" in digests.check(file, told)
        data[at] ^= 1
    file.write_bytes(data + b"x")
    assert digests.check(file, told)


def test_the_pointer_itself_is_not_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(POINTER)
    told = RemoteFile(name="f", size=12345, blob=git_hash(POINTER))
    assert digests.check(path, told) == f"it has {len(POINTER)} bytes, 12345 were expected"


def test_what_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert digests.check(path) == "it is not there"
    path.write_bytes(b"x")
    assert digests.expected(path) == ("", "")
    assert digests.check(path) == ""
    strange = RemoteFile(name="f", blob="W/not-a-digest")
    assert digests.expected(path, strange) == ("", "")


@pytest.mark.parametrize("shared", [False, True], ids=["blob", "shared blob"])
def test_the_blob_that_a_snapshot_links_to(tmp_path: Path, shared: bool) -> None:
    name = sha_fileobj(BytesIO(b"x")).hex()
    blob = tmp_path / name
    if shared:  # a link to a store whose names are other digests
        (tmp_path / ("0" * 64)).write_bytes(b"x")
        blob.symlink_to("0" * 64)
    else:
        blob.write_bytes(b"x")
    link = tmp_path / "file"
    link.symlink_to(name)
    assert digests.expected(link) == ("sha256", name)
    assert digests.check(link) == ""
    link.unlink()
    link.symlink_to(blob.rename(tmp_path / git_hash(b"y")).name)
    assert digests.expected(link) == ("git", git_hash(b"y"))
    assert "git sha1" in digests.check(link)
    # What the Hub's listing says comes first: not every server names its blobs so.
    assert digests.check(link, RemoteFile(name="f", blob=git_hash(b"x"))) == ""
