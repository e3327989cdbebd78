"""VB-LoRA: W + B·A, both cut into short vectors mixed from one bank.  arXiv:2405.15179

Each vector of A (r, in / v, ·) and of B (out / v, r, ·) is the sum of its k vectors of the bank
(n, v) with the largest logits, weighed by the softmax of those logits. With save_only_topk_weights
the file holds the k indices and the first k - 1 weights; the last makes their sum 1. After
peft/tuners/vblora/layer.py and model.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, Unreadable, shown
from adaptertools.methods._drawn import saved
from adaptertools.methods._parts import features, number, part
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.lowrank import LowRank
from adaptertools.update.matrices import oriented

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "VBLORA"

tensors = {
    "vblora_logits_A": "what A's vectors are mixed of (r, in / v, n)",
    "vblora_logits_B": "what B's vectors are mixed of (out / v, r, n)",
    "vblora_logits_A_topk_indices": "places in the bank (r, in / v, k)",
    "vblora_logits_A_topk_weights": "weights but the last (r, in / v, k - 1)",
    "vblora_logits_B_topk_indices": "places in the bank (out / v, r, k)",
    "vblora_logits_B_topk_weights": "weights but the last (out / v, r, k - 1)",
    "vblora_vector_bank": "vectors of all modules (n, v)",
}


@dataclass(frozen=True, slots=True)
class Mixed:
    """A (r, in), or B (out, r): vectors of the bank, mixed."""

    shape: tuple[int, int]
    bank: TensorSpec
    logits: tuple[TensorSpec, ...]  # or indices and weights
    count: int
    upright: bool  # B: its vectors stand in columns

    def read(self, dtype: str) -> Array:
        """Mix it in this dtype; which logits are largest is told as stored."""
        import numpy as np

        indices, weights = self._weights(dtype)
        bank = tensorfile.read(self.bank).astype(dtype)
        mixed = np.zeros((*indices.shape[:2], bank.shape[1]), dtype)
        for k in range(indices.shape[2]):
            mixed += weights[:, :, k, None] * bank[indices[:, :, k]]
        whole = mixed.swapaxes(1, 2) if self.upright else mixed
        return np.ascontiguousarray(whole.reshape(self.shape))

    def _weights(self, dtype: str) -> tuple[Array, Array]:
        import numpy as np

        found = tensorfile.read(self.logits[0])
        if len(self.logits) == 2:
            first = tensorfile.read(self.logits[1]).astype(dtype)
            last = 1 - first.sum(axis=2, keepdims=True)
            return found.astype(np.int64), np.concatenate([first, last], axis=2)
        indices = np.argsort(-found.astype(np.float64), axis=2, kind="stable")[..., : self.count]
        largest = np.take_along_axis(found, indices, axis=2).astype(dtype)
        weights = np.exp(largest - largest.max(axis=2, keepdims=True))
        return indices, weights / weights.sum(axis=2, keepdims=True)


def check(config: Mapping[str, Any]) -> None:
    """Refuse a config without topk."""
    number(config, "topk", whole=True)


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    out, inside = features(site)
    bank = saved(site, "vblora_vector_bank")
    if bank is None or len(bank.shape) != 2 or out % bank.columns or inside % bank.columns:
        raise Mismatch(
            f"{shown(site.entry.target)} is {out}×{inside}, and the adapter has no vector bank "
            "whose vectors divide that. Pass the base that it was trained on as --base."
        )
    rank = int(number(site.config, "r", whole=True))
    down = _mixed(site, "A", bank, (rank, inside), (rank, inside // bank.columns))
    up = _mixed(site, "B", bank, (out, rank), (out // bank.columns, rank))
    return [LowRank(*oriented(up, down, site.transposed), site.scale)]


def _mixed(
    site: Site, name: str, bank: TensorSpec, shape: tuple[int, int], tiles: tuple[int, int]
) -> Mixed:
    count, role = int(number(site.config, "topk", whole=True)), f"vblora_logits_{name}"
    if not 0 < count <= bank.rows:
        raise Unreadable(f"topk is {count} in adapter_config.json, the bank has {bank.rows}.")
    if role in site.entry.parts:
        logits: tuple[TensorSpec, ...] = (part(site, role, *tiles, bank.rows),)
    else:
        kinds = ("U8", "I16", "I32", "I64")
        indices = part(site, f"{role}_topk_indices", *tiles, count, kinds=kinds)
        _check_range(indices, bank)
        logits = indices, part(site, f"{role}_topk_weights", *tiles, count - 1)
    return Mixed(shape, bank, logits, count, name == "B")


def _check_range(indices: TensorSpec, bank: TensorSpec) -> None:
    found = tensorfile.read(indices)
    if found.min(initial=0) < 0 or found.max(initial=0) >= bank.rows:
        raise Mismatch(
            f"{shown(indices.name)} names vectors past the {bank.rows} of the bank. "
            "The file is damaged; save the adapter again."
        )


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []
