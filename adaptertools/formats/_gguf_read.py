"""A GGUF adapter in PEFT's words: modules named, rows of q and k put back, experts apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, Unreadable, Unsupported, first, shown
from adaptertools.formats import _gguf_base, _gguf_blocks, _gguf_file, _gguf_names
from adaptertools.formats._gguf_base import Base
from adaptertools.formats._gguf_file import Gguf, Held
from adaptertools.formats._normal import spooled
from adaptertools.formats._peft_write import key

if TYPE_CHECKING:
    from adaptertools.update import Array

_HUB = "https://huggingface.co/"
_SUFFIXES = (".lora_a", ".lora_b")
_Pairs = Mapping[str, Mapping[str, Held]]


def read(path: Path, ref: str, base: Path | None = None) -> Adapter:
    """Read a GGUF adapter into the normal form, under the names that transformers uses.

    `base` is a folder with a config.json, or the base's GGUF file; it is asked where llama.cpp
    reorders rows by the number of heads and the file does not say it. Raises Unreadable where the
    file is damaged, Unsupported where it is a model or of an architecture that is not known.
    """
    file = _gguf_file.read(_only(path))
    _check(file)
    known = _base(file, base)
    pairs, ignored = _pairs(file)
    modules = {name: _modules(known, name, pair) for name, pair in pairs.items()}
    ranks = {m: pairs[n]["b"].shape[-1] for n, found in modules.items() for m in found}
    made = spooled(
        _config(file, ranks, known), _tensors(file, known, pairs, modules), path, ref, "gguf"
    )
    return replace(made, ignored={**made.ignored, **ignored})


def _only(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        raise Unreadable(
            f"{shown(path)} holds {len(found)} GGUF files: {first(f.name for f in found)}. "
            "Name the one that is meant."
        )
    return found[0]


def _check(file: Gguf) -> None:
    kind, of = (file.keys.get(k) for k in ("general.type", "adapter.type"))
    if kind != "adapter":
        raise Unsupported(
            f"{shown(file.path)} is a GGUF of the type {shown(kind or 'model')}, and an adapter "
            "was expected. A model that was merged cannot be taken apart again."
        )
    if of != "lora":
        raise Unsupported(f"{shown(file.path)} is an adapter of the type {shown(of)}, not lora.")


def _base(file: Gguf, base: Path | None) -> Base:
    if base is None:
        return _gguf_base.of_adapter(file)
    known = _gguf_base.of(base)
    if known.arch != file.arch:
        raise Mismatch(
            f"{shown(file.path)} is for the architecture {shown(file.arch)}, and the base is of "
            f"{shown(known.arch)}."
        )
    return known


def _pairs(file: Gguf) -> tuple[_Pairs, dict[str, str]]:
    """Bring the two tensors of each weight together; norms are what llama.cpp leaves out too."""
    pairs: defaultdict[str, dict[str, Held]] = defaultdict(dict)
    ignored = {}
    for name, held in file.tensors.items():
        if name.endswith(_SUFFIXES):
            _gguf_blocks.check(file, held)
            pairs[name[:-7]][name[-1]] = held
        elif name.endswith("_norm.weight"):
            ignored[name] = "a norm's weight, which llama.cpp does not apply"
        else:
            raise Unreadable(f"{shown(file.path)}: {shown(name)} is no tensor of a LoRA.")
    for name, pair in pairs.items():
        _fit(name, pair)
    if not pairs:
        raise Unreadable(f"{shown(file.path)} holds no LoRA.")
    return pairs, ignored


def _fit(name: str, pair: Mapping[str, Held]) -> None:
    if len(pair) < 2:
        raise Unreadable(f"{shown(name)} has no lora_{'b' if 'a' in pair else 'a'}.")
    down, up = pair["a"].shape, pair["b"].shape
    axes = 3 if "_exps." in name else 2
    rank = down[-1] if name.startswith("token_embd.") else down[-2] if len(down) > 1 else 0
    if len(down) != axes or len(up) != axes or up[-1] != rank or down[:-2] != up[:-2]:
        raise Mismatch(f"{shown(name)}: lora_a {list(down)} and lora_b {list(up)} do not fit.")


def _modules(base: Base, name: str, pair: Mapping[str, Held]) -> list[str]:
    """Name the modules that a weight holds: one, or every expert."""
    _, target = _gguf_names.target(base.known, name)
    return [target.format(i) for i in range(pair["a"].shape[0])] if "{}" in target else [target]


def _tensors(
    file: Gguf, base: Base, pairs: _Pairs, modules: Mapping[str, list[str]]
) -> Iterator[tuple[str, Array]]:
    for name, pair in pairs.items():
        place, _ = _gguf_names.target(base.known, name)
        down, up = (_gguf_blocks.load(file, pair[side]) for side in "ab")
        if place.part == "token_embd":
            yield key(modules[name][0], "lora_embedding_A"), down.T
            yield key(modules[name][0], "lora_embedding_B"), up
            continue
        if heads := base.rows(place.part):
            up = _gguf_blocks.interleaved(up, heads, name, back=True)
        stacked = zip(down, up, strict=True) if down.ndim == 3 else ((down, up),)
        for module, (a, b) in zip(modules[name], stacked, strict=True):
            yield key(module, "lora_A"), a
            yield key(module, "lora_B"), b


def _config(file: Gguf, ranks: Mapping[str, int], base: Base) -> dict[str, Any]:
    """Give PEFT's config: alpha over each rank, and every scale 1 where the file has no alpha."""
    alpha = file.keys.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not abs(alpha) < 1e30:
        raise Unreadable(f"{shown(file.path)}: adapter.lora.alpha is {shown(alpha)}.")
    counted = Counter(ranks.values())
    usual = max(counted, key=lambda rank: (counted[rank], rank))
    patterns = {name: rank for name, rank in ranks.items() if rank != usual}
    number: float = int(alpha) if alpha == int(alpha) else alpha
    config: dict[str, Any] = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": usual,
        "lora_alpha": number or usual, "rank_pattern": patterns,
        "alpha_pattern": {} if alpha else patterns, "target_modules": _targets(ranks, base),
        "bias": "none", "inference_mode": True, "init_lora_weights": True, "lora_dropout": 0.0,
        "use_rslora": False, "use_dora": False, "fan_in_fan_out": base.arch == "gpt2",
        "base_model_name_or_path": _named(file),
    }  # fmt: skip
    tokens = file.keys.get("adapter.alora.invocation_tokens")
    return config | ({"alora_invocation_tokens": tokens} if isinstance(tokens, list) else {})


def _targets(ranks: Mapping[str, int], base: Base) -> list[str]:
    """Name the kinds of module where every layer has them all, else each module in full."""
    layers, kinds = set(), defaultdict(set)
    for name in ranks:
        inside = name.removeprefix(base.known.layers)
        block = inside.partition(".")[0] if inside != name else ""
        layers.add(block)
        kinds[name.rpartition(".")[2]].add(block)
    layers.discard("")
    whole = all(found in ({""}, layers) for found in kinds.values())
    plain = not any(".experts." in name for name in ranks)
    return sorted(kinds) if whole and plain and len(layers) == base.blocks else sorted(ranks)


def _named(file: Gguf) -> str | None:
    url, name = (file.keys.get(f"general.base_model.0.{k}") for k in ("repo_url", "name"))
    if isinstance(url, str) and url.startswith(_HUB):
        return url.removeprefix(_HUB)
    return name if isinstance(name, str) else None
