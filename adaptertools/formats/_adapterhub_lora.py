"""AdapterHub's LoRA, DoRA, VeRA and (IA)³ as PEFT's.

Where one weight holds q, k and v, each has factors of its own, and the thirds of the weight are
theirs: side by side their ranks add up. Facts from adapters/methods/lora.py, run with 1.3.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.errors import Mismatch, Unreadable, Unsupported, first, shown
from adaptertools.formats._adapterhub_kinds import Said
from adaptertools.formats._peft_write import key
from adaptertools.formats._scaled import scaled_config
from adaptertools.formats._side_by_side import joined
from adaptertools.tensorfile import FLOATS, TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array

_Parts = Mapping[str, TensorSpec]
_KEY = re.compile(r"^(?P<target>.+)\.loras\.(?P<name>[^.]+)\.(?P<role>.+)$")
_SHARED = re.compile(r"^(?:.+\.)?shared_parameters\.(?P<name>[^.]+)\.(?P<role>lora_[AB])$")
_MERGED = ("c_attn", "in_proj", "Wqkv", "qkv")  # weights that hold q, k and v
_TURNED = ("gpt2",)  # models whose weights are stored (in, out)
_ROLES = {"LORA": ({"lora_A", "lora_B"}, {"vera_D", "vera_B"}), "IA3": ({"lora_B"},)}


def lora(said: Said, tensors: _Parts) -> tuple[dict[str, Any], Iterator[tuple[str, Array]]]:
    """Give PEFT's config of a LoRA, and its tensors; a VeRA's products are written out.

    Raises Unsupported where a tensor is no factor, Mismatch where shapes do not fit.
    """
    found, shared = _modules(said, tensors)
    rank, alpha = said.scale
    dora = bool(said.own.get("use_dora"))
    if dora and (alpha != rank or said.model in _TURNED):
        raise Unsupported(
            f"{shown(said.file)}: DoRA with alpha {alpha:g} and r {rank}. AdapterHub divides by "
            "norms of W + B·A without the scale, or over the other axis of this model; PEFT cannot "
            "say that. Merge it with the adapters library."
        )
    counts = {target: _count(target, parts, rank, shared) for target, parts in found.items()}
    config = scaled_config(
        {target: (rank * n, alpha * n) for target, n in counts.items()},
        **said.peft(use_dora=dora, fan_in_fan_out=said.model in _TURNED),
    )
    return config, _factors(said, found, shared)


def ia3(said: Said, tensors: _Parts) -> tuple[dict[str, Any], Iterator[tuple[str, Array]]]:
    """Give PEFT's config of an (IA)³ that scales outputs, and its tensors."""
    found, _ = _modules(said, tensors)
    config = said.peft(
        peft_type="IA3", target_modules=sorted(found), feedforward_modules=[],
        fan_in_fan_out=said.model in _TURNED, init_ia3_weights=True,
    )  # fmt: skip
    return config, _scales(said, found)


def targets(said: Said, tensors: _Parts) -> list[str]:
    """Name the modules."""
    return list(_modules(said, tensors)[0])


def _modules(said: Said, tensors: _Parts) -> tuple[dict[str, dict[str, TensorSpec]], _Parts]:
    """Group the tensors by module, and give VeRA's shared ones; none may be left over."""
    found: dict[str, dict[str, TensorSpec]] = {}
    shared, odd = {}, []
    for name, spec in tensors.items():
        own, common = _KEY.match(name), _SHARED.match(name)
        if spec.dtype not in FLOATS or said.name not in (
            own and own["name"], common and common["name"]
        ):  # fmt: skip
            odd.append(name)
        elif own:
            found.setdefault(own["target"], {})[own["role"]] = spec
        elif common:
            shared[common["role"]] = spec
    if odd:
        raise Unsupported(
            f"{first(odd, 3)}: no tensors of an adapter {shown(said.name)} that is {said.kind}, "
            "and leaving them out could change the result."
        )
    wanted = {"m.weight"} if said.own.get("use_dora") else set()
    for target, parts in found.items():
        if parts.keys() - wanted not in _ROLES[said.kind] or not wanted <= parts.keys():
            raise Unreadable(
                f"{shown(target)} has {first(sorted(parts))}, which makes no {said.kind}. "
                "Fetch it again."
            )
    if not found:
        raise Unreadable(f"{shown(said.file)}: there are no tensors beside it.")
    return found, shared


def _slots(said: Said) -> str:
    listed = said.own.get("attn_matrices")
    return "".join(s for s in "qkv" if isinstance(listed, list) and s in listed)


def _holds_all(target: str) -> bool:
    return target.rpartition(".")[2] in _MERGED


def _count(target: str, parts: _Parts, rank: int, shared: _Parts) -> int:
    """Give how many weights' factors a module has; 1 of one that is not q, k and v in one."""
    if "vera_D" in parts:
        _check_vera(target, parts, rank, shared)
        return 1
    down, up = parts["lora_A"].shape, parts["lora_B"].shape
    n = down[0] // rank if _holds_all(target) else 1
    if len(down) != 2 or len(up) != 2 or n < 1 or (down[0], up[1]) != (n * rank, rank):
        raise Mismatch(
            f"{shown(target)}: lora_A is {list(down)} and lora_B {list(up)}, and the config says "
            f"rank {rank}. Put the config beside the weights that it was saved with."
        )
    return n


def _check_vera(target: str, parts: _Parts, rank: int, shared: _Parts) -> None:
    b, a = shared.get("lora_B"), shared.get("lora_A")
    if a is None or b is None or _holds_all(target):
        raise Unsupported(
            f"{shown(target)}: a VeRA without its shared matrices, or of q, k and v in one weight, "
            "which AdapterHub does not apply in parts. Train it again."
        )
    shapes = parts["vera_D"].shape, a.shape[:1], parts["vera_B"].shape, b.shape
    if shapes != ((rank, rank), (rank,), (b.rows, b.rows), (b.rows, rank)):
        raise Mismatch(
            f"{shown(target)}: vera_D is {list(shapes[0])} and vera_B {list(shapes[2])}, and the "
            f"shared matrices {list(a.shape)} and {list(b.shape)} at rank {rank}. Fetch it again."
        )


def _factors(
    said: Said, found: Mapping[str, _Parts], shared: _Parts
) -> Iterator[tuple[str, Array]]:
    for target, parts in found.items():
        down, up = _pair(said, target, parts, shared)
        yield key(target, "lora_A"), down
        yield key(target, "lora_B"), up
        if "m.weight" in parts:
            name = key(target, "lora_magnitude_vector").removesuffix(".weight")
            yield name, tensorfile.read(parts["m.weight"]).reshape(-1)


def _pair(said: Said, target: str, parts: _Parts, shared: _Parts) -> tuple[Array, Array]:
    if "vera_D" in parts:
        # Both are trained whole, though they begin as diagonals. Rounded once, to float32.
        wide = {r: tensorfile.read(s).astype("float64") for r, s in {**shared, **parts}.items()}
        down, up = wide["vera_D"] @ wide["lora_A"], wide["vera_B"] @ wide["lora_B"]
        return down.astype("float32"), up.astype("float32")
    down, up = tensorfile.read(parts["lora_A"]), tensorfile.read(parts["lora_B"])
    if not _holds_all(target):
        return down, up
    slots = _thirds(said, target, len(down) // up.shape[1])
    rank, rows = up.shape[1], len(up) // len(slots)
    pairs = {
        slot: (down[i * rank : (i + 1) * rank], up[i * rows : (i + 1) * rows])
        for i, slot in enumerate(slots)
    }
    return joined([pairs.get(slot) for slot in "qkv"], [rows] * 3)


def _thirds(said: Said, target: str, count: int) -> str:
    slots = _slots(said)
    if len(slots) != count:
        raise Mismatch(
            f"{shown(target)} has factors of {count} of q, k and v, and attn_matrices names "
            f"{len(slots)}. Put the config beside the weights that it was saved with."
        )
    return slots


def _scales(said: Said, found: Mapping[str, _Parts]) -> Iterator[tuple[str, Array]]:
    """Give the factors of outputs; those of thirds that are not adapted are 1, times alpha."""
    import numpy as np

    _, alpha = said.scale
    for target, parts in found.items():
        values = tensorfile.read(parts["lora_B"])
        if values.ndim != 2 or values.shape[1] != 1:
            raise Mismatch(f"{shown(target)}: lora_B is {list(values.shape)}, (out, 1) expected.")
        if _holds_all(target):
            slots = _slots(said) or "qkv"
            rows = len(values) // len(slots)
            parts_ = {slot: values[i * rows : (i + 1) * rows] for i, slot in enumerate(slots)}
            ones = np.ones((rows, 1), values.dtype)
            values = np.concatenate([parts_.get(slot, ones) for slot in "qkv"])
        if alpha != 1:
            values = (values.astype("float64") * alpha).astype(values.dtype)
        yield key(target, "ia3_l").removesuffix(".weight"), values
