"""What lies in an adapter's folder, whoever wrote it: its config and the tensors it lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptertools import hub, jsontext, picklefile, tensorfile
from adaptertools.adapter import Adapter
from adaptertools.dialect import dialect
from adaptertools.errors import AdapterToolsError, UnknownFormat, Unreadable, Unsafe, first, shown
from adaptertools.facts import File
from adaptertools.tensorfile import TensorSpec
from adaptertools.verbs._gather import CONFIG, listed

# Where the libraries that write an adapter_config.json put its tensors, PEFT's first.
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors",
           "pytorch_adapter.bin", "pytorch_lora_weights.safetensors")  # fmt: skip
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A folder's config and tensors, from headers; empty is unknown, and `fault` says why."""

    ref: str
    folder: str
    dialect: str
    config: Mapping[str, Any]
    file: str = ""  # the weights
    tensors: Mapping[str, TensorSpec] = field(default_factory=dict)
    fault: str = ""  # why the weights could not be read
    beside: tuple[str, ...] = ()  # subfolders that hold adapters
    adapter: Adapter | None = None  # where it is open already


def hold(thing: str | Path | Adapter) -> Held:
    """Look into a folder.

    Raises NotFound or HubError where there is none, UnknownFormat where it holds no adapter,
    Unreadable where its config is damaged, Unsafe where that is a link out of the folder.
    """
    if isinstance(thing, Adapter):
        names = {Path(spec.file).name for spec in thing.tensors.values()}
        return Held(
            ref=thing.ref, folder=thing.folder, dialect=thing.format, config=thing.config,
            file=first(sorted(names)), tensors=thing.tensors, adapter=thing,
        )  # fmt: skip
    folder = hub.local(thing, "adapter")
    files = listed(folder)
    kind, config = _config(files, folder)
    file = next((files[name] for name in WEIGHTS if name in files), None)
    beside = _beside(files)
    if file is None and CONFIG not in files:
        raise _nothing(folder, files, beside)
    tensors, fault = _tensors(file) if file else ({}, "")
    return Held(
        ref=str(thing), folder=str(folder), dialect=kind, config=config, beside=beside,
        file=file.name if file else "", tensors=tensors, fault=fault,
    )  # fmt: skip


def _config(files: Mapping[str, File], folder: Path) -> tuple[str, dict[str, Any]]:
    if CONFIG not in files:
        return "none", {}
    if files[CONFIG].kind not in ("file", "link"):
        raise Unsafe(f"{shown(folder / CONFIG)} is a link that leaves its folder. Copy the file.")
    data = files[CONFIG].read(jsontext.MAX_BYTES + 1)
    if data.startswith(_POINTER):
        return "lfs", {}
    text = jsontext.read(data)
    if text.value is None and text.problems:
        problem = text.problems[-1]
        wrong = "is not UTF-8" if problem.kind == "encoding" else "is not JSON"
        raise Unreadable(
            f"{shown(folder / CONFIG)} {wrong}, line {problem.line}, column {problem.column}: "
            f"{problem.text.rstrip('.')}."
        )
    config = text.value if isinstance(text.value, dict) else {}
    return dialect(data, text.value, files), config


def _tensors(file: File) -> tuple[Mapping[str, TensorSpec], str]:
    """List the tensors of a weights file, or say why that cannot be done."""
    if file.kind not in ("file", "link"):
        return {}, f"{shown(file.name)} is a link that leaves its folder, or no file."
    if file.read(len(_POINTER)) == _POINTER:
        return {}, f"{shown(file.name)} is a Git LFS pointer, not the weights. Run `git lfs pull`."
    if not file.name.endswith(".bin"):
        try:
            return tensorfile.read_header(file.path).tensors, ""
        except AdapterToolsError as error:
            return {}, str(error)
    listing = picklefile.read(file.path)
    fault = f"{shown(file.name)} is a pickle that is not read: {listing.refused}."
    return listing.tensors, fault if listing.refused else ""


def _beside(files: Mapping[str, File]) -> tuple[str, ...]:
    """Name the subfolders that hold an adapter of their own."""
    return tuple(name.removesuffix(CONFIG) for name in files if name.endswith("/" + CONFIG))


def _nothing(folder: Path, files: Mapping[str, File], beside: tuple[str, ...]) -> UnknownFormat:
    if beside:
        return UnknownFormat(
            f"{shown(folder)} holds no adapter itself. There is one in {first(beside)}: give "
            f"{shown(folder / beside[0])}."
        )
    return UnknownFormat(
        f"{shown(folder)} is no adapter of a known format: it has no {CONFIG}. "
        f"Found: {first(files) or 'nothing'}. Give the folder that holds it."
    )
