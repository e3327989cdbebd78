"""Hold a packed weight against base and adapter: is the update in it, once, and nothing else?

Rounding to a grid is off by steps, not by units in the last place, so single elements say little.
Summed over the weight they do: with D the change and E = Q − T the error of what is stored, the
slope ⟨(Q − W)P, DP⟩ / ⟨DP, DP⟩ over probes P is 1 for an unbiased rounding, 0 for a missing update,
2 for one added twice; it scatters by ‖E‖/√n · ‖p‖ / ‖DP‖. For products P is the rows of A, which
hold all of D. Every code is held against the values that rounding could have given.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from adaptertools import stacks
from adaptertools.errors import AdapterToolsError, shown
from adaptertools.grid import grid
from adaptertools.jobs import Edit
from adaptertools.probe_reach import strangers
from adaptertools.probe_rows import base_rows
from adaptertools.probe_values import expected
from adaptertools.probe_written import read_back
from adaptertools.scales import NEAREST, wanted_scales
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import placed
from adaptertools.update.lowrank import LowRank

if TYPE_CHECKING:
    from adaptertools.update import Array

PROBES, WIDE = 64, 2048  # ±1 columns; columns up to which a change of any kind is written out
LOW, HIGH = 0.25, 0.1  # clipping at the ends of the grid loses some of a large update


def applied(edit: Edit, written: Mapping[str, TensorSpec]) -> str:
    """Check an edit that is packed or turned; give the fault, empty where there is none.

    `written` are all tensors of the output. Holds a few copies of one matrix in float64.
    """
    for one, made in stacks.written(edit, written):
        if fault := _applied(one, made):
            return fault if one is edit else f"{shown(one.name)}: {fault}"
    return ""


def _applied(edit: Edit, written: Mapping[str, TensorSpec]) -> str:
    import numpy as np

    with np.errstate(all="ignore"):
        before = np.concatenate([rows for _, rows in base_rows(edit)])
        change = _change(edit, before)
        probes = _probes(edit, before.shape[1])
        meant = change @ probes if change is not None else _moved(edit, before, probes)
        try:
            after, spread = read_back(edit, written)
        except (AdapterToolsError, ValueError, KeyError, TypeError) as error:
            return f"It cannot be read: {shown(error)}"
        after = after.T if edit.turned else after
        found = (after - before) @ probes
        if not edit.updates or change is not None:
            exact = before if change is None else before + change
            if fault := _elements(edit, before, exact, after, spread):
                return fault
        nearest = edit.repack is not None and edit.repack.rounding in NEAREST
        if not edit.updates or (nearest and edit.packed is not None):
            return ""  # every element was held against its neighbours; nearest may lose the rest
        return _slope(edit, found, meant)


def _moved(edit: Edit, before: Array, x: Array) -> Array:
    return expected(edit)(0, before, x) - before @ x  # type: ignore[no-any-return]


def _change(edit: Edit, before: Array) -> Array | None:
    """Write the change out in float64; None where that would take too long."""
    import numpy as np

    if not edit.updates:
        return None
    products = _products(edit)
    if len(products) == len(edit.updates):
        return sum(p.scale * (p.up.read("float64") @ p.down.read("float64")) for p in products)  # type: ignore[return-value]
    columns = before.shape[1]
    return _moved(edit, before, np.eye(columns)) if columns <= WIDE else None


def _probes(edit: Edit, columns: int) -> Array:
    import numpy as np

    products = _products(edit)
    if products and len(products) == len(edit.updates):
        down = np.concatenate([product.down.read("float64") for product in products])
        probes: Array = np.linalg.qr(down.T)[0]
        return probes
    seed = zlib.crc32(edit.name.encode())
    return np.random.default_rng(seed).choice([-1.0, 1.0], (columns, PROBES))


def _products(edit: Edit) -> list[LowRank]:
    whole = placed.products(edit.updates, (edit.source.rows, edit.source.columns))
    return [update for update in whole if isinstance(update, LowRank)]


def _elements(edit: Edit, before: Array, exact: Array, after: Array, spread: Array | None) -> str:
    """Hold every element against what was meant; `exact` is in float64."""
    import numpy as np

    off = np.abs(after - exact)
    slack = np.abs(exact) * 2**-7  # a logical dtype of 16 bits is rounded to first
    if edit.repack is None or spread is None:
        return "" if (off <= slack).all() else "It is not base plus update, rounded."
    table = grid(edit.repack.codec.table)
    if not edit.repack.kept:
        # Scales that are packed themselves are coarse where one of a group is large.
        wanted, slip = wanted_scales(edit, exact)
        apart = np.abs(spread - wanted)
        if (apart > slip * wanted.max(initial=0) + 1e-30).any():
            return "Its scales are not those of base plus update."
        slack += apart * max(-table.low, table.high)
        slack += 2**-24 if edit.repack.codec.kind == "int8" else 0.0  # goes through float16
    gaps = np.diff(table.values.astype(np.float64))
    steps = gaps.max() * np.abs(spread)
    past = np.maximum(np.abs(exact) - max(-table.low, table.high) * np.abs(spread), 0)
    beyond = past > 0
    if edit.repack.rounding in NEAREST:
        wrong = off > steps * 0.51 + slack
    elif edit.repack.kept:
        products = _products(edit)
        known = products if len(products) == len(edit.updates) else []
        count = strangers(edit, known, before, exact - before, after, spread)
        return f"{count} codes are none that rounding could have given." if count else ""
    else:
        # Fresh scales that are packed themselves are off, so what is fed back is not known exactly.
        wrong = off > 3 * steps + slack + past.sum(axis=0, keepdims=True)
    count = int((wrong & ~beyond).sum())
    return f"{count} elements are further off than rounding can be." if count else ""


def _slope(edit: Edit, found: Array, meant: Array) -> str:
    import numpy as np

    energy = float((meant**2).sum())
    if not energy:
        moved = edit.repack is not None and edit.repack.kept and found.any()
        return "The update is zero, and the weight changed." if moved else ""
    slope = float((found * meant).sum()) / energy
    each = float(np.sqrt(((found - meant) ** 2).sum() / max(found.size, 1)))  # of one E·p
    scatter = 6 * each / energy**0.5
    if not -LOW - scatter < slope - 1 < HIGH + scatter:
        return f"{slope:.3g} of the update is in the weight, 1 was expected."
    return ""
