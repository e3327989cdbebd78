"""HiRA: W + W ∘ (B·A), without a scale.  https://openreview.net/forum?id=TwJrTz9cRS

Shapes on disk, after peft/tuners/hira/layer.py: Linear and Conv1D A (r, in), B (out, r); Conv
A (r, in, *k), B (out, r, 1…); Embedding A (r, vocab), B (dim, r). Several adapters each multiply
the original weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adaptertools.adapter import Factor, Site
from adaptertools.methods._parts import part
from adaptertools.update import Update
from adaptertools.update.lowrank import LowRank
from adaptertools.update.modulated import Modulated

peft_type = "HIRA"

tensors = {
    "hira_A": "down projection (r, in)",
    "hira_B": "up projection (out, r)",
    "hira_embedding_A": "down projection of an embedding (r, vocab)",
    "hira_embedding_B": "up projection of an embedding (dim, r)",
}


def check(config: Mapping[str, Any]) -> None:
    """Accept every config: the tensors say all."""


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    kind = "hira_embedding_" if "hira_embedding_A" in site.entry.parts else "hira_"
    down = part(site, kind + "A")
    up = part(site, kind + "B", None, down.rows, *[1] * (len(down.shape) - 2))
    if site.transposed or kind != "hira_":
        product = LowRank(Factor(down, transposed=True), Factor(up, transposed=True), site.scale)
    else:
        product = LowRank(Factor(up), Factor(down), site.scale)
    return [Modulated(product)]


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []
