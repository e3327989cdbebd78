"""PVeRA: VeRA with a distribution, of which the mean is merged.  https://arxiv.org/abs/2512.07703

A (2r, largest in) and d (2r) hold means, then log-variances; the means alone are a fixed weight,
as PEFT merges them (peft/tuners/pvera/layer.py). B (largest out, r) and b are as in VeRA.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.methods._parts import part
from adaptertools.methods.vera import bias_updates as bias_updates
from adaptertools.methods.vera import product
from adaptertools.update import Update

peft_type = "PVERA"

tensors = {
    "pvera_lambda_b": "scales of the outputs (out)",
    "pvera_lambda_d": "scales of means and of log-variances (2r)",
    "pvera_A": "down projection of all modules (2r, largest in)",
    "pvera_B": "up projection of all modules (largest out, r)",
}


def check(config: Mapping[str, Any]) -> None:
    """Refuse an adapter that is meant to be sampled from."""
    if config.get("sample_at_inference"):
        raise Unsupported(
            "sample_at_inference is set in adapter_config.json: the adapter draws a new update for "
            "every input, and no fixed weight does that. Serve it as an adapter, or set it to "
            "false to merge the mean."
        )


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    both = part(site, "pvera_lambda_d", None).rows
    if both % 2:
        raise Mismatch(
            f"{shown(site.entry.target)}: pvera_lambda_d has {both} numbers, which are no pairs. "
            "Save the adapter again."
        )
    return product(site, "pvera", both // 2, both)
