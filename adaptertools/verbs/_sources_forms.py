"""The factors of methods that store something else, and the shape that their tensors tell.

LoHa: (A₁B₁)∘(A₂B₂) is the product of the row-wise Khatri-Rao product of A₁ and A₂ (out, r²) with
the column-wise one of B₁ and B₂ (r², in). LoKr: (PQ)⊗(RS) = (P⊗R)(Q⊗S); a whole factor is its own
product with the identity. MiSS: M[i, j] = block[j mod r, i mod m] is the block's columns, repeated,
times the choice of j mod r.  arXiv:2108.06098, arXiv:2309.14859
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.adapter import Adapter, Entry
from adaptertools.methods._forms import Shards
from adaptertools.methods._hadamard import Hadamard
from adaptertools.methods._lycoris import tucker
from adaptertools.methods.lokr import Kronecker
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.formed import Formed
from adaptertools.update.lowrank import LowRank

if TYPE_CHECKING:
    from adaptertools.update import Array

# Methods whose tensors alone, without the base, say what they add to a weight of which shape.
FACTORED = ("LORA", "ADALORA", "DELORA", "GRALORA", "LOHA", "LOKR", "VBLORA")
# Methods of which only the base says how wide the weights are.
WIDTHLESS = ("VERA", "PVERA", "MISS")

Parts = Mapping[str, TensorSpec]


def axes(entry: Entry, adapter: Adapter) -> tuple[int, ...]:
    """Give the shape of the weight that the factors are of; what is missing counts 0."""
    if adapter.method in WIDTHLESS:
        return 0, 0
    known = {
        "DELORA": _delora_axes, "GRALORA": _gralora_axes, "LOHA": _loha_axes, "LOKR": _lokr_axes,
    }  # fmt: skip
    if adapter.method in known:
        return known[adapter.method](entry.parts)
    if adapter.method == "VBLORA":
        bank = adapter.shared.get("vblora_vector_bank")
        return tuple(n * (bank.columns if bank else 0) for n in _vblora_tiles(entry.parts))
    return _lora_axes(entry.parts)


def _lora_axes(parts: Parts) -> tuple[int, ...]:
    if "lora_embedding_A" in parts:
        b = parts.get("lora_embedding_B")
        return parts["lora_embedding_A"].columns, b.rows if b else 0
    a, b = parts.get("lora_A"), parts.get("lora_B")
    return (b.rows if b else 0, *(a.shape[1:] if a else (0,)))


def _delora_axes(parts: Parts) -> tuple[int, ...]:
    a, b = parts.get("delora_A"), parts.get("delora_B")
    return b.rows if b else 0, a.columns if a else 0


def _gralora_axes(parts: Parts) -> tuple[int, ...]:
    a, b = parts.get("gralora_A"), parts.get("gralora_B")  # (k, in / k, r), (k, r, out / k)
    if a is None or b is None or (len(a.shape), len(b.shape)) != (3, 3):
        return 0, 0
    return b.shape[0] * b.shape[2], a.shape[0] * a.shape[1]


def _loha_axes(parts: Parts) -> tuple[int, ...]:
    up, down, core = (parts.get(f"hada_{name}") for name in ("w1_a", "w1_b", "t1"))
    if up is None or down is None:
        return 0, 0
    return (up.columns, down.columns, *core.shape[2:]) if core else (up.rows, down.columns)


def _lokr_axes(parts: Parts) -> tuple[int, ...]:
    (a, c, _), (b, d, kernel) = (_lokr_factor(parts, name) for name in "12")
    return a * b, c * d, *kernel


def _lokr_factor(parts: Parts, name: str) -> tuple[int, int, tuple[int, ...]]:
    stem = f"lokr_w{name}"
    if whole := parts.get(stem):
        return whole.rows, prod(whole.shape[1:2]), whole.shape[2:]
    up, down, core = parts.get(f"{stem}_a"), parts.get(f"{stem}_b"), parts.get(f"lokr_t{name}")
    if up is None or down is None:
        return 0, 0, ()
    return (up.columns, down.columns, core.shape[2:]) if core else (up.rows, down.columns, ())


def _vblora_tiles(parts: Parts) -> tuple[int, int]:
    def tiles(name: str, axis: int) -> int:
        stem = f"vblora_logits_{name}"
        spec = parts.get(stem) or parts.get(f"{stem}_topk_indices")
        return spec.shape[axis] if spec and len(spec.shape) == 3 else 0

    return tiles("B", 0), tiles("A", 1)


def factored(update: Update) -> LowRank | None:
    """Give an update as one product; None where it is no fixed product."""
    if isinstance(update, LowRank):
        return update
    if isinstance(update, Formed) and isinstance(update.matrix, Shards):
        return LowRank(_Repeated(update.matrix), _Choice(update.matrix), update.scale)
    if isinstance(update, Formed) and isinstance(update.matrix, Hadamard):
        return LowRank(_KhatriRao(update.matrix, 0), _KhatriRao(update.matrix, 1), update.scale)
    if isinstance(update, Formed) and isinstance(update.matrix, Kronecker):
        whole = update.matrix.second[0]
        # PEFT shifts the axes of a Conv1d's whole second factor: no Kronecker product any more.
        shifted = len(update.matrix.second) == 1 and len(whole.shape) == 3
        pair = _Kron(update.matrix, 0), _Kron(update.matrix, 1)
        return None if shifted else LowRank(*pair, update.scale)
    return None


def _pair(specs: tuple[TensorSpec, ...], dtype: str) -> tuple[Array, Array]:
    """Load a factor as a product: (up, down), (up, down, core), or a whole and the identity."""
    import numpy as np

    arrays = [tensorfile.read(spec).astype(dtype) for spec in specs]
    if len(arrays) == 3:
        return arrays[0].T, tucker(arrays[2], arrays[1])
    if len(arrays) == 2:
        return arrays[0], arrays[1]
    whole = arrays[0].reshape(len(arrays[0]), -1)
    rows, columns = whole.shape
    if rows <= columns:
        return np.eye(rows, dtype=dtype), whole
    return whole, np.eye(columns, dtype=dtype)


def _inner(specs: tuple[TensorSpec, ...]) -> int:
    """Give the inner dimension of that product."""
    spec = specs[0]
    if len(specs) == 1:
        return min(spec.rows, spec.columns)
    return specs[1].rows


@dataclass(frozen=True, slots=True)
class _KhatriRao:
    """One side of LoHa's product: 0 is (out, r²), 1 is (r², in)."""

    matrix: Hadamard
    side: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        inner = _inner(self.matrix.pairs[0]) * _inner(self.matrix.pairs[1])
        return (inner, self.matrix.shape[1]) if self.side else (self.matrix.shape[0], inner)

    def read(self, dtype: str) -> Array:
        """Load the factors, and multiply them out on this side."""
        import numpy as np

        one, two = (_pair(specs, dtype)[self.side] for specs in self.matrix.pairs)
        spelled = "pj,qj->pqj" if self.side else "ip,iq->ipq"
        made: Array = np.einsum(spelled, one, two).reshape(self.shape)
        return made


@dataclass(frozen=True, slots=True)
class _Kron:
    """One side of LoKr's product: 0 is (out, r), 1 is (r, in)."""

    matrix: Kronecker
    side: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        inner = _inner(self.matrix.first) * _inner(self.matrix.second)
        return (inner, self.matrix.shape[1]) if self.side else (self.matrix.shape[0], inner)

    def read(self, dtype: str) -> Array:
        """Load the factors, and multiply them out on this side."""
        import numpy as np

        specs = self.matrix.first, self.matrix.second
        one, two = (_pair(each, dtype)[self.side] for each in specs)
        made: Array = np.kron(one, two)
        return made


@dataclass(frozen=True, slots=True)
class _Repeated:
    """MiSS's block, transposed and repeated down the rows: (out, r)."""

    matrix: Shards

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.matrix.shape[0], self.matrix.block.shape[0]

    def read(self, dtype: str) -> Array:
        """Load the block, and repeat it."""
        import numpy as np

        block = self.matrix.block.read(dtype)
        made: Array = block.T[np.arange(self.matrix.shape[0]) % block.shape[1]]
        return made


@dataclass(frozen=True, slots=True)
class _Choice:
    """One where j mod r is the row: (r, in)."""

    matrix: Shards

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.matrix.block.shape[0], self.matrix.shape[1]

    def read(self, dtype: str) -> Array:
        """Write it down."""
        import numpy as np

        rank, columns = self.shape
        made: Array = np.arange(columns) % rank == np.arange(rank)[:, None]
        return made.astype(dtype)
