"""How exact an edit came out: what was stored against what was meant, while the tiles go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools.errors import Unsupported, shown
from adaptertools.retention import Retention
from adaptertools.update import Opened

if TYPE_CHECKING:
    from adaptertools.jobs import Edit
    from adaptertools.update import Array

SAMPLED = 1 << 20  # elements that are measured at least; of larger tensors, evenly spread tiles

# An update whose norm is below cannot push a finite weight out of the dtype's range: it is less
# than half the step between the largest values, and rounding takes it back.
_HARMLESS = {"F16": 15.0, "BF16": 1e30, "F32": 1e25, "F64": 1e280}


@dataclass(frozen=True, slots=True)
class Rounding:
    """How exact one edit came out, in units of the weight."""

    tensor: str
    max_error: float  # |stored − exact|, largest
    mean_error: float
    swallowed: float  # share of elements that the rounding left as they were
    update_norm: float  # ‖update‖ / ‖weight‖
    measured: int  # elements that this was measured on, spread evenly
    retention: Retention | None = None  # of a tensor that is packed, before or after

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Rounding:
        """Read what `dataclasses.asdict` wrote; raise TypeError where it is something else."""
        retention = said.get("retention")
        return cls(**{**said, "retention": Retention(**retention) if retention else None})


def narrow(tile: Array, out: Array) -> None:
    """Round to the dtype of `out`, to nearest, ties to even, once."""
    import numpy as np

    if tile.dtype == np.float64 and out.dtype.itemsize == 2 and out.dtype != np.float16:
        # bfloat16 is made from float32; rounding to odd on the way keeps the result right.
        single = tile.astype(np.float32)
        beyond = np.abs(single) > np.abs(tile)
        single[beyond] = np.nextafter(single[beyond], np.float32(0))
        single.view(np.uint32)[single != tile] |= 1
        out[...] = single
    else:
        out[...] = tile


class Tally:
    """Keeps the rounding error of one edit."""

    def __init__(self, edit: Edit, opened: Sequence[Opened]) -> None:
        """Take the edit and its updates, loaded."""
        self.edit = edit
        self.norm = opened[0].norm if len(opened) == 1 else None
        self.every = max(edit.source.rows * edit.source.columns // SAMPLED, 1)
        self.mixed = len(opened) > 1 or (len(opened) == 1 and self.norm is None)
        norms = [each.norm for each in opened if each.norm is not None]
        self.safe = len(norms) == len(opened) > 0 and sum(norms) < _HARMLESS[edit.dtype]
        self.safe = self.safe and edit.dtype == edit.source.dtype
        self.tiles = self.count = self.same = 0
        self.worst = self.total = self.weight = self.moved = 0.0

    @property
    def measuring(self) -> bool:
        """Whether this tile is one of those that are measured."""
        return self.tiles % self.every == 0

    def before(self, tile: Array) -> None:
        """Look at the base's rows."""
        import numpy as np

        flat = tile.reshape(-1)
        self.weight += float(np.vdot(flat, flat))

    def after(
        self, raw: Array, original: Array | None, tile: Array, rounded: Array, error: Array
    ) -> None:
        """Compare what was stored with what was meant; `original` and `error` are written over."""
        import numpy as np

        np.subtract(rounded, tile, out=error)
        np.abs(error, out=error)
        self.worst = max(self.worst, float(error.max(initial=0.0)))
        self.total += float(error.sum())
        if rounded.dtype == raw.dtype:
            bits = f"u{raw.itemsize}"
            self.same += int(np.count_nonzero(rounded.view(bits) == raw.view(bits)))
        if original is not None:
            moved = np.subtract(tile, original, out=original).reshape(-1)
            self.moved += float(np.vdot(moved, moved))
        self.count += tile.size

    def check_range(self, tile: Array, rounded: Array) -> None:
        """Refuse a weight that is not finite once it is stored."""
        import numpy as np

        flat = tile.reshape(-1)
        # A finite sum of squares has finite terms, and takes a fraction of the time.
        if (self.safe and np.isfinite(np.vdot(flat, flat))) or np.isfinite(rounded).all():
            return
        raise Unsupported(
            f"{shown(self.edit.name)}: the merged weight is not finite in {self.edit.dtype}. "
            "Either the base holds NaN or infinity, or the sum is out of range. "
            "Choose a wider --dtype, or pass --allow-nonfinite to write it all the same."
        )

    def result(self) -> Rounding | None:
        """Sum up; None for an edit that only changed the dtype."""
        if not self.edit.updates:
            return None
        count = max(self.count, 1)
        # The norms are over the measured part, but for a lone product, whose norm is exact.
        share = self.count / max(self.edit.source.rows * self.edit.source.columns, 1)
        moved = self.moved**0.5 if self.norm is None else self.norm * share**0.5
        ratio = moved / self.weight**0.5 if self.weight else float(moved > 0)
        return Rounding(
            tensor=self.edit.name, max_error=self.worst, mean_error=self.total / count,
            swallowed=self.same / count if moved else 0.0, update_norm=ratio, measured=self.count,
        )  # fmt: skip
