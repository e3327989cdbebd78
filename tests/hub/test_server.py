"""The loopback hub, judged by huggingface_hub's own client and by git."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import STRANGER, Hub
from tests.hub_server_git import ATTRIBUTES, Repository

CARD = b"---\nbase_model: facebook/opt-350m\nlibrary_name: peft\nlicense: mit\n---\n# A card\n"
WEIGHTS = bytes(range(256)) * 4000
FILES = {
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "adapter_model.safetensors": WEIGHTS,
    "README.md": CARD,
    "checkpoint-6/adapter_model.safetensors": WEIGHTS[::-1],
    "checkpoint-6/trainer state.json": b"{}",
    "empty.txt": b"",
}
START = """
import json, sys, warnings
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete, HfApi
from huggingface_hub import snapshot_download
api = HfApi()
def kind(call, *arguments, **more):
    try:
        call(*arguments, **more)
    except Exception as error:
        return type(error).__name__
    return "fine"
"""


def ask(hub: Hub, folder: Path, code: str, **env: Any) -> Any:
    """Run lines of huggingface_hub in a process of its own; give what they say as JSON."""
    done = hub.call(folder, START + code, **env)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def loose(repo: Repository, folder: Path) -> None:
    """Lay all objects into a git repository as they are."""
    subprocess.run(["git", "init", "--bare", "-q", "-b", "main", folder], check=True)
    for name, (kind, data) in repo.store.objects.items():
        place = folder / "objects" / name[:2]
        place.mkdir(exist_ok=True)
        raw = f"{kind} {len(data)}\0".encode() + data
        place.joinpath(name[2:]).write_bytes(zlib.compress(raw))
    for ref, target in repo.refs.items():
        place = folder / ref
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{target}\n")


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_ids_are_those_of_git(tmp_path: Path) -> None:
    with Hub() as hub:
        repo = hub.add("user/repo", FILES)
        hub.update("user/repo", {"empty.txt": None, "sub-dir/a": b"1", "sub": b"2", "sub.x": b"3"})
    loose(repo, tmp_path)

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    git("fsck", "--full", "--strict")  # checks ids, order of trees, form of commits
    listed = {}
    for line in git("ls-tree", "-r", "-z", "main").split("\0")[:-1]:
        listed[line.partition("\t")[2]] = line.split()[2]
    assert listed == {name: entry.blob for name, entry in repo.head.files.items()}
    assert git("show", "main:adapter_config.json").encode() == FILES["adapter_config.json"]
    assert "size 1024000" in git("show", "main:adapter_model.safetensors")
    assert git("rev-list", "--count", "main").strip() == "2"


def test_snapshot_is_byte_identical(tmp_path: Path) -> None:
    code = """
folder = snapshot_download("user/repo")
checked = api.verify_repo_checksums("user/repo")
local = snapshot_download("user/repo", local_dir="here", revision="main")
print(json.dumps([folder, checked.checked_count, checked.mismatches, local]))
"""
    with Hub() as hub:
        repo = hub.add("user/repo", FILES)
        folder, checked, wrong, local = ask(hub, tmp_path, code)
    for place in (folder, local):
        assert {name: Path(place, name).read_bytes() for name in FILES} == FILES
    assert (checked, wrong) == (len(FILES), [])
    assert Path(folder).name == repo.head.id
    blob = Path(folder, "adapter_model.safetensors").readlink().name
    assert blob == hashlib.sha256(WEIGHTS).hexdigest()
    bodies = [one for one in hub.requests if one.origin == "cdn"]
    assert bodies
    assert hub.leaks == []
    assert any(one.authorization for one in hub.requests)


def test_model_info_and_trees(tmp_path: Path) -> None:
    code = """
info = api.model_info("user/repo", files_metadata=True, securityStatus=True)
rows = api.list_repo_tree("user/repo", recursive=True, expand=True)
paths = api.get_paths_info("user/repo", ["README.md", "checkpoint-6", "nothing"])
print(json.dumps({
    "siblings": {s.rfilename: [s.size, s.blob_id, s.lfs and s.lfs.sha256] for s in info.siblings},
    "said": [info.sha, info.library_name, info.card_data.base_model, info.tags],
    "issues": info.security_repo_status["filesWithIssues"],
    "scan": {r.path: r.security.status for r in rows if hasattr(r, "size")},
    "top": [r.path for r in api.list_repo_tree("user/repo")],
    "below": [r.path for r in api.list_repo_tree("user/repo", "checkpoint-6")],
    "paths": [type(r).__name__ + r.path for r in paths],
    "size": api.model_info("user/repo", expand=["usedStorage"]).used_storage,
    "commits": [c.title for c in api.list_repo_commits("user/repo")],
}))
"""
    with Hub() as hub:
        repo = hub.add("user/repo", FILES, scan={"adapter_model.safetensors": "unsafe"})
        told = ask(hub, tmp_path, code)
    entries = {name: [e.size, e.blob, e.sha256] for name, e in repo.head.files.items()}
    assert told["siblings"] == entries
    sha, library, base, tags = told["said"]
    assert (sha, library, base) == (repo.head.id, "peft", "facebook/opt-350m")
    assert {"license:mit", "base_model:adapter:facebook/opt-350m"} <= set(tags)
    assert told["issues"] == [{"path": "adapter_model.safetensors", "level": "unsafe"}]
    assert told["scan"] == dict.fromkeys(FILES, "safe") | {"adapter_model.safetensors": "unsafe"}
    assert set(told["top"]) == {"checkpoint-6", *(name for name in FILES if "/" not in name)}
    assert set(told["below"]) == {name for name in FILES if "/" in name}
    assert sorted(told["paths"]) == ["RepoFileREADME.md", "RepoFoldercheckpoint-6"]
    assert told["size"] == sum(map(len, FILES.values()))
    assert told["commits"] == ["initial commit"]


@pytest.mark.parametrize("part_size", [0, 300_000], ids=["one piece", "multipart"])
def test_a_push_is_one_commit(tmp_path: Path, part_size: int) -> None:
    code = """
import os
repo = api.create_repo("user/new", private=True)
assert api.create_repo("user/new", private=True, exist_ok=True).repo_id == repo.repo_id
first = api.model_info("user/new").sha
weights = bytes(range(256)) * 4000
open("w", "wb").write(weights)
card = b"---\\nbase_model: facebook/opt-350m\\n---\\n"
ops = [Add("README.md", card), Add("a b/model.safetensors", "w"), Delete(".gitattributes")]
done = api.create_commit("user/new", ops, commit_message="all", parent_commit=first)
again = api.create_commit("user/new", [Add("README.md", card)], commit_message="none")
late = kind(api.create_commit, "user/new", [Add("x", b"1")], commit_message="late",
            parent_commit=first)
print(json.dumps([first, done.oid, again.oid, late]))
"""
    with Hub() as hub:
        hub.part_size = part_size
        first, second, again, late = ask(hub, tmp_path, code)
        repo = hub.repo("user/new")
    assert repo.private
    assert repo.commits[first].files[".gitattributes"].size == len(ATTRIBUTES)
    assert set(repo.all()) == {"README.md", "a b/model.safetensors"}
    assert repo.data("a b/model.safetensors") == WEIGHTS
    assert again == second == repo.head.id
    assert late == "HfHubHTTPError"
    assert 412 in [one.status for one in hub.requests]
    assert sum(one.method == "PUT" for one in hub.requests) == (4 if part_size else 1)
    assert hub.leaks == []


def test_pull_requests(tmp_path: Path) -> None:
    code = """
made = api.create_commit("user/repo", [Add("x.txt", b"1")], commit_message="x", create_pr=True)
api.create_commit("user/repo", [Add("y.txt", b"2")], commit_message="y", revision="refs/pr/1")
folder = snapshot_download("user/repo", revision="refs/pr/1", allow_patterns="*.txt")
before = api.model_info("user/repo").sha
seen = [d.num for d in api.get_repo_discussions("user/repo")]
api.merge_pull_request("user/repo", 1)
told = api.get_discussion_details("user/repo", 1)
refs = api.list_repo_refs("user/repo", include_pull_requests=True)
draft = api.create_pull_request("user/repo", title="later")
print(json.dumps([made.pr_revision, made.pr_num, folder, before, seen, told.status,
                  [r.ref for r in refs.pull_requests], draft.status]))
"""
    with Hub() as hub:
        repo = hub.add("user/repo", FILES)
        old = repo.head.id
        revision, number, folder, before, seen, status, refs, draft = ask(hub, tmp_path, code)
    assert (revision, number, before, seen) == ("refs/pr/1", 1, old, [1])
    assert {path.name for path in Path(folder).iterdir()} == {"x.txt", "y.txt", "empty.txt"}
    assert (status, refs, draft) == ("merged", ["refs/pr/1"], "draft")
    assert repo.all() == {**FILES, "x.txt": b"1", "y.txt": b"2"}


def test_branches_and_tags(tmp_path: Path) -> None:
    code = """
api.create_branch("user/repo", branch="dev/one")
api.create_tag("user/repo", tag="v1")
api.create_commit("user/repo", [Add("x", b"1")], commit_message="x", revision="dev/one")
refs = api.list_repo_refs("user/repo")
out = [sorted(b.name for b in refs.branches), [t.ref for t in refs.tags],
       api.file_exists("user/repo", "x", revision="dev/one"), api.file_exists("user/repo", "x"),
       kind(api.create_tag, "user/repo", tag="v1"),
       kind(api.model_info, "user/repo", revision="no")]
api.delete_tag("user/repo", tag="v1")
api.delete_branch("user/repo", branch="dev/one")
print(json.dumps([*out, len(api.list_repo_refs("user/repo").branches)]))
"""
    with Hub() as hub:
        hub.add("user/repo", FILES)
        assert ask(hub, tmp_path, code) == [
            ["dev/one", "main"], ["refs/tags/v1"], True, False,
            "HfHubHTTPError", "RevisionNotFoundError", 1,
        ]  # fmt: skip


def test_list_models(tmp_path: Path) -> None:
    code = """
def ids(**more):
    return [model.id for model in api.list_models(**more)]
tag = "base_model:adapter:facebook/opt-350m"
print(json.dumps([len(ids()), ids(filter=tag), ids(filter=[tag, "peft"], limit=2),
                  ids(search="Repo1", author="org"), len(ids(limit=5)),
                  [m.card_data.license for m in api.list_models(filter=tag, cardData=True)],
                  [m.downloads for m in api.list_models(filter=tag, expand=["downloads"])]]))
"""
    with Hub() as hub:
        hub.page = 4
        hub.add("user/hidden", FILES, private=True)
        for number in range(10):
            files = FILES if number < 3 else {"config.json": b"{}"}
            hub.add(f"org/repo{number}", files, downloads=number)
        told = ask(hub, tmp_path, code, token=STRANGER)
    adapters = ["org/repo2", "org/repo1", "org/repo0"]
    assert told == [10, adapters, adapters[:2], ["org/repo1"], 5, ["mit"] * 3, [2, 1, 0]]
    assert any("cursor=4" in one.path for one in hub.requests)
