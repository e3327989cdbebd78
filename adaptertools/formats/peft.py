"""PEFT's folder: adapter_config.json and adapter_model.safetensors.

Facts from peft/utils/save_and_load.py (names), tuners/lora/layer.py (scale) and utils/other.py
(patterns). Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from adaptertools import peft_keys as _keys
from adaptertools.adapter import Adapter, Entry, Saved, TokenRows
from adaptertools.errors import Mismatch, Unreadable, first, shown
from adaptertools.formats import _bin
from adaptertools.formats._peft_copy import HOLDS, LACKS, METHODS, PROVED, SUFFIX, write
from adaptertools.formats._peft_methods import check_method, common
from adaptertools.formats._peft_methods import marker as marker
from adaptertools.formats._peft_scale import scaled
from adaptertools.tensorfile import TensorSpec, read_header, same

__all__ = ["HOLDS", "LACKS", "METHODS", "PROVED", "SUFFIX", "build", "marker", "matches", "read",
           "write"]  # fmt: skip

CONFIG, WEIGHTS, PICKLED = (
    "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin",
)  # fmt: skip

_KINDS: Mapping[str, type] = {
    "alpha_pattern": dict, "auto_mapping": dict, "base_model_name_or_path": str,
    "modules_to_save": list, "rank_pattern": dict, "target_parameters": list, "task_type": str,
    "use_bdlora": dict,
}  # fmt: skip

# Tensors that training needed and a merge does not.
_IGNORED = {
    "lora_velora_embed": "VeLoRA's compressor of activations, used in training only",
    "lora_monteclora_sampler": "MonteCLoRA's sampler, used in training only",
}


def matches(files: Collection[str]) -> bool:
    """Tell whether there is an adapter_config.json."""
    return CONFIG in files


def read(folder: Path, ref: str, base: Path | None = None) -> Adapter:
    """Read a PEFT adapter from its config and its header; one of Tinker's, which needs `base`, too.

    Raises Unreadable or Unsupported where config or weights are missing, damaged or of a kind that
    cannot be read, and Unsafe for a rank or alpha pattern that could run for ever.
    """
    config = read_config(folder / CONFIG)
    tensors = _tensors(folder)
    from adaptertools.formats import tinker  # which reads through this file

    if tinker.own(tensors):
        return tinker.read(folder, ref, base)
    return build(config, tensors, folder, ref)


def build(
    config: Mapping[str, Any], tensors: Mapping[str, TensorSpec], folder: Path, ref: str
) -> Adapter:
    """Make the adapter of a config that names its peft_type and of the tensors beside it.

    Raises Unreadable, Mismatch or Unsafe where they make none.
    """
    _check_kinds(config, folder / CONFIG)
    method = str(config["peft_type"])
    _check_empty(tensors, folder)
    shared = common(tensors, method)
    junk: Counter[str] = Counter()
    keys = {name: _keys.parse(name, marker(method), junk) for name in tensors if name not in shared}
    names = _left_in(keys.values(), junk)
    parts: defaultdict[tuple[str, bool, int], dict[str, str]] = defaultdict(dict)
    saved, rows, ignored = [], [], {}
    for name, key in keys.items():
        spec = tensors[name]
        if why := _IGNORED.get(key.role):
            ignored[name] = why
        elif key.wrapper == "original_module":
            ignored[name] = "the base's tensor, kept beside its trained copy"
        elif key.role == _keys.ROWS:
            rows.append(_rows(key, spec, config))
            if any(row.target == key.target for row in rows[:-1]):
                raise Unreadable(f"{shown(name)} is there twice, under two spellings.")
        elif key.role:
            before = parts[_place(key, config)].setdefault(key.role, name)
            if before != name:
                raise Unreadable(
                    f"{shown(before)} and {shown(name)} are the same tensor once wrappers are "
                    "taken off their names. Save the adapter again from one model."
                )
        else:
            saved.append(Saved(name=key.target, spec=spec, own=_own(key, config)))
    if twice := [t for t, nested, depth in parts if nested and (t, False, depth) in parts]:
        raise Unreadable(f"{first(twice)}: adapted twice, once under base_layer. Save again.")
    entries = [
        _entry(target, nested, depth, {r: tensors[n] for r, n in found.items()}, config)
        for (target, nested, depth), found in parts.items()
    ]
    if not entries:
        check_method(saved, method)
    once = tuple(_unique(saved, ignored))
    return Adapter(
        ref=ref, folder=str(folder), format="peft", method=method, config=config, tensors=tensors,
        entries=tuple(entries), saved=once, rows=tuple(rows), ignored=ignored,
        stripped={**{k: n for k, n in junk.items() if n}, **names},
        shared={role: tensors[name] for name, role in shared.items()},
    )  # fmt: skip


def _place(key: _keys.Key, config: Mapping[str, Any]) -> tuple[str, bool, int]:
    """Give the module, whether it lies inside another adapted one, and its parameter's level."""
    fused = config["peft_type"] == "LORA" and config.get("target_parameters")
    depth = key.depth if fused else 0
    return key.target, key.nested > depth, depth


def read_config(path: Path) -> dict[str, Any]:
    """Read adapter_config.json; it must be a UTF-8 JSON object that names its peft_type."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"{shown(path)} is not UTF-8 text: byte {error.start}. Save it as UTF-8."
        ) from None
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{shown(path)} is not JSON: {shown(error)}.") from None
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise Unreadable(
            f"{shown(path)} has no peft_type, so it is no PEFT adapter config. "
            "Other formats of the same file name are not read yet."
        )
    return config


def _check_kinds(config: Mapping[str, Any], path: Path) -> None:
    """Refuse values that are not of the kind that PEFT writes under their key."""
    for key, kind in _KINDS.items():
        value = config.get(key)
        if value is not None and not isinstance(value, kind):
            raise Unreadable(
                f"{shown(path)}: {key} is {shown(value)}, a {kind.__name__} was expected."
            )


def _tensors(folder: Path) -> Mapping[str, TensorSpec]:
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS).tensors
    if (folder / PICKLED).is_file():
        return _bin.tensors(folder / PICKLED)
    raise Unreadable(f"{shown(folder)} has an {CONFIG} and no {WEIGHTS}. Fetch the weights too.")


def _check_empty(tensors: Mapping[str, TensorSpec], folder: Path) -> None:
    if empty := [name for name, spec in tensors.items() if 0 in spec.shape]:
        raise Unreadable(
            f"{shown(folder)}: {len(empty)} tensors are empty: {first(empty)}. They were saved "
            "under ZeRO-3 without gathering the weights; save again from a gathered model."
        )
    if not tensors:
        raise Unreadable(f"{shown(folder)}: {WEIGHTS} holds no tensors.")


def _left_in(keys: Collection[_keys.Key], junk: Counter[str]) -> dict[str, int]:
    """Count adapter names left in; two different ones mean two adapters in one file."""
    names = Counter(key.adapter for key in keys if key.adapter)
    if len(names) > 1:
        raise Unreadable(
            f"The file holds several adapters: {first(sorted(names))}. "
            "Save each with PEFT's save_pretrained on its own."
        )
    return {f"adapter name {shown(name)}": count for name, count in names.items()}


def _own(key: _keys.Key, config: Mapping[str, Any]) -> bool:
    """Tell a trained copy from a base weight that PEFT saved along with the adapter."""
    if key.wrapper or key.target.endswith(".bias"):
        return True
    listed = tuple(m for m in config.get("modules_to_save") or [] if isinstance(m, str) and m)
    parts = key.target.split(".")[:-1]
    # peft/utils/other.py, _set_trainable: every module whose name ends so, in midst of a word too.
    around = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return not key.nested and any(module.endswith(listed) for module in around)


def _unique(saved: list[Saved], ignored: dict[str, str]) -> list[Saved]:
    """Keep one tensor per name: PEFT saves some trained copies twice, under two spellings."""
    best: dict[str, Saved] = {}
    for item in sorted(saved, key=lambda s: "modules_to_save" not in s.spec.name):
        kept = best.setdefault(item.name, item)
        if kept is not item:
            if not same(kept.spec, item.spec):
                raise Unreadable(
                    f"{shown(kept.spec.name)} and {shown(item.spec.name)} are two versions of one "
                    "tensor, and they differ. Save the adapter again."
                )
            ignored[item.spec.name] = "saved a second time under another name, equal"
    return list(best.values())


def _rows(key: _keys.Key, spec: TensorSpec, config: Mapping[str, Any]) -> TokenRows:
    said = "trainable_token_indices" if config["peft_type"] == "LORA" else "token_indices"
    wanted = config.get(said)
    if isinstance(wanted, dict):
        wanted = next(
            (v for k, v in wanted.items() if f".{key.target}".endswith(f".{k}")), None
        )  # fmt: skip
    if not isinstance(wanted, list) or not all(type(i) is int and i >= 0 for i in wanted):
        raise Unreadable(
            f"{shown(spec.name)} holds token rows, and {said} in the config does not list which "
            "tokens they are."
        )
    if len(wanted) != spec.rows or len(set(wanted)) != len(wanted):
        raise Mismatch(
            f"{shown(spec.name)} holds {spec.rows} rows, {said} lists "
            f"{len(wanted)} tokens ({len(set(wanted))} different)."
        )
    return TokenRows(target=key.target, spec=spec, indices=tuple(wanted))


def _entry(
    target: str, nested: bool, depth: int, parts: dict[str, TensorSpec], config: Mapping[str, Any]
) -> Entry:
    if config["peft_type"] != "LORA":  # other methods have rules of their own for rank and scale
        return Entry(target=target, parts=parts, scale=1.0, rank=0, nested=nested)
    # A MultiheadAttention's out_proj takes rank and alpha from the attention that it is part of.
    rank, scale = scaled(config, target.rpartition(".")[0] if nested else target)
    return Entry(target=target, parts=parts, scale=scale, rank=rank, nested=nested, depth=depth)
