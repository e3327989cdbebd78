"""Hold a written weight against base and adapter by random probes: is W'x what it should be?

Independent of the merge: matrix-vector products in float64 instead of tiles of B·A, norms by
algebra instead of sums, a Gram matrix instead of an SVD, and its own reading. With x of ±1,
storing rounds each element of W' by at most u·|w| (u the unit roundoff), so row i of W'x is off
by about u·‖W'ᵢ‖₂; an update that is missing, doubled, transposed or scaled wrong is off by its
own size.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from adaptertools import stacks
from adaptertools.errors import shown
from adaptertools.jobs import Edit
from adaptertools.probe_rows import base_rows, part_of
from adaptertools.probe_values import expected
from adaptertools.tensorfile import TensorSpec
from adaptertools.update.truncate import Truncate

if TYPE_CHECKING:
    from adaptertools.update import Array

PROBES = 4
# Unit roundoff and half the smallest subnormal of each stored dtype.
_ROUNDOFF = {"BF16": (2**-8, 2**-134), "F16": (2**-11, 2**-25), "F32": (2**-24, 2**-150),
             "F64": (2**-50, 0.0)}  # fmt: skip


def applied(edit: Edit, written: TensorSpec, nonfinite: bool = False) -> str:
    """Check an edited weight; give the fault in a sentence, empty where there is none.

    Rows with NaN or infinity are a fault, or left out where `nonfinite` allows them.
    """
    for one, made in stacks.written(edit, {edit.name: written}):
        if fault := _applied(one, made[one.name], nonfinite):
            return fault if one is edit else f"{shown(one.name)}: {fault}"
    return ""


def _applied(edit: Edit, written: TensorSpec, nonfinite: bool) -> str:
    import numpy as np

    seed = zlib.crc32(edit.name.encode())
    x = np.random.default_rng(seed).choice([-1.0, 1.0], (edit.source.columns, PROBES))
    unit, least = _ROUNDOFF[edit.dtype]
    # A second rounding, of the truncated base, is part of what KaSA means.
    unit *= 1 + sum(isinstance(update, Truncate) for update in edit.updates)
    off, size, slope, weight, noise = [], [], 0.0, 0.0, 0.0
    with np.errstate(all="ignore"):
        value = expected(edit)
        for row, before, after in _pairs(edit, written):
            wanted = value(row, before, x) - before @ x
            found = after @ x - before @ x
            bound = np.sqrt(np.einsum("ij,ij->i", after, after)) * unit
            bound += least * before.shape[1] ** 0.5 + np.abs(wanted).max(axis=1) * 2**-20
            sound = np.isfinite(found - wanted).all(axis=1) & np.isfinite(bound)
            if not (sound.all() or nonfinite):
                return "It holds NaN or infinity."
            found, wanted, bound = found[sound], wanted[sound], bound[sound]
            off.append(found - wanted)
            size.append(bound)
            slope += float((found * wanted).sum())
            weight += float((wanted * wanted).sum())
            noise += float(((bound[:, None] * wanted) ** 2).sum())
    return _verdict(np.concatenate(off), np.concatenate(size), slope, weight, noise)


def _verdict(off: Array, size: Array, slope: float, weight: float, noise: float) -> str:
    import numpy as np

    if not off.size:
        return ""
    worst = float((np.abs(off).max(axis=1) / np.maximum(size, 1e-300)).max(initial=0.0))
    if worst > 8:
        return f"W'x differs from Wx + update by {worst:.3g} times the rounding error."
    spread = float(np.sqrt((off**2).mean()) / max(np.sqrt((size**2).mean()), 1e-300))
    if off.size >= 64 and spread > 1:
        return f"W'x scatters around Wx + update by {spread:.3g} times the rounding error."
    if weight and abs(slope / weight - 1) > 6 * noise**0.5 / weight + 1e-3:
        return f"{slope / weight:.4g} of the update is in the weight, 1 was expected."
    return ""


def converted(edit: Edit, written: TensorSpec) -> str:
    """Check a tensor that was only decoded, or rounded to another dtype."""
    import numpy as np

    unit, least = _ROUNDOFF[written.dtype]
    for _, before, after in _pairs(edit, written):
        wrong = ~(np.abs(after - before) <= np.abs(before) * unit * (1 + 1e-9) + least)
        if bool((wrong & np.isfinite(before)).any()):
            return f"It is not the source rounded to {written.dtype}."
    return ""


def _pairs(edit: Edit, written: TensorSpec) -> Iterator[tuple[int, Array, Array]]:
    written = written._replace(shape=edit.source.shape)  # a matrix, where that is the edit
    for row, before in base_rows(edit):
        yield row, before, part_of(written, row, len(before))
