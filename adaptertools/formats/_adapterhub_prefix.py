"""AdapterHub's prefix tuning as PEFT's, for models that rotate keys by position.

PEFT counts the prefix when it numbers the tokens, AdapterHub does not. A rotation depends on the
distance only: prefix keys turned by as many positions as the prefix is long give the same scores.
arXiv:2104.09864, adapters/methods/prefix_tuning.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools import checkpoint, tensorfile
from adaptertools.errors import Mismatch, Unreadable, Unsupported, first, shown
from adaptertools.formats._adapterhub_kinds import Said
from adaptertools.tensorfile import FLOATS, TensorSpec, same

if TYPE_CHECKING:
    from adaptertools.update import Array

_KEY = re.compile(r"^.*prefix_tunings\.(?P<name>[^.]+)\.(?P<place>[^.]+)\.(?P<role>.+)$")
_ROTARY = ("llama", "mistral")  # of those that the library adapts, all else have positions added
_FLAT = {"control_trans"}
_MLP = {f"control_trans.{layer}.{what}" for layer in (0, 2) for what in ("weight", "bias")}
_ACTIVATIONS = ("tanh", "relu")


def prefix(
    said: Said, tensors: Mapping[str, TensorSpec], base: Path | None
) -> tuple[dict[str, Any], Iterator[tuple[str, Array]]]:  # fmt: skip
    """Give PEFT's config and the prefix; of `base` the config is read.

    Raises Unsupported where PEFT computes something else with any prefix, and without a base.
    """
    own, parts = said.own, _parts(said, tensors)
    why = next((why for key, why in _ODD.items() if own.get(key)), "")
    if said.model not in _ROTARY:
        why = f"{said.model or 'the model'} adds positions to its inputs, which PEFT shifts"
    if why:
        raise Unsupported(
            f"{shown(said.file)}: PEFT has no prefix that does the same: {why}. "
            "Serve it with the adapters library."
        )
    if base is None:
        raise Unsupported(
            f"{shown(said.file)}: the keys of a prefix are turned by their distance, which depends "
            "on the model. Pass it as --base; only its config.json is read."
        )
    config = checkpoint.read_json(base / "config.json")
    length, layers = _size(own, "prefix_length"), _size(config, "num_hidden_layers")
    heads = _size(config, "num_attention_heads")
    groups = _size(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads
    size = _size(config, "head_dim") if config.get("head_dim") else (
        _size(config, "hidden_size") // heads
    )  # fmt: skip
    angles = _angles(config, size, length)
    made = said.peft(
        peft_type="PREFIX_TUNING", num_virtual_tokens=length, num_layers=layers,
        num_attention_heads=groups, token_dim=groups * size, num_transformer_submodules=1,
        prefix_projection=False, encoder_hidden_size=groups * size, task_type="CAUSAL_LM",
    )  # fmt: skip

    def items() -> Iterator[tuple[str, Array]]:
        whole = _whole(said, parts)
        shape = length, layers, 2, groups, size
        if whole.size != length * layers * 2 * groups * size:
            raise Mismatch(
                f"{shown(said.file)}: the prefix has {whole.size} numbers, and {length} tokens of "
                f"the base's {layers} layers make {length * layers * 2 * groups * size}. Pass the "
                "base that it was trained on as --base."
            )
        values = whole.reshape(shape).copy()
        values[:, :, 0] = _turned(values[:, :, 0], angles)
        yield "prompt_embeddings", values.reshape(length, -1).astype("float32")

    return made, items()


_ODD = {
    "use_gating": "gates weigh it by the input",
    "leave_out": "some layers are left out",
}


def _parts(said: Said, tensors: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Give the tensors of the one prefix; each layer's copy of them must be equal."""
    found: dict[str, TensorSpec] = {}
    odd = []
    for name, spec in tensors.items():
        match = _KEY.match(name)
        if not match or match["name"] != said.name or spec.dtype not in FLOATS:
            odd.append(name)
        elif match["place"] != "self_prefix":
            raise Unsupported(
                f"{shown(name)}: a prefix of an encoder or of cross-attention, which PEFT has not. "
                "Serve it with the adapters library."
            )
        elif not same(found.setdefault(match["role"], spec), spec):
            raise Unreadable(f"{shown(name)}: two copies of one tensor differ. Save it again.")
    if odd:
        raise Unsupported(
            f"{first(odd, 3)}: no tensors of a prefix {shown(said.name)}, and leaving them out "
            "could change the result."
        )
    if found.keys() not in (_FLAT, _MLP | {"wte.weight"}):
        raise Unreadable(f"{shown(said.file)}: a prefix of {first(sorted(found))}. Fetch it again.")
    return found


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or not 0 < value < 2**31:
        raise Unreadable(f"{shown(key)} is {shown(value)}, a number was expected.")
    return value


def _whole(said: Said, parts: Mapping[str, TensorSpec]) -> Array:
    """Give the prefix in float64: stored, or what its two layers make of the trained tokens."""
    import numpy as np

    held = {role: tensorfile.read(spec).astype("float64") for role, spec in parts.items()}
    if "control_trans" in held:
        return held["control_trans"]
    kind = str(said.own.get("non_linearity")).lower()
    if kind not in _ACTIVATIONS:
        raise Unsupported(
            f"{shown(said.file)}: non_linearity {shown(kind)}. Known: {', '.join(_ACTIVATIONS)}. "
            "Make the prefix flat with eject_prefix_tuning, and save it again."
        )
    inner = held["wte.weight"] @ held["control_trans.0.weight"].T + held["control_trans.0.bias"]
    inner = np.tanh(inner) if kind == "tanh" else np.maximum(inner, 0)
    made: Array = inner @ held["control_trans.2.weight"].T + held["control_trans.2.bias"]
    return made


def _angles(config: Mapping[str, Any], size: int, length: int) -> Array:
    """Give by how much each pair of a key turns over the whole prefix."""
    import numpy as np

    said = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = said.get("rope_type") or said.get("type") or "default"
    theta = said.get("rope_theta") or config.get("rope_theta") or 10000.0
    partial = said.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1
    if kind not in ("default", "linear") or partial != 1 or config.get("sliding_window"):
        raise Unsupported(
            f"The base has rope_type {shown(kind)}, partial_rotary_factor {shown(partial)} and "
            f"sliding_window {shown(config.get('sliding_window'))}; a prefix is exact only where "
            "all keys turn evenly and are all seen. Serve it with the adapters library."
        )
    factor = float(said.get("factor") or 1) if kind == "linear" else 1.0
    made: Array = length / factor * float(theta) ** (-np.arange(0, size, 2) / size)
    return made


def _turned(keys: Array, angles: Array) -> Array:
    """Turn keys whose pairs lie half a head apart."""
    import numpy as np

    one, two = np.split(keys, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    made: Array = np.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1)
    return made
