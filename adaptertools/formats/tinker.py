"""Tinker's LoRA, read only: PEFT's files with a few names and shapes of its own.

`unembed_tokens` is the head. Experts lie in three axes, w1, w2 and w3 for gate, down and up, where
a first axis of 1 is shared by all; a projection that a model lacks is empty. The scale is alpha / r
of the config for all. Facts from tinker_cookbook/weights/_adapter.py and _merge_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools import checkpoint, tensorfile
from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, Unreadable, Unsupported, first, shown
from adaptertools.formats._normal import spooled
from adaptertools.formats._peft_write import key
from adaptertools.formats._scaled import scaled_config
from adaptertools.tensorfile import FLOATS, TensorSpec, read_header

if TYPE_CHECKING:
    from adaptertools.update import Array

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PROVED = "nothing of Tinker's, which is a service; by the sources of its cookbook of 2026-09"

_KEY = re.compile(r"^base_model\.model\.(?P<target>.+)\.(?P<role>lora_[AB])\.weight$")
_EXPERTS = re.compile(r"^(?P<stem>.+\.experts)\.(?P<part>w[123])$")
_PARTS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_HEAD = "model.unembed_tokens"
# Parts of modules that transformers has in one, by rows whose number only the base knows.
_FUSED = re.compile(r"\.linear_attn\.in_proj_[qkv]$|\.mixer\.(?:gate_proj|x_proj)$")
_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
_Found = Mapping[str, Mapping[str, TensorSpec]]


def matches(files: Collection[str]) -> bool:
    """Tell nothing: the files have PEFT's names, and PEFT's reader hands on what is Tinker's."""
    return False


def own(tensors: Mapping[str, TensorSpec]) -> bool:
    """Tell whether there are names that only Tinker gives."""
    targets = {match["target"]: spec for n, spec in tensors.items() if (match := _KEY.match(n))}
    return any(
        target == _HEAD or (_EXPERTS.match(target) and len(spec.shape) == 3)
        for target, spec in targets.items()
    )


def read(path: Path, ref: str, base: Path | None = None) -> Adapter:
    """Read a folder of Tinker's; the factors go to a temporary file under PEFT's names.

    `base` is the base's folder, for models whose layers lie below a language_model, and for
    experts that share all. Raises Unreadable where config or tensors are missing, Unsupported for
    names that are not known, Mismatch for shapes that do not fit.
    """
    folder = path if path.is_dir() else path.parent
    config = checkpoint.read_json(folder / CONFIG)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if type(rank) is not int or not 0 < rank < 2**31 or not number or abs(alpha or 0) > 1e30:
        raise Unreadable(
            f"{shown(folder / CONFIG)}: r is {shown(rank)} and lora_alpha {shown(alpha)}; two "
            "numbers were expected. Download it again."
        )
    found = _modules(read_header(folder / WEIGHTS).tensors, folder)
    names = {target: _names(target, parts, base) for target, parts in found.items()}
    ranks = {
        name: (parts["lora_A"].shape[-2], float(alpha or 0) * parts["lora_A"].shape[-2] / rank)
        for target, parts in found.items()
        for name in names[target]
    }
    said = {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.get("base_model_name_or_path"),
    }
    return spooled(scaled_config(ranks, **said), _tensors(found, names), folder, ref, "tinker")


def _modules(tensors: Mapping[str, TensorSpec], folder: Path) -> _Found:
    """Group the factors by module, without the empty ones; none may be left over."""
    found: dict[str, dict[str, TensorSpec]] = {}
    odd = []
    for name, spec in tensors.items():
        match = _KEY.match(name)
        if not match or spec.dtype not in FLOATS or _FUSED.search(match["target"]):
            odd.append(name)
            continue
        found.setdefault(match["target"], {})[match["role"]] = spec
    if odd:
        raise Unsupported(
            f"{shown(folder)}: {first(odd, 3)} are no factors whose place in transformers' model "
            "is known, and leaving them out could change the result. Export it with "
            "tinker_cookbook's build_lora_adapter."
        )
    for target, parts in list(found.items()):
        if all(0 in spec.shape for spec in parts.values()) and _EXPERTS.match(target):
            del found[target]
        elif len(parts) < 2 or not _fits(target, parts["lora_A"].shape, parts["lora_B"].shape):
            shapes = {role: list(spec.shape) for role, spec in parts.items()}
            raise Mismatch(f"{shown(target)}: {shown(shapes)} make no update. Download it again.")
    if not found:
        raise Unreadable(f"{shown(folder / WEIGHTS)} holds no factors. Download it again.")
    return found


def _fits(target: str, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Hold the shapes of the factors against one another."""
    axes = 3 if _EXPERTS.match(target) else 2
    if not len(a) == len(b) == axes or 0 in (*a, *b) or a[-2] != b[-1]:
        return False
    return axes == 2 or 1 in (a[0], b[0]) or a[0] == b[0]


def _names(target: str, parts: Mapping[str, TensorSpec], base: Path | None) -> list[str]:
    """Give the modules of transformers that a target is, one for each expert."""
    name = target.replace(".attn.", ".self_attn.")  # of GPT-OSS
    if target == _HEAD:
        return ["lm_head"]
    if base and name.startswith("model.") and _below(base):
        name = f"model.language_model.{name.removeprefix('model.')}"
    if not (match := _EXPERTS.match(name)):
        return [name]
    count = max(spec.shape[0] for spec in parts.values())
    if count == 1:
        count = _count(target, base)
    return [f"{match['stem']}.{at}.{_PARTS[match['part']]}" for at in range(count)]


def _below(base: Path) -> bool:
    names = checkpoint.read(base, str(base)).tensors
    return any(name.startswith("model.language_model.") for name in names)


def _count(target: str, base: Path | None) -> int:
    config: Mapping[str, Any] = checkpoint.read_json(base / "config.json") if base else {}
    inner = config.get("text_config")
    places = [config, inner if isinstance(inner, dict) else {}]
    found = next((place[k] for place in places for k in _COUNTS if place.get(k)), None)
    if type(found) is not int or not 0 < found < 2**16:
        raise Unsupported(
            f"{shown(target)} is one update for all experts, and nothing says how many there are. "
            "Pass the model as --base; its config.json says it."
        )
    return found


def _tensors(found: _Found, names: Mapping[str, list[str]]) -> Iterator[tuple[str, Array]]:
    for target, parts in found.items():
        for role, spec in parts.items():
            values = tensorfile.read(spec)
            for at, name in enumerate(names[target]):
                one = values if values.ndim == 2 else values[at if len(values) > 1 else 0]
                yield key(name, role), one
