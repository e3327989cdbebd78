"""OSF: the smallest singular components of a weight, trained.  https://arxiv.org/abs/2504.07097

W − (its m smallest singular components) + U · diag(S) · V, with U (out, m), S (m), V (m, in); the
file is nearly as large as the weight. After peft/tuners/osf/layer.py. The factorisation, in float64
(PEFT: float32), holds one whole weight in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adaptertools.adapter import Factor, Site
from adaptertools.errors import Mismatch, shown
from adaptertools.methods._parts import Made, features, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.methods._plain import check as check
from adaptertools.update import Update
from adaptertools.update.lowrank import LowRank
from adaptertools.update.truncate import Truncate

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "OSF"

tensors = {
    "osf_svd_params.U_low": "left vectors (out, m)",
    "osf_svd_params.S_low": "values (m)",
    "osf_svd_params.V_low": "right vectors (m, in)",
}


def updates(site: Site) -> Iterator[Update]:
    """Give the updates of the weight: components go, and trained ones take their place."""
    out, inside = features(site, conv1d=False)
    values = part(site, "osf_svd_params.S_low", None)
    m = values.shape[0]
    if m >= min(out, inside):
        raise Mismatch(
            f"{shown(site.entry.target)}: {m} components were trained, the weight has "
            f"{min(out, inside)}. Pass the base that it was trained on as --base."
        )
    left = part(site, "osf_svd_params.U_low", out, m)
    right = part(site, "osf_svd_params.V_low", m, inside)
    yield Truncate(m, site.scale, rounded=False)
    yield LowRank(Made((out, m), _scaled, (left, values)), Factor(right), site.scale)


def _scaled(left: Array, values: Array) -> Array:
    return left * values
