"""Repositories of the loopback hub: blobs, trees and commits, named as git names them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
LARGE = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".npz", ".npy",
    ".model", ".msgpack", ".zip", ".tar", ".gz", ".pkl", ".arrow", ".parquet", ".png", ".jpg",
)  # fmt: skip
ATTRIBUTES = "".join(f"*{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LARGE).encode()
TEN_MB = 10 << 20
EPOCH = 1_700_000_000


class Entry(NamedTuple):
    """A file of a commit: the git id of what git holds, the true size, the LFS sha256."""

    blob: str
    size: int
    sha256: str | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob

    @property
    def pointer(self) -> bytes:
        return POINTER.format(self.sha256, self.size).encode()


@dataclass(frozen=True)
class Commit:
    """One state of the files and where it came from."""

    id: str
    tree: str
    parents: tuple[str, ...]
    files: Mapping[str, Entry]
    title: str
    text: str
    author: str
    time: int


def git_id(kind: str, data: bytes) -> str:
    """Give the name git gives to an object."""
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


def is_large(name: str, size: int, sample: bytes) -> bool:
    """Tell whether the Hub keeps such a file in LFS."""
    return size > 0 and (name.endswith(LARGE) or size > TEN_MB or b"\0" in sample)


@dataclass
class Store:
    """What git and LFS hold, for all repositories."""

    objects: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)

    def keep(self, kind: str, data: bytes) -> str:
        name = git_id(kind, data)
        self.objects[name] = (kind, data)
        return name

    def add(self, name: str, data: bytes) -> Entry:
        """Keep a file, small ones in git and large ones in LFS."""
        if not is_large(name, len(data), data[:512]):
            return self.small(data)
        sha256 = hashlib.sha256(data).hexdigest()
        self.large[sha256] = data
        return self.linked(sha256, len(data))

    def small(self, data: bytes) -> Entry:
        return Entry(self.keep("blob", data), len(data))

    def linked(self, sha256: str, size: int) -> Entry:
        pointer = POINTER.format(sha256, size).encode()
        return Entry(self.keep("blob", pointer), size, sha256)

    def read(self, entry: Entry) -> bytes:
        return self.large[entry.sha256] if entry.sha256 else self.objects[entry.blob][1]

    def tree(self, files: Mapping[str, Entry]) -> str:
        """Keep the tree objects of a listing and give the root's id."""
        rows: dict[str, tuple[str, str]] = {}
        folders: dict[str, dict[str, Entry]] = {}
        for name, entry in files.items():
            head, slash, rest = name.partition("/")
            if slash:
                folders.setdefault(head, {})[rest] = entry
            else:
                rows[name] = ("100644", entry.blob)
        for name, below in folders.items():
            rows[name + "/"] = ("40000", self.tree(below))
        data = b"".join(
            f"{mode} {name.removesuffix('/')}\0".encode() + bytes.fromhex(object_id)
            for name, (mode, object_id) in sorted(rows.items(), key=lambda row: row[0].encode())
        )
        return self.keep("tree", data)

    def commit(
        self,
        files: Mapping[str, Entry],
        parents: Sequence[str] = (),
        title: str = "initial commit",
        text: str = "",
        author: str = "user",
        time: int = EPOCH,
    ) -> Commit:
        """Keep a commit object over a listing."""
        tree = self.tree(files)
        who = f"{author} <{author}@users.noreply.example> {time} +0000"
        lines = [f"tree {tree}", *(f"parent {one}" for one in parents)]
        lines += [f"author {who}", f"committer {who}", "", title, *(["", text] if text else [])]
        name = self.keep("commit", ("\n".join(lines) + "\n").encode())
        return Commit(name, tree, tuple(parents), dict(files), title, text, author, time)


@dataclass
class Repository:
    """A repository: its refs, its commits, its settings."""

    id: str
    store: Store
    kind: str = "model"
    private: bool = False
    gated: str | bool = False
    readonly: bool = False
    disabled: bool = False
    downloads: int = 0
    likes: int = 0
    scan: dict[str, str] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    pulls: list[dict[str, object]] = field(default_factory=list)

    @property
    def head(self) -> Commit:
        """Give the last commit of main."""
        return self.commits[self.refs["refs/heads/main"]]

    def find(self, revision: str) -> Commit | None:
        """Give the commit of a branch, tag, full ref, or (shortened) commit id."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        if 7 <= len(revision) <= 40:
            return next((c for name, c in self.commits.items() if name.startswith(revision)), None)
        return None

    def ref_of(self, revision: str) -> str | None:
        """Give the full name of the branch or pull request that a commit may go to."""
        for ref in (f"refs/heads/{revision}", revision):
            if ref in self.refs and not ref.startswith("refs/tags/"):
                return ref
        return None

    def write(
        self,
        files: Mapping[str, Entry],
        ref: str = "refs/heads/main",
        parents: Sequence[str] = (),
        title: str = "initial commit",
        text: str = "",
        author: str = "user",
    ) -> Commit:
        """Add a commit and let a ref show it."""
        time = EPOCH + len(self.commits)
        made = self.store.commit(files, parents, title, text, author, time)
        self.commits[made.id] = made
        self.refs[ref] = made.id
        return made

    def data(self, name: str, revision: str = "main") -> bytes:
        """Give the bytes of a file."""
        commit = self.find(revision)
        assert commit is not None, f"{self.id} has no revision {revision}"
        return self.store.read(commit.files[name])

    def all(self, revision: str = "main") -> dict[str, bytes]:
        """Give all files of a revision."""
        commit = self.find(revision)
        assert commit is not None, f"{self.id} has no revision {revision}"
        return {name: self.store.read(entry) for name, entry in commit.files.items()}
