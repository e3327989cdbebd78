"""What lies in an adapter's folder, whoever wrote it: its config and the tensors it lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptertools import jsontext, picklefile, tensorfile
from adaptertools.adapter import Adapter
from adaptertools.dialect import dialect
from adaptertools.errors import AdapterToolsError, Unreadable, Unsafe, first, shown
from adaptertools.facts import File, Remote
from adaptertools.formats import _gguf_file, gguf
from adaptertools.ref import Ref, parse
from adaptertools.tensorfile import TensorSpec
from adaptertools.verbs._foreign import Foreign
from adaptertools.verbs._place import CONFIG, LARGEST_HEADER, WEIGHTS, Place, away, find
from adaptertools.verbs._place_nothing import nothing

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
    source: Ref | None = None
    remote: Remote | None = None
    refused: str = ""  # why the format's reader did not take it

    @property
    def words(self) -> str:
        """Whose words the config has: what was read from another format is in PEFT's."""
        return "peft" if self.adapter else self.dialect


def hold(thing: str | Path | Ref | Adapter, *, deep: bool = False) -> Held:
    """Look into a folder, or at a repository; `deep` fetches that whole.

    Raises NotFound or HubError where there is none, UnknownFormat where it holds no adapter,
    Unreadable where its config is damaged, Unsafe where that is a link out of the folder.
    """
    if isinstance(thing, Adapter):
        names = {Path(spec.file).name for spec in thing.tensors.values()}
        return Held(
            ref=thing.ref, folder=thing.folder, dialect=thing.format, config=thing.config,
            file=first(sorted(names)), tensors=thing.tensors, adapter=thing,
        )  # fmt: skip
    place = find(thing if isinstance(thing, Ref) else parse(thing), deep=deep)
    kind, config = _config(place)
    file = next((place.files[name] for name in WEIGHTS if name in place.files), None)
    beside = _beside(place.files)
    if file is None and CONFIG not in place.files:
        raise nothing(place, beside)
    tensors, fault = _tensors(file, place.partly) if file else ({}, "")
    return Held(
        ref=place.ref.text, source=place.ref, folder=place.label, dialect=kind, config=config,
        beside=beside, file=file.name if file else "", remote=place.remote,
        tensors=away(tensors) if place.partly else tensors, fault=place.named(fault),
    )  # fmt: skip


def hold_foreign(found: Foreign, ref: str) -> Held:
    """Describe an adapter of another format, as it was read or by what its header lists."""
    adapter = found.adapter
    tensors = adapter.tensors if adapter else _listed(found.folder / found.file)
    return Held(
        ref=ref, folder=str(found.folder), dialect=found.format, file=found.file, adapter=adapter,
        config=adapter.config if adapter else {}, tensors=tensors,
        fault=found.fault if found.damaged else "", refused=found.fault,
    )  # fmt: skip


def _listed(path: Path) -> Mapping[str, TensorSpec]:
    try:
        if path.suffix == gguf.SUFFIX:
            return {t.name: _spec(t, path) for t in _gguf_file.read(path).tensors.values()}
        return tensorfile.read_header(path, LARGEST_HEADER).tensors
    except AdapterToolsError:  # no safetensors, or damaged; the fault is known already
        return {}


def _spec(held: _gguf_file.Held, path: Path) -> TensorSpec:
    stop = held.start + held.nbytes
    kind = held.kind or "unknown"
    return TensorSpec(held.name, kind, held.shape, str(path), held.start, stop)


def _config(place: Place) -> tuple[str, dict[str, Any]]:
    files, config_file = place.files, shown(f"{place.label}/{CONFIG}")
    if CONFIG not in files:
        return "none", {}
    if files[CONFIG].kind not in ("file", "link"):
        raise Unsafe(f"{config_file} is a link that leaves its folder. Copy the file.")
    data = files[CONFIG].read(jsontext.MAX_BYTES + 1)
    if data.startswith(_POINTER):
        return "lfs", {}
    text = jsontext.read(data)
    if text.value is None and text.problems:
        problem = text.problems[-1]
        wrong = "is not UTF-8" if problem.kind == "encoding" else "is not JSON"
        raise Unreadable(
            f"{config_file} {wrong}, line {problem.line}, column {problem.column}: "
            f"{problem.text.rstrip('.')}."
        )
    config = text.value if isinstance(text.value, dict) else {}
    return dialect(data, text.value, files), config


def _tensors(file: File, partly: bool) -> tuple[Mapping[str, TensorSpec], str]:
    """List the tensors of a weights file, or say why that cannot be done."""
    if file.kind == "remote":
        return {}, f"{shown(file.name)} has a name that must not become a path."
    if file.kind not in ("file", "link"):
        return {}, f"{shown(file.name)} is a link that leaves its folder, or no file."
    if file.read(len(_POINTER)) == _POINTER:
        return {}, f"{shown(file.name)} is a Git LFS pointer, not the weights. Run `git lfs pull`."
    if not file.name.endswith(".bin"):
        try:
            return tensorfile.read_header(file.path, LARGEST_HEADER).tensors, ""
        except AdapterToolsError as error:
            return {}, str(error)
    listing = picklefile.read(file.path, partly=partly)
    fault = f"{shown(file.name)} is a pickle that is not read: {listing.refused}."
    return listing.tensors, fault if listing.refused else ""


def _beside(files: Mapping[str, File]) -> tuple[str, ...]:
    """Name the subfolders that hold an adapter of their own."""
    return tuple(name.removesuffix(CONFIG) for name in files if name.endswith("/" + CONFIG))
