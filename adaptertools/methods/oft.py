"""OFT: the input turned by blocks R, W' = W · Rᵀ; of an embedding W · R.  arXiv:2306.07280

Each row of `oft_R` is the upper triangle of a skew-symmetric Q, after peft/tuners/oft/layer.py.
R = (I − Q)(I + Q)⁻¹, or with use_cayley_neumann (the default) its series
I + 2Q + 2Q² + … + 2Qⁿ⁻¹ + Qⁿ, n being one less than num_cayley_neumann_terms and at least 3.
PEFT 0.16 and 0.17 ended it with 2Qⁿ (and n could be 2), which is kept for adapters they wrote.
Constrained OFT (`coft`) first shortens each Q to at most eps / √blocks (Frobenius).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.methods._parts import features, number, part
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.turned import Blocks, Turned

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "OFT"

tensors = {
    "oft_R": "upper triangles of the blocks' generators (blocks, b(b-1)/2)",
    "oft_embedding_R": "the same of an embedding",
}

_OLD = (
    "The adapter is of PEFT before 0.16, whose OFT was another: its tensors are named oft_r, and "
    "no current release loads them. Merge it with the PEFT that wrote it (0.13 or 0.15)."
)


def check(config: Mapping[str, Any]) -> None:
    """Refuse adapters of the OFT that PEFT had before."""
    if "oft_block_size" not in config:
        raise Unsupported(f"adapter_config.json has no oft_block_size. {_OLD}")


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    if {"oft_r", "oft_s"} & site.entry.parts.keys():
        raise Unsupported(f"{shown(site.entry.target)} has an oft_r or oft_s. {_OLD}")
    if site.transposed:
        features(site, conv1d=False)
    embedding = "oft_embedding_R" in site.entry.parts
    spec = part(site, "oft_embedding_R" if embedding else "oft_R", None, None)
    side = int(((8 * spec.columns + 1) ** 0.5 + 1) / 2)
    count = site.shape[1] // side
    if side * (side - 1) // 2 != spec.columns or side * count != site.shape[1] or (
        spec.rows not in (1, count)
    ):  # fmt: skip
        raise Mismatch(
            f"{shown(spec.name)} is {list(spec.shape)}, which are no blocks of the "
            f"{site.shape[1]} inputs. Pass the base that it was trained on as --base."
        )
    eps = number({"eps": 6e-5, **site.config}, "eps") if site.config.get("coft") else None
    terms, last = None, 1
    if site.config.get("use_cayley_neumann"):
        key = "num_cayley_neumann_terms"
        terms = int(number({key: 5, **site.config}, key, whole=True))
        last = 2 if _before_018(site.config) else 1
    blocks = Rotations(spec, embedding, eps, terms, last)
    return [Turned(Blocks(site.shape[1], blocks), site.scale)]


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []


def _before_018(config: Mapping[str, Any]) -> bool:
    """Tell adapters of PEFT 0.16 and 0.17, which did not write their version yet."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", str(config.get("peft_version", "")))
    return not found or (int(found[1]), int(found[2])) < (0, 18)


@dataclass(frozen=True, slots=True)
class Rotations:
    """The blocks of a layer, from the tensor that they are stored as."""

    spec: TensorSpec
    embedding: bool  # R rather than its transpose
    eps: float | None
    terms: int | None  # of the series; None for the exact map
    last: int  # what its last term counts

    def factors(self) -> list[tuple[Array, Array | None]]:
        """Give the blocks that rows are multiplied by, (blocks, b, b)."""
        import numpy as np

        stored = tensorfile.read(self.spec).astype(np.float64)
        side = int(((8 * stored.shape[1] + 1) ** 0.5 + 1) / 2)
        skew = np.zeros((len(stored), side, side))
        skew[:, *np.triu_indices(side, 1)] = stored
        skew -= skew.transpose(0, 2, 1)
        if self.eps is not None:
            limit = float(np.float32(self.eps) / np.sqrt(np.float32(len(skew))))
            norms = np.linalg.norm(skew, axis=(1, 2), keepdims=True)
            skew *= limit / np.maximum(norms, limit)
        if not self.embedding:
            skew = -skew  # which turns R into its transpose
        one = np.eye(side)
        if self.terms is None:
            return [(np.linalg.solve(one + skew, one - skew), None)]
        return [(one + _series(skew, self.terms, self.last), None)]


def _series(skew: Array, terms: int, last: int) -> Array:
    """Give 2Q + 2Q² + …, its last power counted `last` times."""
    import numpy as np

    powers, power = max(terms - 1, 3 if last == 1 and terms > 2 else 0), skew
    total = np.zeros_like(skew)
    for n in range(1, powers + 1):
        power = power @ skew if n > 1 else skew
        total += (last if n == powers and n > 2 else 2) * power
    return total
