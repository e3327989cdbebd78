"""One weight's change: read by tiles, decomposed, rounded, and held against what was read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adaptertools.errors import Unreadable, shown
from adaptertools.probe_rows import ROWS, part_of
from adaptertools.rounding import narrow
from adaptertools.tensorfile import TensorSpec, dtype_of, finite
from adaptertools.update.largest import Keep, largest
from adaptertools.verbs._stack_ask import Ask

if TYPE_CHECKING:
    from adaptertools.update import Array

_DIGITS = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8}  # of the significand


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """W' − W, whole and in float64, as nn.Linear has it."""

    values: Array  # (out, in)
    noise: float  # the largest singular value that rounding to the stored dtype alone has


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What became of one weight's change."""

    target: str
    shape: tuple[int, int]
    rank: int
    norm: float  # ‖ΔW‖, Frobenius
    energy: float  # share of ‖ΔW‖² that is kept
    error: float  # ‖ΔW − B·A‖ / ‖ΔW‖, of B and A as stored; measured, not foreseen
    worst: float  # the entry that is furthest off, absolute
    method: str  # how it was decomposed: dense, krylov, gram (update/largest.py)

    def as_json(self) -> dict[str, Any]:
        """Give what schemas/report.schema.json describes."""
        return {**asdict(self), "shape": list(self.shape)}


def change(base: TensorSpec, tuned: TensorSpec, turned: bool) -> Change:
    """Read two weights by tiles of rows, and subtract them exactly (to 2⁻⁵³ of the larger).

    Raises Unreadable for NaN and infinity.
    """
    import numpy as np

    rows, columns = tuned.rows, tuned.columns
    values, noise = np.empty((rows, columns)), (np.zeros(rows), np.zeros(columns))
    step = max(ROWS // max(columns, 1), 1)
    for row in range(0, rows, step):
        part = slice(row, min(row + step, rows))
        new, old = (part_of(s, row, part.stop - row) for s in (tuned, base))
        for spec, tile in ((tuned, new), (base, old)):
            if not np.isfinite(tile).all():
                raise _nonfinite(spec)
        off = np.subtract(new, old, out=values[part])
        variance = _variance(new, tuned.dtype) + _variance(off, tuned.dtype)
        noise[0][part] = variance.sum(axis=1)
        noise[1][:] += variance.sum(axis=0)
    # Bandeira and van Handel, arXiv:1408.6185: the largest norms of a row and of a column, added.
    edge = sum(float(each.max(initial=0.0)) ** 0.5 for each in noise)
    return Change(values=values.T if turned else values, noise=edge)


def _variance(values: Array, code: str) -> Array:
    """Give ulp²/12 of every value: what rounding it, and before it the update, has added."""
    import numpy as np

    steps: Array = np.ldexp(1.0, np.frexp(values)[1] - _DIGITS[code]) * (values != 0)
    return steps**2 / 12


def check_finite(spec: TensorSpec) -> None:
    """Refuse NaN and infinity in a tensor that is written as it is."""
    if not finite(spec):
        raise _nonfinite(spec)


def _nonfinite(spec: TensorSpec) -> Unreadable:
    return Unreadable(
        f"{shown(spec.name)} in {shown(spec.file)} holds NaN or infinity. The training diverged, "
        "or the file is damaged. Use an earlier checkpoint."
    )


def keeper(ask: Ask, held: Change) -> Keep:
    """Say how many components to keep of values that fall; more than there are asks for more."""
    import numpy as np

    def by_noise(values: Array, total: float) -> int:
        count = int((values > held.noise).sum())
        return count + (count == len(values))

    def by_energy(values: Array, total: float) -> int:
        return int(np.searchsorted(np.cumsum(values**2), ask.number * total * (1 - 1e-15))) + 1

    def all_of_them(values: Array, total: float) -> int:
        return len(values) + 1

    return {"auto": by_noise, "energy": by_energy}.get(ask.kind, all_of_them)


def factors(target: str, held: Change, ask: Ask, code: str) -> tuple[Array, Array, Said] | None:
    """Give B (out, r) and A (r, in) in the stored dtype, and what they are off by; None for none.

    `held` is used up: its values become the residual.
    """
    import numpy as np

    rank = int(ask.number) if ask.kind == "number" else None
    found = largest(held.values, rank, keeper(ask, held))
    thin = found.thin
    if not thin.rank:
        return None
    balanced = thin.factors()
    up, down = _stored(balanced.up, code), _stored(balanced.down, code)
    worst = square = 0.0
    values, step = held.values, max(ROWS // held.values.shape[1], 1)
    wide = down.astype(np.float64)
    for row in range(0, len(values), step):
        off = values[row : row + step] - up[row : row + step].astype(np.float64) @ wide
        square += float((off * off).sum())
        worst = max(worst, float(np.abs(off).max()))
    error = (square / found.total) ** 0.5
    return up, down, Said(
        target=target, shape=thin.shape, rank=thin.rank, norm=found.total**0.5, error=error,
        energy=float((thin.s**2).sum()) / found.total, worst=worst, method=found.method,
    )  # fmt: skip


def _stored(values: Array, code: str) -> Array:
    import numpy as np

    out = np.empty(values.shape, dtype_of(code))
    narrow(values, out)
    return out
