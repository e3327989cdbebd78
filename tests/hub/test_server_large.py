"""Large files on the loopback hub: read in ranges, sent once, refused when they are not whole."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from tests.hub.test_server import ask
from tests.hub.test_server_faults import get
from tests.hub_server import Hub

NAME = "adapter_model.safetensors"
HEADER = {"__metadata__": {"format": "pt"}} | {
    f"layer.{n}.lora_A.weight": {
        "dtype": "F16", "shape": [8, 64], "data_offsets": [n * 1024, (n + 1) * 1024]
    }
    for n in range(50)
}  # fmt: skip
TEXT = json.dumps(HEADER).encode()
FILE = struct.pack("<Q", len(TEXT)) + TEXT + bytes(50 * 1024)


def test_headers_are_read_in_ranges(tmp_path: Path) -> None:
    code = f"""
from huggingface_hub import HfFileSystem
parsed = api.parse_safetensors_file_metadata("user/repo", "{NAME}")
files = HfFileSystem(block_size=4096)
with files.open("user/repo/{NAME}") as file:
    file.seek(30000)
    middle = file.read(16)
print(json.dumps([parsed.metadata, len(parsed.tensors), list(middle)]))
"""
    with Hub() as hub:
        hub.add("user/repo", {NAME: FILE})
        told = ask(hub, tmp_path, code)
        assert told == [{"format": "pt"}, 50, list(FILE[30000:30016])]
        parts = [one for one in hub.requests if one.range]
        assert parts
        assert {one.status for one in parts if one.origin == "cdn"} == {206}
        assert hub.leaks == []


def test_what_is_there_is_not_sent_again(tmp_path: Path) -> None:
    code = """
data = bytes(100000)
for name in ("a.bin", "b.bin"):
    api.create_commit("user/repo", [Add(name, data)], commit_message=name)
print(json.dumps(sorted(api.list_repo_files("user/repo"))))
"""
    with Hub() as hub:
        hub.add("user/repo", {NAME: FILE})
        assert ask(hub, tmp_path, code) == ["a.bin", NAME, "b.bin"]
        assert sum(one.method == "PUT" for one in hub.requests) == 1


def test_large_files_come_whole_or_not_at_all(tmp_path: Path) -> None:
    sha = hashlib.sha256(FILE).hexdigest()
    pointer = {"path": NAME, "algo": "sha256", "oid": sha, "size": len(FILE)}
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "lfsFile", "value": pointer}]
    body = "\n".join(map(json.dumps, lines)).encode()
    with Hub() as hub:
        old = hub.add("user/repo", {"a": b"1"}).head
        commit = f"{hub.endpoint}/api/models/user/repo/commit/main"
        put = f"{hub.cdn}/upload/user/repo/{sha}/0"
        assert get(commit, method="POST", body=body)[0] == 422
        assert get(put, method="PUT", body=FILE[:-1] + b"x")[0] == 400
        assert get(commit, method="POST", body=body)[0] == 422
        assert hub.repo("user/repo").head is old
        assert get(put, method="PUT", body=FILE)[0] == 200
        assert get(commit, method="POST", body=body)[0] == 200
        assert hub.repo("user/repo").data(NAME) == FILE
        assert get(commit, method="POST", body=body + b"\n{}")[0] == 400
