"""The size that so many entries of an update exceed, exactly, without keeping the entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from adaptertools.blends._entrywise import tiles
from adaptertools.update.factors import Factors

if TYPE_CHECKING:
    from adaptertools.update import Array

SAMPLE = 2**16  # entries that say where a threshold lies
_SLACK = 1 - 2.0**-40  # an entry at the threshold passes in whatever block it was computed


def thresholds(parts: Sequence[Factors], density: float) -> list[float]:
    """Give, for each update, the size of the smallest of its ⌊density · m · n⌋ largest entries."""
    if density >= 1:
        return [0.0] * len(parts)
    count = parts[0].shape[0] * parts[0].shape[1]
    return [largest([part], int(density * count)) for part in parts]


def trim(rows: list[Array], limits: Sequence[float]) -> list[Array]:
    """Set to 0, in place, what is smaller than its update's limit."""
    import numpy as np

    for entries, limit in zip(rows, limits, strict=True):
        entries *= np.abs(entries) >= limit
    return rows


def largest(
    parts: Sequence[Factors], keep: int, size: Callable[[list[Array]], Array] | None = None
) -> float:
    """Give the `keep`th largest of what `size` makes of the entries (|entry| of the first).

    Exact: a sample says where it lies, one pass counts what is above and sorts what is near.
    """
    import numpy as np

    measure = size or (lambda rows: np.abs(rows[0]))
    if keep <= 0:
        return float("inf")
    count = parts[0].shape[0] * parts[0].shape[1]
    for low, high in _brackets(parts, measure, keep / count):
        above, near = 0, []
        for _, rows in tiles(parts):
            values = measure(rows)
            above += int((values > high).sum())
            near.append(values[(values >= low) & (values <= high)])
        inside = np.concatenate(near)
        if above < keep <= above + len(inside):
            place = len(inside) - (keep - above)
            return float(np.partition(inside, place)[place]) * _SLACK
    return 0.0  # fewer entries than that


def _brackets(
    parts: Sequence[Factors], measure: Callable[[list[Array]], Array], share: float
) -> Iterator[tuple[float, float]]:
    """Guess where the entry with this share above it lies: narrow, then everything."""
    import numpy as np

    m, n = parts[0].shape
    if m * n > 4 * SAMPLE:
        pick = np.random.Generator(np.random.Philox(0))
        rows, columns = pick.integers(m, size=SAMPLE), pick.integers(n, size=SAMPLE)
        drawn = [np.einsum("ir,ri->i", p.up[rows], p.down[:, columns]) for p in parts]
        values = np.sort(measure(drawn))[::-1]
        spread = 5 * (SAMPLE * share * (1 - share)) ** 0.5 + 5
        place = share * SAMPLE
        high = float(values[int(place - spread)]) if place > spread else np.inf
        low = float(values[int(place + spread)]) if place + spread < SAMPLE else 0.0
        yield low, high
    yield 0.0, np.inf
