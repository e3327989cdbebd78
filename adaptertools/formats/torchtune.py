"""torchtune's adapter_model.pt, read only: its own names, and rows of q and k in another order.

torchtune keeps the two halves of a rotation beside each other, transformers one after the other.
Facts from torchtune/models/convert_weights.py, which leaves q's and k's DoRA magnitudes in the
wrong order; so an adapter is better read from this file than from torchtune's own PEFT export.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools import checkpoint, tensorfile
from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, Unreadable, Unsupported, first, shown
from adaptertools.formats import _bin
from adaptertools.formats._normal import spooled
from adaptertools.formats._peft_write import key
from adaptertools.formats._scaled import scaled_config
from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array

NAME, CONFIG = "adapter_model.pt", "adapter_config.json"
PROVED = "torchtune 0.6.1's own conversion, but for its fault in the magnitudes of q and k"

_KEY = re.compile(
    r"^(?P<target>output|layers\.\d+\.(?:attn|mlp)\.\w+)\.(?P<role>lora_[ab]\.weight|magnitude)$"
)
_NAMES: Mapping[str, str] = {
    "attn.q_proj": "self_attn.q_proj", "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj", "attn.output_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.gate_proj", "mlp.w2": "mlp.down_proj", "mlp.w3": "mlp.up_proj",
}  # fmt: skip
_ROLES = {
    "lora_a.weight": "lora_A",
    "lora_b.weight": "lora_B",
    "magnitude": "lora_magnitude_vector",
}
_HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}


def matches(files: Collection[str]) -> bool:
    """Tell whether there is a file of torchtune's name."""
    return NAME in files


def read(path: Path, ref: str, base: Path | None = None) -> Adapter:
    """Read a pickle of torchtune, without unpickling, and the config beside it.

    `base` is the base's folder, whose config.json has the numbers of heads. Raises Unsupported
    where it is needed and not given, and for modules of other models than Llama's kind; Unreadable
    where rank and alpha are not known, or tensors are missing.
    """
    file = path / NAME if path.is_dir() else path
    said = checkpoint.read_json(file.with_name(CONFIG)) if _beside(file) else {}
    rank, alpha = said.get("r"), said.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise Unreadable(
            f"{shown(file)}: no {CONFIG} beside it gives r and lora_alpha, so its scale is not "
            "known. Fetch the one that torchtune wrote."
        )
    found = _modules(_bin.tensors(file), file, rank)
    heads = checkpoint.read_json(base / "config.json") if base else {}
    if (turned := [t for t in found if t.rpartition(".")[2] in _HEADS]) and not base:
        raise Unsupported(
            f"{first(turned, 2)}: torchtune has their rows in another order, which depends on the "
            "number of heads. Pass the model as --base; only its config.json is read."
        )
    dora = any("lora_magnitude_vector" in parts for parts in found.values())
    config = scaled_config(
        dict.fromkeys(found, (rank, float(alpha))), use_dora=dora, task_type="CAUSAL_LM",
        base_model_name_or_path=said.get("base_model_name_or_path"),
    )  # fmt: skip
    return spooled(config, _tensors(found, heads), path, ref, "torchtune")


def _beside(file: Path) -> bool:
    return file.with_name(CONFIG).is_file()


def _modules(
    tensors: Mapping[str, TensorSpec], file: Path, rank: int
) -> dict[str, dict[str, TensorSpec]]:
    found: dict[str, dict[str, TensorSpec]] = {}
    odd = []
    for name, spec in tensors.items():
        match = _KEY.match(name)
        target = _target(match["target"]) if match else ""
        if match is None or not target:
            odd.append(name)
            continue
        found.setdefault(target, {})[_ROLES[match["role"]]] = spec
    if odd:
        raise Unsupported(
            f"{shown(file)}: {first(odd, 3)} are no factors in torchtune's names for a Llama, Qwen "
            "or Mistral, and leaving them out could change the result."
        )
    for target, parts in found.items():
        if not {"lora_A", "lora_B"} <= parts.keys() or parts["lora_A"].shape[0] != rank:
            raise Unreadable(
                f"{shown(target)} has not both factors of rank {rank}. Put the config beside the "
                "weights that it was saved with."
            )
    return found


def _target(name: str) -> str:
    if name == "output":
        return "lm_head"
    layer = ".".join(name.split(".")[:2])
    own = _NAMES.get(name.removeprefix(f"{layer}."))
    return f"model.{layer}.{own}" if own else ""


def _tensors(
    found: Mapping[str, dict[str, TensorSpec]], heads: Mapping[str, Any]
) -> Iterator[tuple[str, Array]]:
    for target, parts in found.items():
        count = _HEADS.get(target.rpartition(".")[2])
        for role, spec in parts.items():
            values = tensorfile.read(spec)
            if count and role != "lora_A":
                values = _ordered(
                    values, heads.get(count, heads.get("num_attention_heads")), target
                )
            name = key(target, role)
            yield name.removesuffix(".weight") if role.endswith("vector") else name, values


def _ordered(values: Array, heads: object, target: str) -> Array:
    """Put the halves of each head's rotation one after the other, by rows."""
    if type(heads) is not int or heads < 1 or len(values) % (2 * heads):
        raise Mismatch(
            f"{shown(target)} has {len(values)} rows, and the base {shown(heads)} heads. Give the "
            "base that it was trained on."
        )
    split = values.reshape(heads, len(values) // heads // 2, 2, -1).swapaxes(1, 2)
    ordered: Array = split.reshape(values.shape)
    return ordered
