"""How often updates pull an entry of a weight in opposite directions, from a sample of entries.

Entry (i, j) of up·down is one product of a row and a column, so that the dense updates are never
formed. The interval is that of Agresti and Coull, Am. Stat. 52 (1998) 119, with 95 % confidence;
of several weights the shares are added up by size, and their variances with them (stratified).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools.update.factors import Factors

if TYPE_CHECKING:
    from adaptertools.update import Array

Z = 1.959963984540054  # the normal's quantile at 97.5 %
BLOCK = 1 << 14  # entries that are looked at together
_ROUNDING = 2.0**-48  # of ‖row‖‖column‖: an entry below it is zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of entries, and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float
    exact: bool  # every entry was looked at


@dataclass(frozen=True, slots=True)
class Tally:
    """Among `seen` of the `size` entries of a weight, `hits`."""

    hits: int
    seen: int
    size: int

    @property
    def exact(self) -> bool:
        """Whether every entry was looked at."""
        return self.seen == self.size


def tally(
    parts: Sequence[Factors], samples: int, random: Any
) -> tuple[dict[tuple[int, int], Tally], Tally]:
    """Count entries of opposite sign, for each two of the updates, and for any two of them.

    `random` is a numpy Generator. Where a weight has no more than `samples` entries, all are
    looked at. An entry that is zero has no sign.
    """
    import numpy as np

    rows, columns = parts[0].shape
    whole = rows * columns <= samples
    seen = rows * columns if whole else samples
    pairs = [(a, b) for a in range(len(parts)) for b in range(a + 1, len(parts))]
    hits, some = dict.fromkeys(pairs, 0), 0
    turned = [np.ascontiguousarray(part.down.T) for part in parts]
    sizes = [_sizes(part) for part in parts]
    for start in range(0, seen, BLOCK):
        count = min(BLOCK, seen - start)
        if whole:
            at = np.divmod(np.arange(start, start + count), columns)
        else:
            at = random.integers(rows, size=count), random.integers(columns, size=count)
        signs = [
            _signs(part.up[at[0]], down[at[1]], up_sizes[at[0]] * down_sizes[at[1]])
            for part, down, (up_sizes, down_sizes) in zip(parts, turned, sizes, strict=True)
        ]
        for a, b in pairs:
            hits[a, b] += int((signs[a] * signs[b] < 0).sum())
        some += int(((np.max(signs, axis=0) > 0) & (np.min(signs, axis=0) < 0)).sum())
    found = {pair: Tally(count, seen, rows * columns) for pair, count in hits.items()}
    return found, Tally(some, seen, rows * columns)


def _sizes(part: Factors) -> tuple[Array, Array]:
    import numpy as np

    up: Array = np.linalg.norm(part.up, axis=1)
    down: Array = np.linalg.norm(part.down, axis=0)
    return up, down


def _signs(up: Array, down: Array, sizes: Array) -> Array:
    """Give −1, 0 or 1 for each entry; zero is what rounding alone could have made."""
    import numpy as np

    values = np.einsum("ij,ij->i", up, down)
    signs: Array = np.sign(values) * (np.abs(values) > _ROUNDING * sizes)
    return signs


def share(tallies: Sequence[Tally]) -> Share:
    """Give the share of hits in all entries of these weights, at least one."""
    total = sum(each.size for each in tallies)
    value = sum(each.size * each.hits / each.seen for each in tallies) / total
    rough = [each for each in tallies if not each.exact]
    if not rough:
        return Share(value=value, low=value, high=value, exact=True)
    # Each weight's share is moved towards 1/2, so that none has a variance of zero.
    variance, moved = 0.0, value
    for each in rough:
        part, near = each.size / total, (each.hits + Z * Z / 2) / (each.seen + Z * Z)
        variance += part**2 * near * (1 - near) / (each.seen + Z * Z)
        moved += part * (near - each.hits / each.seen)
    half = Z * variance**0.5
    return Share(value=value, low=max(moved - half, 0.0), high=min(moved + half, 1.0), exact=False)
