"""How far rounding may have moved each element of a packed weight that keeps its scales.

Plain odds take W + D to a neighbour. Steered ones (requantise.py) never go against D: T, what an
element is to carry, is 0 or at most 2 D, and a push takes from it or adds at most T. For products
all but the dice is known again: the errors of earlier rows, which make the push, are those of the
file, so each code must be a neighbour of what was meant for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from adaptertools.jobs import Edit
from adaptertools.requantise import Feedback, Focus, half_step
from adaptertools.spaces import spaces
from adaptertools.unpacked import mean_scale
from adaptertools.update import Update

if TYPE_CHECKING:
    from adaptertools.update import Array

_FURTHEST = 4  # times its change: twice its share of a row, and twice that by a push
_SLACK = 0.02  # of T: a row's share may hang on an element that float32 takes for larger
_TIE = 1e-3  # of the size below which elements are left out: near it an element may be either


def strangers(
    edit: Edit, products: Sequence[Update], before: Array, change: Array, after: Array, scale: Array
) -> int:
    """Count the codes that rounding cannot have given.

    `change` is what the update adds, all in float64; `products` are the updates where every one is
    a product, else empty: then what others carry is not known, and the bound is wider.
    """
    import numpy as np

    assert edit.repack is not None
    values = np.array(edit.repack.codec.table.values)
    middle, last = (values[1:] + values[:-1]) / 2, len(values) - 1
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 1e-38)
    start, near = np.searchsorted(middle, before * inverse), 1e-3 * np.diff(values).min()
    found = np.searchsorted(middle, after * inverse)
    if edit.repack.rounding == "adapter":
        bounds = _steered(edit, products, before, change, after, scale)
    else:
        bounds = change, change
    low = np.searchsorted(values, (before + bounds[0]) * inverse - near, "right") - 1
    high = np.searchsorted(values, (before + bounds[1]) * inverse + near, "left")
    # In float32 a change far below its weight may have lost its sign.
    sure = np.abs(change) > 2.0**-20 * np.abs(before)
    sure |= (bounds[0] == 0) & (bounds[1] == 0)
    low = np.where(sure & (bounds[0] >= 0), np.maximum(low, start), low)
    high = np.where(sure & (bounds[1] <= 0), np.minimum(high, start), high)
    wrong = (found < np.minimum(low, last)) | (found > np.maximum(high, 0))
    return int(wrong[inverse > 0].sum())


def _steered(
    edit: Edit, products: Sequence[Update], before: Array, change: Array, after: Array, scale: Array
) -> tuple[Array, Array]:
    import numpy as np

    furthest = _FURTHEST * change
    low, high = np.minimum(furthest, 0), np.maximum(furthest, 0)
    if not products:
        return low, high
    assert edit.packed is not None
    table = edit.packed.codec.table
    down = (table.values[0] * scale - before).astype(np.float32)
    up = (table.values[-1] * scale - before).astype(np.float32)
    known = spaces(products)
    focus = Focus.of(known, table, mean_scale(edit.packed))
    feedback = Feedback(known.writes, half_step(table), focus)
    either = [
        replace(focus, rows=focus.rows * part, columns=focus.columns * part).carried(
            change.astype(np.float32), down, up, 0
        )
        for part in (1 - _TIE, 1 + _TIE)
    ]
    error, size = (after - before - change).astype(np.float32), scale.astype(np.float32)
    for part in feedback.parts(0, len(change)):
        meant = [feedback.wanted(target[part], size[part], part.start) for target in either]
        slack = _SLACK * np.maximum(*(np.abs(target[part]) for target in either))
        low[part] = np.maximum(low[part], np.minimum(*meant) - slack)
        high[part] = np.minimum(high[part], np.maximum(*meant) + slack)
        feedback.learn(error[part], part.start)
    return low, high
