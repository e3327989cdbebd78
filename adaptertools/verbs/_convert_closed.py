"""Updates that depend on the base's weight, as the exact product that they are.

HRA: W·Π(I − 2uᵢuᵢᵀ) − W = −(W·U)·(T·Uᵀ), the compact WY form (Schreiber and Van Loan, SIAM J. Sci.
Stat. Comput. 10 (1989) 53). DEFT, PEANuT: up·f(left·W). PSOFT: U·C·Vᵀ between singular vectors.
OSF: what is trained less the components that it takes the place of. PiSSA (arXiv:2404.02948) and
OLoRA (arXiv:2406.01775): s·B·A less what training began with, U·S·Vᵀ of the r largest components
or s·Q·R of the first r rows of R; nothing of it is in the file, and no sign matters to the product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools.methods.hra import Reflections
from adaptertools.update import Base, Opened, Update
from adaptertools.update.factors import Factors, cat
from adaptertools.update.largest import top
from adaptertools.update.principal import Principal
from adaptertools.update.through import Through
from adaptertools.update.truncate import Truncate
from adaptertools.update.turned import Turned
from adaptertools.verbs._sources_forms import factored

if TYPE_CHECKING:
    from adaptertools.verbs._convert_seats import Held


@dataclass(frozen=True, slots=True)
class Began:
    """What training took away from W: the factors that it began with. Never a step of a merge."""

    kind: str  # "pissa", "olora"
    rank: int
    scale: float  # of the adapter; PiSSA divides its factors by it
    additive = False

    @property
    def shape(self) -> None:
        """It fits any matrix."""
        return

    def open(self, base: Base) -> Opened:
        """Refuse: it is here for its factors."""
        raise NotImplementedError

    def describe(self) -> Mapping[str, object]:
        """Name the factors."""
        return {"kind": self.kind, "rank": self.rank}


def closed(updates: Sequence[Update]) -> bool:
    """Tell whether updates are a product that `product` gives; none at all are."""
    return all(_way(update) is not None for update in updates)


def product(updates: Sequence[Update], base: Held, turned: bool) -> Factors | None:
    """Give the sum of such updates as one product, in nn.Linear's orientation; None of none.

    `turned` says that the base is stored (in, out); each update sees the weight before any of them.
    """
    found = []
    for update in updates:
        way = _way(update)
        assert way is not None
        found.append(way(update, base))
    if not found:
        return None
    whole = cat(found)
    return whole.turned() if turned else whole


def _way(update: Update) -> Callable[[Any, Held], Factors] | None:
    if isinstance(update, Truncate) and update.rounded:
        return None  # a rounding of the whole weight is part of it
    if isinstance(update, Turned) and not _reflects(update):
        return None
    if type(update) in _WAYS:
        return _WAYS[type(update)]
    low = factored(update)
    # RandLoRA's, which is a product of more components than the weight has rows or columns.
    return _fixed if low is not None and low.rank < min(low.shape) else None


def _reflects(update: Turned) -> bool:
    return isinstance(update.turn, Reflections) and update.rows is None


def _fixed(update: Update, base: Held) -> Factors:
    low = factored(update)
    assert low is not None
    made = low.product("float64")
    return Factors(made.up, made.down)


def _through(update: Through, base: Held) -> Factors:
    made = Factors(update.core.up() * update.weight, update.core.between(update.seen(base)))
    return made.turned() if update.transposed else made


def _reflected(update: Turned, base: Held) -> Factors:
    assert isinstance(update.turn, Reflections)
    left, right = update.turn.wy()
    return Factors(base.values @ left * -update.weight, right)


def _principal(update: Principal, base: Held) -> Factors:
    left, values, right = update.factors(base.values.astype("float32"))
    return Factors(left @ update.core.between(values) * update.weight, right)


def _truncated(update: Truncate, base: Held) -> Factors:
    import numpy as np

    left, values, right = np.linalg.svd(base.values, full_matrices=False)
    keep = len(values) - update.rank
    return Factors(left[:, keep:] * (values[keep:] * -update.weight), right[keep:])


def _began(update: Began, base: Held) -> Factors:
    import numpy as np

    if update.kind == "olora":
        left, right = np.linalg.qr(base.values)
        return Factors(left[:, : update.rank] * -update.scale, right[: update.rank])
    thin = top(base.values, update.rank)
    return Factors(thin.u * -thin.s, thin.vt)


_WAYS: Mapping[type, Callable[[Any, Held], Factors]] = {
    Through: _through, Turned: _reflected, Principal: _principal, Truncate: _truncated,
    Began: _began,
}  # fmt: skip
