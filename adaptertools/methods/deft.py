"""DEFT: what the layer writes along Q is replaced, W + Q·(s·R − Vᵀ·W).  peft/tuners/deft/layer.py

P is (out, r) and R (r, in) on disk. decomposition_method "relu": Q = P, V = max(P, 0); "qr": Q and
V are the orthonormal factor of P. s is alpha / r, or 1 without alpha. With `para` (PaRa,
arXiv:2405.14785) there is no R. Several adapters each see the original weight. PEFT computes this
in float32, here it is float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Site
from adaptertools.errors import Unsupported, shown
from adaptertools.methods._parts import features, number, part
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.through import Through

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "DEFT"

tensors = {"deft_P": "directions (out, r)", "deft_R": "what is written along them (r, in)"}

_WAYS = ("relu", "qr")


def check(config: Mapping[str, Any]) -> None:
    """Refuse a decomposition that no PEFT release knows."""
    if config.get("decomposition_method", "relu") not in _WAYS:
        raise Unsupported(
            f"decomposition_method is {shown(config['decomposition_method'])}; PEFT's DEFT has "
            f"{' and '.join(_WAYS)}."
        )


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    outputs, inputs = features(site)
    directions = part(site, "deft_P", outputs, None)
    rank = directions.columns
    written = None if site.config.get("para") else part(site, "deft_R", rank, inputs)
    alpha = number(site.config, "alpha") / rank if site.config.get("alpha") else 1.0
    way = site.config.get("decomposition_method", "relu")
    core = Replaced((outputs, inputs), directions, written, alpha, way)
    return [Through(core, site.transposed, site.scale)]


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []


@dataclass(frozen=True, slots=True)
class Replaced:
    """Q·(s·R − Vᵀ·W), from the tensors P and R."""

    shape: tuple[int, int]
    directions: TensorSpec
    written: TensorSpec | None
    scale: float
    way: str

    def left(self) -> Array:
        """Give Vᵀ."""
        import numpy as np

        return np.maximum(self.up(), 0).T if self.way == "relu" else self.up().T

    def up(self) -> Array:
        """Give Q."""
        import numpy as np

        stored: Array = tensorfile.read(self.directions).astype(np.float64)
        return stored if self.way == "relu" else np.linalg.qr(stored)[0]

    def between(self, seen: Array) -> Array:
        """Give s·R − Vᵀ·W."""
        if self.written is None:
            return -seen
        stored: Array = tensorfile.read(self.written).astype("float64")
        return self.scale * stored - seen
