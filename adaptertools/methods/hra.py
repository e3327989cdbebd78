"""HRA: the input reflected r times, W' = W · Π (I − 2·uᵢuᵢᵀ), all ‖uᵢ‖ = 1.  arXiv:2405.17484

After peft/tuners/hra/layer.py: uᵢ are the columns of `hra_u` (in, r), in order. With apply_GS they
are made orthogonal first (Gram–Schmidt). Here the product is I − U·T·Uᵀ with a triangular T
(Schreiber and Van Loan, SIAM J. Sci. Stat. Comput. 10 (1989) 53), two thin products for each tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Site
from adaptertools.methods._parts import features, part
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.turned import Turned

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "HRA"

tensors = {"hra_u": "normals of the reflections (in, r)"}


def check(config: Mapping[str, Any]) -> None:
    """Accept every config: apply_GS is all that matters in it."""


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    if site.transposed:
        features(site, conv1d=False)
    spec = part(site, "hra_u", site.shape[1], None)
    return [Turned(Reflections(spec, bool(site.config.get("apply_GS"))), site.scale)]


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []


@dataclass(frozen=True, slots=True)
class Reflections:
    """A product of reflections, from the tensor that their normals are stored as."""

    spec: TensorSpec
    orthogonal: bool

    @property
    def size(self) -> int:
        """The inputs."""
        return self.spec.rows

    def normals(self) -> Array:
        """Give the normals in float64, (in, r), each of length 1."""
        import numpy as np

        normals: Array = tensorfile.read(self.spec).astype(np.float64)
        for i in range(normals.shape[1]):
            for j in range(i if self.orthogonal else 0):
                normals[:, i] -= (normals[:, j] @ normals[:, i]) * normals[:, j]
            normals[:, i] /= np.linalg.norm(normals[:, i])
        return normals

    def open(self, dtype: str) -> Callable[[Array], Array]:
        """Give the map of rows w to w − (w·U)·(T·Uᵀ)."""
        left, right = (each.astype(dtype) for each in self.wy())
        return lambda rows: rows - (rows @ left) @ right

    def wy(self) -> tuple[Array, Array]:
        """Give U and T·Uᵀ in float64: the product is I − U·T·Uᵀ."""
        import numpy as np

        normals = self.normals()
        inner = np.zeros((normals.shape[1], normals.shape[1]))
        for i in range(len(inner)):
            inner[:i, i] = -2 * inner[:i, :i] @ (normals[:, :i].T @ normals[:, i])
            inner[i, i] = 2
        return normals, inner @ normals.T

    def times(self, x: Array) -> Array:
        """Reflect x, the last normal first."""
        for normal in self.normals().T[::-1]:
            x = x - 2 * normal[:, None] * (normal @ x)
        return x
