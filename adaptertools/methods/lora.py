"""LoRA and its family: W + s·B·A.  https://arxiv.org/abs/2106.09685

s is alpha / r, or alpha / sqrt(r) when rank-stabilised; formats resolve it. Shapes on disk, after
peft/tuners/lora/layer.py: Linear A (r, in), B (out, r); Conv A (r, in, *k), B (out, r, 1…);
Embedding A (r, vocab), B (dim, r); a base that stores (in, out) takes the transposed product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from adaptertools.adapter import Factor, Site
from adaptertools.errors import Mismatch, Unreadable, Unsupported, shown
from adaptertools.methods import _experts
from adaptertools.methods._lora_config import check
from adaptertools.methods._lora_parts import check_inner, check_parts
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.dora import Dora
from adaptertools.update.lowrank import LowRank
from adaptertools.update.shift import Shift
from adaptertools.update.truncate import Truncate

__all__ = ["bias_updates", "check", "peft_type", "tensors", "updates"]

peft_type = "LORA"

tensors = {
    "lora_A": "down projection (r, in)",
    "lora_B": "up projection (out, r)",
    "lora_B.bias": "bias of the up projection (out)",
    "lora_embedding_A": "down projection of an embedding (r, vocab)",
    "lora_embedding_B": "up projection of an embedding (dim, r)",
    "lora_magnitude_vector": "DoRA's magnitudes",
    "lora_diag": "KaSA's singular values (r)",
}


def updates(site: Site) -> Iterator[Update]:
    """Give the updates of the weight: KaSA's truncation, then the product, or DoRA."""
    if site.entry.fused is not None:
        yield _experts.update(site, site.entry.fused)
        return
    check_parts(site)
    low, by_column = _product(site)
    check_inner(site, low.up, low.down)
    if site.config.get("kasa_config"):
        if "lora_diag" not in site.entry.parts:
            raise Unreadable(
                f"{shown(site.entry.target)} has no lora_diag, and kasa_config is set."
            )
        if site.entry.rank >= min(site.weight.rows, site.weight.columns):
            raise Mismatch(
                f"{shown(site.entry.target)}: KaSA takes {site.entry.rank} singular components "
                f"away, and the weight has {min(site.weight.rows, site.weight.columns)}."
            )
        yield Truncate(site.entry.rank)
    if "lora_magnitude_vector" in site.entry.parts:
        yield _dora(site, low, by_column)
    else:
        if site.config.get("use_dora"):
            raise Unreadable(
                f"{shown(site.entry.target)} has no lora_magnitude_vector, and use_dora is set. "
                "The file is incomplete; save the adapter again."
            )
        yield LowRank(low.up, low.down, low.scale * site.scale)
        if site.attention and site.entry.nested and _mha_times(site) == 2:
            yield LowRank(low.up, low.down, low.scale * site.scale)


def bias_updates(site: Site) -> Iterable[Update]:
    """Give the update of the bias: s·(bias of B)."""
    part = site.entry.parts.get("lora_B.bias")
    if part is None:
        return []
    if site.bias is None:
        raise Mismatch(
            f"{shown(site.entry.target)} has a bias on lora_B, and the base has no bias there to "
            "add it to. PEFT cannot merge it either. Serve it as an adapter."
        )
    return [Shift(Factor(part), site.entry.scale * site.scale)]


def _product(site: Site) -> tuple[LowRank, bool]:
    """Give s·B·A in the base's orientation, and whether DoRA's norms are over stored columns."""
    parts, scale = site.entry.parts, site.entry.scale
    if "lora_embedding_A" in parts:
        low = LowRank(
            Factor(_ranked(site, "lora_embedding_A"), transposed=True),
            Factor(_part(site, "lora_embedding_B"), transposed=True),
            scale,
        )
        return low, True
    a, b = _ranked(site, "lora_A"), _part(site, "lora_B")
    if len(a.shape) > 2 and a.shape[1] != (*site.weight.shape, 0, 0)[1]:
        raise Unsupported(
            f"{shown(site.entry.target)}: lora_A is {list(a.shape)}, the convolution "
            f"{list(site.weight.shape)}. A grouped convolution has no single product that merges; "
            "PEFT refuses it too. Serve it as an adapter."
        )
    blocks_a, blocks_b = _blocks(site)
    down = Factor(a, blocks=blocks_a)
    up = Factor(b, blocks=blocks_b, diagonal=parts.get("lora_diag"))
    if not site.transposed:
        return LowRank(up, down, scale), False
    up_t = Factor(b, blocks=blocks_b, diagonal=parts.get("lora_diag"), transposed=True)
    return LowRank(Factor(a, blocks=blocks_a, transposed=True), up_t, scale), True


def _part(site: Site, role: str) -> TensorSpec:
    try:
        return site.entry.parts[role]
    except KeyError:
        raise Unreadable(
            f"{shown(site.entry.target)} has no {role}. Half a pair cannot be applied. "
            "The run was probably killed while saving; save the adapter again."
        ) from None


def _ranked(site: Site, role: str) -> TensorSpec:
    """Give the down projection, whose rows must be the rank that the scale was made with."""
    part = _part(site, role)
    if part.rows != site.entry.rank:
        raise Mismatch(
            f"{shown(site.entry.target)}: the config gives it rank {site.entry.rank}, its {role} "
            f"has {part.rows} rows. The scale alpha / r would be a guess. "
            "Correct r or rank_pattern in adapter_config.json."
        )
    return part


def _blocks(site: Site) -> tuple[int, int]:
    """Number of diagonal blocks that A and B are stored as. BD-LoRA, peft/…/variants.py."""
    config = site.config.get("use_bdlora")
    if not config:
        return 1, 1
    # PEFT looks for each pattern anywhere in the module's name.
    a, b = (
        any(p in site.entry.target for p in config.get(f"target_modules_bd_{x}") or ())
        for x in "ab"
    )
    count = int(config.get("nblocks", 1))
    return (count if a else 1), (count if b and not a else 1)


def _dora(site: Site, low: LowRank, by_column: bool) -> Dora:
    part = site.entry.parts["lora_magnitude_vector"]
    magnitude = Factor(part)
    wanted = low.shape[1] if by_column else low.shape[0]
    if magnitude.spec.rows * magnitude.spec.columns != wanted:
        raise Mismatch(
            f"{shown(site.entry.target)}: the DoRA magnitude is {list(part.shape)}, "
            f"the weight has {wanted} outputs."
        )
    return Dora(low, magnitude, by_column, site.scale)


def _mha_times(site: Site) -> int:
    """How often out_proj's update counts: PEFT up to 0.21.2 adds it twice (peft#3774)."""
    if site.mha_out_proj is None:
        raise Unsupported(
            f"{shown(site.entry.target)} is the out_proj of a MultiheadAttention. PEFT up to "
            "0.21.2 adds its update twice, in training and in merging (peft#3774), and the file "
            "does not say which was meant. Pass --mha-out-proj twice to get what that PEFT "
            "computes, --mha-out-proj once for W + s·B·A."
        )
    return {"once": 1, "twice": 2}[site.mha_out_proj]
