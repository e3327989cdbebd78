"""What is known of an adapter before judging it: each fact is there, or None and why.

Gathered by `verbs/_gather.py` without opening tensors, unpickling, importing or following links. A
check names the facts that it needs as its parameters; one whose facts are not there is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools.jsontext import JsonText
from adaptertools.jsontext import Problem as Problem
from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array

Text = JsonText  # a JSON file that was read with its positions


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of the folder, as lstat sees it."""

    name: str  # relative to the folder, with /
    path: Path
    size: int
    # "file", "link" (to somewhere inside), "outside" (a link that leaves), "other", and "remote":
    # it is in a repository, and was not fetched.
    kind: str
    digest: str = ""  # as the repository says it

    def read(self, limit: int = 5_000_000) -> bytes:
        """Read at most `limit` bytes; nothing of what is no plain file inside the folder."""
        if self.kind not in ("file", "link"):
            return b""
        with self.path.open("rb") as file:
            return file.read(limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The tensors of the adapter, from a safetensors header or a pickle's static listing."""

    file: str
    tensors: Mapping[str, TensorSpec]
    metadata: Mapping[str, str] = field(default_factory=dict)
    pickled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Access to tensor data, one tensor at a time, in float32; there with `--deep` only."""

    weights: Weights

    def read(self, name: str) -> Array:
        """Load one tensor."""
        from adaptertools import tensorfile

        return tensorfile.read(self.weights.tensors[name]).astype("float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The base model that was given: its config, and its tensors where it has weights."""

    ref: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """README.md: front matter and words."""

    meta: Mapping[str, Any] | None  # None where there is no front matter, or it is no map
    fault: str  # why the front matter could not be read; empty where it could
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pickle:
    """What a pickle file says of itself, read without unpickling."""

    file: str
    globals: tuple[str, ...]  # "torch._utils._rebuild_tensor_v2" …
    refused: str  # why it cannot be read safely; empty where it can
    tensors: Mapping[str, TensorSpec] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a serving target takes (serving.json): data, with its source and version."""

    name: str
    version: str
    source: str
    rules: Mapping[str, Any]
    # What `convert` writes for it: formats, the usual one first, and their options.
    formats: Sequence[str] = ("plain",)
    options: Mapping[str, str] = field(default_factory=dict)
    beside: str = ""  # a file beside the adapter: "Modelfile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """The repository that was looked at, and what its hub says of it."""

    id: str
    commit: str
    private: bool = False
    gated: bool = False
    scan: Mapping[str, str] = field(default_factory=dict)  # file -> safe, queued, unsafe …
    unread: tuple[str, ...] = ()  # files that were not fetched, so that nothing looked into them

    @property
    def flagged(self) -> dict[str, str]:
        """What the hub's scan complains about: file -> its word."""
        fine = ("safe", "queued", "unscanned")
        return {name: said for name, said in self.scan.items() if said not in fine}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that may be known; None is unknown, and `why` says why."""

    folder: Path
    ref: str
    files: Mapping[str, File]
    dialect: str = "peft"  # peft, mlx, gguf, adapterhub, tunix, lerobot, lfs, unknown, none …
    text: Text | None = None  # adapter_config.json, however broken
    config: Mapping[str, Any] | None = None  # its value, where it is PEFT's
    weights: Weights | None = None
    data: Data | None = None
    foreign: str = ""  # the weights' file, where the format is not PEFT's
    base: Base | None = None
    card: Card | None = None
    tokenizer: Mapping[str, Any] | None = None  # tokenizer.json … by name, as json.loads gives it
    pickles: Sequence[Pickle] = ()
    target: Profile | None = None
    peft_version: str | None = None  # the version that must be able to read it
    remote: Remote | None = None
    scan: Mapping[str, str] | None = None  # what the hub complains of: file -> its word
    online: Callable[[str], str] | None = None  # repository -> "ok", "missing", "gated", "moved: X"
    why: Mapping[str, str] = field(default_factory=dict)  # fact -> why it is not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One thing that a check found; `Finding` adds what the check says of itself."""

    text: str
    file: str = ""
    pointer: str = ""  # into adapter_config.json, unless `file` says otherwise
    tensor: str = ""
    line: int = 0
    column: int = 0
    hint: str = ""  # instead of the check's own fix
    level: str = ""  # instead of the check's own level: error, warning, note


Result = Iterator[Found]
