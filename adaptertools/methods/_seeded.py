"""torch's CPU random numbers, bit by bit, where a method saves the seed and not what it drew.

torch and numpy share the generator, MT19937 of 32 bits; how numbers are made of its words is in
aten/src/ATen/native/TensorFactories.cpp (`randperm_cpu`) and native/cpu/DistributionTemplates.h
(`normal_fill`; torch's own logarithm and cosine round differently from one processor to the next,
in the last bit of a float32). The tests hold all of this against torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, shown
from adaptertools.methods._parts import number
from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array

_SMALL = (2**32 - 1) // 20  # permutations of fewer are shuffled forwards, by words of 32 bits
_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Drawn:
    """Places of an (out, in) matrix that a seed names."""

    seed: int
    out: int
    inside: int
    transposed: bool

    def read(self, count: int) -> tuple[Array, Array]:
        """Give rows and columns of the first places, in the base's orientation."""
        import numpy as np

        places = permutation(self.seed, self.out * self.inside, count)
        rows, columns = np.divmod(places, self.inside)
        return (columns, rows) if self.transposed else (rows, columns)


def drawn(site: Site, values: TensorSpec, out: int, inside: int) -> Drawn:
    """Give the places of `random_loc_seed`; raise Mismatch for more values than places."""
    if values.shape[0] > out * inside:
        raise Mismatch(
            f"{shown(values.name)} holds {values.shape[0]} entries, the weight {out * inside}. "
            "Pass the base that it was trained on as --base."
        )
    seed = int(number(site.config, "random_loc_seed", whole=True))
    return Drawn(seed, out, inside, site.transposed)


def permutation(seed: int, size: int, count: int) -> Array:
    """Give the first `count` of torch.randperm(size) from a CPU generator of this seed."""
    import numpy as np

    words = np.random.RandomState(seed & 0xFFFFFFFF)
    return _forwards(words, size, count) if size < _SMALL else _inside_out(words, size, count)


def _forwards(words: Any, size: int, count: int) -> Array:
    """Fisher and Yates: place i changes with one of those from i on. Only what moved is kept."""
    import numpy as np

    steps = min(count, size - 1)
    drawn = _words(words, steps).astype(np.int64) % (size - np.arange(steps))
    moved: dict[int, int] = {}
    found = []
    for i, ahead in enumerate(drawn.tolist()):
        found.append(moved.get(i + ahead, i + ahead))
        moved[i + ahead] = moved.get(i, i)
    found += [moved.get(steps, steps)] * (count - steps)
    return np.array(found, np.int64)


def _inside_out(words: Any, size: int, count: int) -> Array:
    """Each i takes the place of one before it. Only the first places are kept."""
    import numpy as np

    found = np.zeros(count, np.int64)
    for start in range(0, size, _AT_ONCE):
        places = np.arange(start, min(start + _AT_ONCE, size))
        halves = _words(words, 2 * len(places)).astype(np.uint64)
        drawn = (halves[::2] << np.uint64(32)) | halves[1::2]
        taken = (drawn % (places + 1).astype(np.uint64)).astype(np.int64)
        own = max(min(count - start, len(places)), 0)
        for i, j in zip(places[:own].tolist(), taken[:own].tolist(), strict=True):
            found[i], found[j] = found[j], i
        hit = own + np.flatnonzero(taken[own:] < count)
        found[taken[hit]] = places[hit]  # of several, the last stays
    return found


def _words(words: Any, count: int) -> Array:
    drawn: Array = words.randint(0, 2**32, count, dtype="uint32")
    return drawn


def normal(seed: int, count: int, deviation: float) -> Array:
    """Give what torch.normal draws on a CPU, before it is rounded to float32."""
    import numpy as np

    words = np.random.RandomState(seed & 0xFFFFFFFF)
    if count < 16:
        return _normal_doubles(words, count) * deviation
    uniform = _words(words, count) & (2**24 - 1)
    whole = count // 16 * 16
    found = np.empty(count)
    found[:whole] = _box_muller(uniform[:whole].reshape(-1, 16)).reshape(-1)
    if whole < count:  # the last 16 are drawn anew
        found[-16:] = _box_muller((_words(words, 16) & (2**24 - 1)).reshape(1, 16))
    return found * deviation


def _box_muller(uniform: Array) -> Array:
    """Give 16 numbers for 16: the first eight give radii, the others angles."""
    import numpy as np

    radii = np.sqrt(-2 * np.log(1 - uniform[:, :8] * 2.0**-24))
    angles = 2 * np.pi * (uniform[:, 8:] * 2.0**-24)
    return np.concatenate([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _normal_doubles(words: Any, count: int) -> Array:
    """Give few numbers, one pair after the other, from 53 bits each."""
    import numpy as np

    halves = _words(words, 4 * -(-count // 2)).astype(np.uint64).reshape(-1, 2)
    bits = ((halves[:, 0] << np.uint64(32)) | halves[:, 1]) & np.uint64(2**53 - 1)
    angles, rest = (bits * 2.0**-53).reshape(-1, 2).T
    radii, angles = np.sqrt(-2 * np.log1p(-rest)), 2 * np.pi * angles
    found: Array = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    return found.reshape(-1)[:count]
