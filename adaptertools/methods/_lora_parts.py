"""Which tensors can be part of one LoRA update, and fit one another."""

from __future__ import annotations

from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, Unreadable, Unsupported, shown
from adaptertools.tensorfile import FLOATS
from adaptertools.update import Matrix

# Tensors that only some adapters have, and the config key that says so.
_FLAGS = {
    "lora_magnitude_vector": "use_dora",
    "lora_diag": "kasa_config",
    "lora_B.bias": "lora_bias",
}


def check_parts(site: Site) -> None:
    """Refuse tensors that cannot all be part of one update, before any of them is used."""
    parts = site.entry.parts
    for part in parts.values():
        if part.dtype not in FLOATS:
            raise Unsupported(
                f"{shown(part.name)} is stored as {part.dtype}; a float was expected."
            )
    if "lora_embedding_A" in parts and parts.keys() & {"lora_A", "lora_B", "lora_B.bias"}:
        raise Unreadable(
            f"{shown(site.entry.target)} has lora_A or lora_B beside lora_embedding_A: it cannot "
            "be a linear layer and an embedding. Save the adapter again."
        )
    if site.entry.nested and not site.attention:
        raise Unreadable(
            f"{shown(site.entry.target)} is stored under the base_layer of another adapted module, "
            "and the base has no MultiheadAttention there. Save the adapter again."
        )
    for role, key in _FLAGS.items():
        if role in site.entry.parts and not site.config.get(key):
            raise Unreadable(
                f"{shown(site.entry.target)} has a {role}, and {key} is not set in "
                f"adapter_config.json. Set {key} if it was used in training, or remove the tensor."
            )


def check_inner(site: Site, up: Matrix, down: Matrix) -> None:
    """Refuse factors that do not fit one another."""
    diagonal = site.entry.parts.get("lora_diag")
    if up.shape[1] != down.shape[0] or (diagonal and diagonal.shape != (down.shape[0],)):
        raise Mismatch(
            f"{shown(site.entry.target)}: lora_B takes {up.shape[1]} values and lora_A gives "
            f"{down.shape[0]}; they are not of one adapter. Save it again."
        )
