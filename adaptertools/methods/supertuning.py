"""Super-Tuning: the entries of largest (or smallest) magnitude.  https://arxiv.org/abs/2607.09287

W.flat[indices[k]] += values[k], and with `r` (Supra) + lora_alpha / r · B · A. Without saved
indices they are those of topk(|W|) in its order, which entries of equal magnitude leave open: the
fold refuses them. After peft/tuners/supertuning/layer.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools.adapter import Factor, Site
from adaptertools.errors import Mismatch, Unreadable, Unsupported, shown
from adaptertools.methods._entries import Chosen
from adaptertools.methods._parts import features, number, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.lowrank import LowRank
from adaptertools.update.scatter import Scatter

peft_type = "SUPERTUNING"

tensors = {
    "supertuning_values": "what is added to the entries (n)",
    "supertuning_indices": "their places in the flattened weight (n)",
    "supertuning_lora_A": "down projection of Supra (r, in)",
    "supertuning_lora_B": "up projection of Supra (out, r)",
}


def check(config: Mapping[str, Any]) -> None:
    """Refuse a config without sparsity, and Supra without its scale."""
    number(config, "sparsity")
    if config.get("r"):
        number(config, "lora_alpha")


def updates(site: Site) -> Iterator[Update]:
    """Give the updates of the weight: entries, and Supra's product."""
    out, inside = features(site, conv1d=False)
    values, indices = part(site, "supertuning_values", None), None
    _check_count(site, values, out * inside)
    if "supertuning_indices" in site.entry.parts:
        indices = part(site, "supertuning_indices", *values.shape, kinds=("I32", "I64"))
    else:
        _check_order(site)
    largest = site.config.get("select_top", True)
    yield Scatter(Chosen(values, indices, (out, inside), largest), site.scale)
    if bool(site.config.get("r")) != ("supertuning_lora_A" in site.entry.parts):
        raise Unreadable(
            f"{shown(site.entry.target)}: r is {shown(site.config.get('r'))} in "
            "adapter_config.json, and the weights say otherwise. They are not of one adapter."
        )
    if site.config.get("r"):
        a = part(site, "supertuning_lora_A", None, inside)
        b = part(site, "supertuning_lora_B", out, a.shape[0])
        scale = number(site.config, "lora_alpha") / a.shape[0]
        yield LowRank(Factor(b), Factor(a), scale * site.scale)


def _check_count(site: Site, values: TensorSpec, size: int) -> None:
    """Refuse another number of entries than the config's share of this weight."""
    count = int(size * (1 - number(site.config, "sparsity")))
    if count != values.shape[0]:
        raise Mismatch(
            f"{shown(site.entry.target)}: {values.shape[0]} entries are saved, a sparsity of "
            f"{site.config['sparsity']} of this weight gives {count}. Pass the base that it was "
            "trained on as --base."
        )


def _check_order(site: Site) -> None:
    """Refuse what surely has entries of equal magnitude: more than its dtype has numbers."""
    name = shown(site.entry.target)
    if site.config.get("save_precomputed_indices", True):
        raise Unreadable(
            f"{name} has no supertuning_indices, and the config does not set "
            "save_precomputed_indices to false. The file is incomplete; save the adapter again."
        )
    if site.weight.dtype not in ("F32", "F64"):
        raise Unsupported(
            f"{name} came without its indices, which are to be found again by the order of "
            f"magnitudes; in {site.weight.dtype} many are equal, and their order is not in the "
            "file. Save the adapter again with save_precomputed_indices=True."
        )
