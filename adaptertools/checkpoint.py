"""A base on disk: config.json, and its weights from headers only, in one shard or many."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptertools.errors import (
    AdapterToolsError,
    NotFound,
    Unreadable,
    Unsafe,
    Unsupported,
    first,
    shown,
)
from adaptertools.tensorfile import Header, TensorSpec, read_header

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A base: its config and where each tensor lies. No tensor data is held."""

    ref: str
    folder: str
    config: Mapping[str, Any]  # {} where there is no config.json
    shards: Mapping[str, Header]  # file name -> header, in the index's order of files
    index: Mapping[str, Any] | None  # the index file, None for a single file

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        """Every tensor by name."""
        return {n: spec for header in self.shards.values() for n, spec in header.tensors.items()}

    @property
    def model_type(self) -> str:
        """What config.json calls the architecture; empty where it does not say."""
        return str(self.config.get("model_type") or "")


def read(folder: Path, ref: str) -> Checkpoint:
    """Read a base's config and headers.

    Raises NotFound where there are no safetensors, Unreadable where a header or the index is
    damaged or they disagree, Unsafe where the index leaves its folder, Unsupported for pickles.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    _check_kinds(config, folder)
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        shards = _indexed(folder, index)
        return Checkpoint(ref=ref, folder=str(folder), config=config, shards=shards, index=index)
    if not (folder / SINGLE).is_file():
        raise missing(folder, sorted(path.name for path in folder.iterdir()))
    shards = {SINGLE: read_header(folder / SINGLE)}
    return Checkpoint(ref=ref, folder=str(folder), config=config, shards=shards, index=None)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise Unreadable where it is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise Unreadable(f"{shown(path)} is not UTF-8 text: byte {error.start}.") from None
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{shown(path)} is not JSON: {shown(error)}.") from None
    if not isinstance(value, dict):
        raise Unreadable(f"{shown(path)} is not a JSON object.")
    return value


def missing(folder: Path, files: Sequence[str]) -> AdapterToolsError:
    """Make the error for a folder of these files, none of which is a base's weights."""
    if any(name.startswith("pytorch_model") and name.endswith(".bin") for name in files):
        return Unsupported(
            f"{shown(folder)} has its weights in pytorch_model*.bin only. Those are pickles, which "
            "can run code. Load and save the model with transformers to get safetensors."
        )
    if "adapter_config.json" in files:
        return NotFound(
            f"{shown(folder)} is an adapter, and a base model was expected. "
            "Pass the model that it was trained on as --base."
        )
    return NotFound(
        f"{shown(folder)} holds no {SINGLE} and no {INDEX}. Found: {first(files) or 'nothing'}. "
        "Give the folder of the base model."
    )


def _check_kinds(config: Mapping[str, Any], folder: Path) -> None:
    kinds = (("architectures", list), ("id2label", dict), ("model_type", str),
             ("quantization_config", dict))  # fmt: skip
    for key, kind in kinds:
        value = config.get(key)
        odd = isinstance(value, list) and not all(isinstance(item, str) for item in value)
        if value is not None and (odd or not isinstance(value, kind)):
            raise Unreadable(
                f"{shown(folder / 'config.json')}: {key} is {shown(value)}, and "
                f"{'names' if kind is list else kind.__name__} were expected."
            )


def _indexed(folder: Path, index: Mapping[str, Any]) -> dict[str, Header]:
    where = f"{shown(folder / INDEX)}"
    weights = index.get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(f, str) for f in weights.values()):
        raise Unreadable(f"{where} has no weight_map of names to files.")
    for file in dict.fromkeys(weights.values()):
        if Path(file).name != file or file in ("", ".", ".."):
            raise Unsafe(f"{where} names {shown(file)}, which is outside its folder.")
        if not (folder / file).is_file():
            raise NotFound(f"{where} names {shown(file)}, which is not there. Fetch it too.")
    shards = {file: read_header(folder / file) for file in sorted(set(weights.values()))}
    held = {(name, file) for file, header in shards.items() for name in header.tensors}
    if wrong := sorted(held ^ set(weights.items())):
        name, file = wrong[0]
        says = "is in it and not in the index" if wrong[0] in held else "is not in it"
        raise Unreadable(
            f"{where} disagrees with its shards about {len(wrong)} tensors: {shown(name)} of "
            f"{shown(file)} {says}. Fetch index and shards from the same revision."
        )
    return shards
