"""SHiRA: few entries of a weight, wherever they are.  https://arxiv.org/abs/2406.13175

W[indices[0, k], indices[1, k]] += weight[k] for r · (out + in) of them; those at one place add up.
Indices are int32, or float32 where a Windows machine saved them. After peft/tuners/shira/layer.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools.adapter import Site
from adaptertools.methods._entries import Listed
from adaptertools.methods._parts import features, number, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.update import Update
from adaptertools.update.scatter import Scatter

peft_type = "SHIRA"

tensors = {"shira_weight": "the entries (n)", "shira_indices": "their rows and columns (2, n)"}


def check(config: Mapping[str, Any]) -> None:
    """Refuse a config without r; all else is in the file."""
    number(config, "r", whole=True)


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    shape = features(site, conv1d=False)
    values = part(site, "shira_weight", int(number(site.config, "r", whole=True)) * sum(shape))
    indices = part(site, "shira_indices", 2, values.shape[0], kinds=("I32", "I64", "F32"))
    yield Scatter(Listed(values, indices, shape), site.scale)
