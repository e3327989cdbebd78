"""What PEFT's LoHa and LoKr share, after peft/tuners/lycoris_utils.py: scale, and Tucker's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adaptertools.adapter import Site
from adaptertools.errors import Unreadable, Unsupported, shown
from adaptertools.methods._parts import number
from adaptertools.patterns import pattern_value

if TYPE_CHECKING:
    from adaptertools.update import Array


def check(config: Mapping[str, Any]) -> None:
    """Refuse a config without r or alpha."""
    number(config, "r", whole=True)
    number(config, "alpha")


def rank(site: Site) -> int:
    """Give r after rank_pattern; the scale is alpha / r."""
    found = pattern_value(site.config, "rank_pattern", site.entry.target, site.config["r"])
    if type(found) is not int or not 0 < found < 2**31:
        raise Unreadable(f"r or rank_pattern gives {shown(site.entry.target)} rank {shown(found)}.")
    return found


def scale(site: Site) -> float:
    """Give alpha / r after both patterns, times what the user asked for."""
    target = site.entry.target
    alpha = pattern_value(site.config, "alpha_pattern", target, site.config["alpha"])
    return number({**site.config, "alpha": alpha}, "alpha") / rank(site) * site.scale


def shape(site: Site) -> tuple[int, int]:
    """Give the shape of the weight as a matrix, a convolution's kernel flattened into the columns.

    Raises Unsupported where PEFT's LoHa and LoKr have no such layer.
    """
    if site.transposed or not 2 <= len(site.weight.shape) <= 4:
        raise Unsupported(
            f"{shown(site.entry.target)} is {list(site.weight.shape)}; PEFT has "
            f"{site.config['peft_type']} for nn.Linear and for convolutions in one and two "
            "dimensions only. Check that the base is the one it was trained on."
        )
    return site.weight.rows, site.weight.columns


def tucker(core: Array, inner: Array) -> Array:
    """Give (r, in·k·l) of a core (r, r, k, l) and (r, in): Σⱼ core[i, j]·inner[j]."""
    import numpy as np

    made: Array = np.einsum("ijkl,jp->ipkl", core, inner).reshape(len(core), -1)
    return made
