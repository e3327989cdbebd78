"""MLX-LM's adapters as PEFT's: transposed back, stacked experts one by one, alpha = scale · r."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools import checkpoint, tensorfile
from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, Unreadable, Unsupported, first, shown
from adaptertools.formats._mlx_names import experts, is_embedding, ours
from adaptertools.formats._normal import spooled
from adaptertools.formats._peft_write import key
from adaptertools.tensorfile import FLOATS, TensorSpec, read_header

if TYPE_CHECKING:
    from adaptertools.update import Array

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
_ROLES = ("lora_a", "lora_b", "m")
_Parts = Mapping[str, TensorSpec]


def read(path: Path, ref: str) -> Adapter:
    """Read an adapter of MLX-LM; its factors are written to a temporary file in PEFT's order.

    Raises Unreadable where config or weights are damaged, Unsupported for a full fine-tune and a
    DoRA of an embedding, Mismatch where factors do not fit one another or the config.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / CONFIG).is_file():
        raise Unreadable(
            f"{shown(folder)} has {WEIGHTS} and no {CONFIG}: its rank and scale are not known. "
            "Fetch it too."
        )
    config = checkpoint.read_json(folder / CONFIG)
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise Unsupported(
            f"{shown(folder)}: fine_tune_type is {shown(kind)}, whose weights are whole ones. "
            "Fuse them with mlx-lm, then run `adaptertools extract`."
        )
    rank, scale = _settings(config, folder)
    modules = _modules(folder / WEIGHTS)
    for name, parts in modules.items():
        _check(name, parts, rank, kind == "dora")
    return spooled(_config(config, modules, rank, scale, kind), _tensors(modules), folder, ref,
                   "mlx")  # fmt: skip


def _settings(config: Mapping[str, Any], folder: Path) -> tuple[int, float]:
    said = config.get("lora_parameters")
    said = said if isinstance(said, dict) else {}
    rank, scale = said.get("rank"), said.get("scale")
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if type(rank) is not int or not 0 < rank < 2**31 or not number or not abs(scale or 0) < 1e30:
        raise Unreadable(
            f"{shown(folder / CONFIG)}: lora_parameters gives rank {shown(rank)} and scale "
            f"{shown(scale)}; two numbers were expected."
        )
    return rank, float(scale or 0)


def _modules(path: Path) -> dict[str, dict[str, TensorSpec]]:
    """Group the tensors by module; none may be left over."""
    found: dict[str, dict[str, TensorSpec]] = {}
    odd = []
    for name, spec in read_header(path).tensors.items():
        module, _, role = name.rpartition(".")
        if role not in _ROLES or not module:
            odd.append(name)
        found.setdefault(module, {})[role] = spec
    if odd:
        raise Unsupported(
            f"{shown(path)}: {first(odd)} are no factors of MLX-LM's LoRA, and leaving them out "
            "could change the result. Remove them if they say nothing."
        )
    if not found:
        raise Unreadable(f"{shown(path)} holds no tensors.")
    return found


def _check(name: str, parts: _Parts, rank: int, dora: bool) -> None:
    missing = {"lora_a", "lora_b"} | ({"m"} if dora else set())
    if missing - parts.keys() or (not dora and "m" in parts):
        raise Unreadable(
            f"{shown(name)} has {first(sorted(parts))}, and {first(sorted(missing))} were expected."
        )
    a, b = parts["lora_a"], parts["lora_b"]
    if {spec.dtype for spec in parts.values()} - FLOATS.keys():
        raise Unsupported(f"{shown(a.name)} is stored as {a.dtype}; floats were expected.")
    stacked = experts(name, 0) is not None
    if stacked:
        fits = len(a.shape) == len(b.shape) == 3 and a.shape[:2] == (b.shape[0], b.shape[2])
        ranks = a.shape[1:2]
    else:
        fits = len(a.shape) == len(b.shape) == 2 and a.shape[1] == b.shape[0]
        ranks = a.shape[1:]
    if not fits or ranks != (rank,):
        raise Mismatch(
            f"{shown(name)}: lora_a is {list(a.shape)} and lora_b {list(b.shape)}, and the config "
            f"says rank {rank}. Put the config beside the weights that it was saved with."
        )
    if dora and (is_embedding(name) or stacked):
        raise Unsupported(
            f"{shown(name)}: MLX-LM's DoRA of an embedding scales by token, which PEFT cannot say. "
            "Fuse it with mlx-lm instead."
        )


def _tensors(modules: Mapping[str, _Parts]) -> Iterator[tuple[str, Array]]:
    for name, parts in modules.items():
        a, b = tensorfile.read(parts["lora_a"]), tensorfile.read(parts["lora_b"])
        stacked = experts(name, a.shape[0])
        if stacked:
            for target, down, up in zip(stacked, a, b, strict=True):
                yield key(target, "lora_A"), down
                yield key(target, "lora_B"), up
            continue
        start = "lora_embedding_" if is_embedding(name) else "lora_"
        yield key(ours(name), f"{start}A"), a.T
        yield key(ours(name), f"{start}B"), b.T
        if "m" in parts:
            magnitude = tensorfile.read(parts["m"])
            yield key(ours(name), "lora_magnitude_vector").removesuffix(".weight"), magnitude


def _config(
    own: Mapping[str, Any], modules: Mapping[str, _Parts], rank: int, scale: float, kind: str
) -> dict[str, Any]:
    targets: list[str] = []
    for name, parts in modules.items():
        targets += experts(name, parts["lora_a"].shape[0]) or [ours(name)]
    alpha = scale * rank
    base = own.get("model")
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "base_model_name_or_path": base if isinstance(base, str) else None, "bias": "none",
        "target_modules": sorted(targets), "use_dora": kind == "dora", "use_rslora": False,
        "lora_dropout": 0.0, "inference_mode": True, "init_lora_weights": True,
        "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
    }  # fmt: skip
