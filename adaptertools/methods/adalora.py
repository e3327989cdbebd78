"""AdaLoRA: W + s·B·(A∘E), E one number for each row of A.  https://arxiv.org/abs/2303.10512

s is alpha / (init_r + 1e-5), and init_r stands for an alpha of 0 or less; PEFT does not save how
many of the rows were still in use (`ranknum`), so what is loaded has all of them. After
peft/tuners/adalora/layer.py: A (r, in), B (out, r), E (r, 1), rows that were pruned already gone;
for a Conv2d the kernel is flattened into `in`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adaptertools.adapter import Factor, Site
from adaptertools.methods._parts import features, number, part
from adaptertools.update import Update
from adaptertools.update.lowrank import LowRank
from adaptertools.update.matrices import Scaled, oriented

peft_type = "ADALORA"

tensors = {
    "lora_A": "right singular vectors (r, in)",
    "lora_B": "left singular vectors (out, r)",
    "lora_E": "singular values (r, 1)",
}


def check(config: Mapping[str, Any]) -> None:
    """Refuse a config without init_r or alpha."""
    number(config, "init_r")
    number(config, "lora_alpha")


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    if len(site.weight.shape) not in (2, 4):
        features(site)  # says that PEFT has no such layer
    out, inside = site.shape
    values = part(site, "lora_E", None, 1)
    down = part(site, "lora_A", values.rows, inside)
    up = part(site, "lora_B", out, values.rows)
    rank, alpha = number(site.config, "init_r"), number(site.config, "lora_alpha")
    scale = (alpha if alpha > 0 else rank) / (rank + 1e-5)
    pair = oriented(Factor(up), Scaled(Factor(down), Factor(values)), site.transposed)
    return [LowRank(*pair, scale * site.scale)]


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []
