"""The files beside the weights: which are copied, from whom, and which stay behind."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from adaptertools.checkpoint import INDEX, Checkpoint
from adaptertools.errors import shown
from adaptertools.jobs import FileJob
from adaptertools.report import Finding

# A tokenizer is several files that belong together; the adapter's win as a whole.
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken", "chat_template.*",
    "chat_templates/*", "spiece.*", "sentencepiece.*", "normalizer.json",
)  # fmt: skip
_COMPLETE = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken")  # one of these is a tokenizer
_PROCESSOR = ("*processor_config.json", "processor_config.json", "feature_extractor*.json")
_COPIED = (*_TOKENIZER, *_PROCESSOR, "generation_config.json", "LICENSE*", "LICENCE*", "NOTICE*",
           "USE_POLICY*", "*.json", "*.txt", "*.jinja", "*.py")  # fmt: skip
_LEFT = ("config.json", "adapter_config.json", "*.index.json", "README.md", "adaptertools.json",
         "trainer_state.json", "optimizer*", "scheduler*", "training_args*", "rng_state*",
         "requirements.txt", ".*")  # fmt: skip
# Whole folders that are part of a model: sentence-transformers' modules and nested templates.
_FOLDERS = re.compile(r"\d+_[A-Za-z]+|chat_templates|additional_chat_templates")
_NEVER = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.h5", "*.msgpack", "*.onnx",
          "*.gguf", "*.npz", "*.npy", "*.joblib")  # fmt: skip


def _like(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def other_files(base: Checkpoint, adapters: Sequence[Path]) -> tuple[list[FileJob], list[Finding]]:
    """Choose the files to copy: the base's, and the tokenizer of the first adapter that has one."""
    found = {name: path for name, path in _walk(Path(base.folder)) if _wanted(name, base)}
    left = [n for n, _ in _walk(Path(base.folder)) if _like(n.rpartition("/")[2], _NEVER)]
    said: list[Finding] = []
    if left:
        said.append(_note("MRG020", f"{len(left)} files of the base are not copied, such as "
                          f"{shown(left[0])}: pickles and other formats.", base.ref))  # fmt: skip
    own = [
        (a, {n: p for n, p in _walk(a) if _like(n, (*_TOKENIZER, *_PROCESSOR))}) for a in adapters
    ]
    own = [(a, files) for a, files in own if files]
    for adapter, files in own[:1]:
        if any(_like(name, _COMPLETE) for name in files):
            found = {n: p for n, p in found.items() if not _like(n, _TOKENIZER)}
        found |= files
        said.append(_note("MRG021", f"{len(files)} tokenizer and template files are the adapter's "
                          "own.", str(adapter)))  # fmt: skip
    for adapter, files in own[1:]:
        if {n: _sha(p) for n, p in files.items()} != {n: _sha(p) for n, p in own[0][1].items()}:
            said.append(_note("MRG022", "Its tokenizer files differ from the first adapter's and "
                              "are not used.", str(adapter), level="warning"))  # fmt: skip
    jobs = [FileJob.copied(name, path) for name, path in sorted(found.items())]
    return jobs, said


def _note(code: str, text: str, place: str, level: str = "note") -> Finding:
    return Finding(
        code=code, level="warning" if level == "warning" else "note", place=place, text=text
    )


def _walk(folder: Path) -> list[tuple[str, Path]]:
    """List the files of a folder and of those subfolders that are part of a model."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and _FOLDERS.fullmatch(path.name):
            found += [(f"{path.name}/{p.name}", p) for p in sorted(path.iterdir()) if p.is_file()]
        elif path.is_file():
            found.append((path.name, path))
    return found


def _wanted(name: str, base: Checkpoint) -> bool:
    last = name.rpartition("/")[2]
    if _like(last, _NEVER) or last == INDEX:
        return False
    if "/" in name:
        return _like(last, (*_COPIED, "*.safetensors", "config.json"))
    if last.endswith(".py"):
        return "auto_map" in base.config  # code that the model itself needs; copied, never run
    return _like(last, _COPIED) and not _like(last, _LEFT)


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
