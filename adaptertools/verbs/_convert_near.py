"""The nearest LoRA of a rank: an exact SVD of a module's change, and how far off what is stored is.

Of a change that is a product the SVD is that of its factors; else the weight's whole change is
formed in float64, one weight at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.errors import Unsupported, shown
from adaptertools.formats._modules import cast
from adaptertools.probe_rows import ROWS
from adaptertools.update.factors import Factors
from adaptertools.verbs._convert_closed import closed, product
from adaptertools.verbs._convert_lora import Low
from adaptertools.verbs._convert_seats import Held, Seat
from adaptertools.verbs._extract_matrix import Change, Said, factors
from adaptertools.verbs._stack_ask import Ask
from adaptertools.verbs._stack_ranks import Spectrum, single

if TYPE_CHECKING:
    from adaptertools.update import Array

DEFAULT = Ask("number", 16)  # what vLLM takes unless it is told otherwise
_WHOLE = 1e-12  # of ‖ΔW‖²: less than that is rounding, and nothing was left out
_ROUNDED = 2.0**-49  # 16 roundings of a weight: what forming update(W) − W can be off by


@dataclass(frozen=True, slots=True, kw_only=True)
class Lossy:
    """What may be lost: whether anything, at which rank, and the dtype that it is stored in."""

    allowed: bool = False
    rank: Ask | None = None
    code: str = "F32"

    @classmethod
    def of(cls, allowed: bool, rank: str | int | None, code: str | None) -> Lossy:
        """Read --allow-lossy and --rank; raise Unsupported where one needs the other."""
        ask = None if rank is None else Ask.of(rank)
        if ask is not None and ask.kind in ("max", "budget"):
            raise Unsupported(
                f"--rank {shown(rank)}: a number, energy:0.99 or auto was expected. "
                "`adaptertools resize` has the others."
            )
        if ask is not None and ask.kind != "number" and not allowed:
            raise Unsupported(
                f"--rank {shown(rank)} may leave small components out. Pass --allow-lossy to have "
                "that, or a number to pad to."
            )
        return cls(allowed=allowed, rank=ask, code=code if code in tensorfile.FLOATS else "F32")

    @property
    def number(self) -> int | None:
        """The rank that was asked for, if it was a number."""
        return int(self.rank.number) if self.rank and self.rank.kind == "number" else None


def facts(said: Sequence[Said], ask: Lossy) -> dict[str, Any]:
    """Give the figures of all modules, worst ones included; schemas/report.schema.json."""
    square = sum(each.norm**2 for each in said)
    lost = sum((each.error * each.norm) ** 2 for each in said)
    return {
        "rank": str(ask.rank or DEFAULT), "error": (lost / square) ** 0.5 if square else 0.0,
        "worst": max(each.error for each in said),
        "whole": all(each.energy > 1 - _WHOLE for each in said),
        "modules": [each.as_json() for each in said],
    }  # fmt: skip


def cut(lows: Iterator[Low], ask: Lossy, said: list[Said]) -> Iterator[Low]:
    """Cut products down to the rank that was asked for; those of no more stay as they are."""
    for low in lows:
        if not ask.allowed or ask.rank is None or (ask.number or 0) >= low.factors.rank:
            yield low
            continue
        thin = low.factors.svd()
        side = Spectrum(
            target=low.target, shape=thin.shape, values=thin.s, whole=thin.rank,
            largest=low.factors.rank, group=low.target,
        )  # fmt: skip
        rank = single(side, ask.rank)
        if not thin.rank or rank >= low.factors.rank:
            yield low
            continue
        kept = thin.truncated(rank).factors()
        if rank < thin.rank:
            said.append(_measured(low, kept, thin.energy(rank)))
        yield replace(low, factors=kept)


def _measured(low: Low, kept: Factors, energy: float) -> Said:
    """Hold what will be stored against the product that it stands for, by rows."""
    import numpy as np

    up, down = (
        cast(each, low.code, low.target)[0].astype(np.float64) for each in (kept.up, kept.down)
    )
    step, square, total, worst = max(ROWS // kept.shape[1], 1), 0.0, 0.0, 0.0
    for row in range(0, kept.shape[0], step):
        part = slice(row, row + step)
        whole = low.factors.rows(part).dense()
        off = whole - up[part] @ down
        total += float((whole**2).sum())
        square += float((off**2).sum())
        worst = max(worst, float(np.abs(off).max()))
    return Said(
        target=low.target, shape=kept.shape, rank=kept.rank, norm=total**0.5, energy=energy,
        error=(square / total) ** 0.5, worst=worst, method="factors",
    )  # fmt: skip


def changes(
    found: Sequence[Seat], ask: Lossy, said: list[Said], *, biases: bool
) -> Iterator[Low]:  # fmt: skip
    """Give each module's change as factors: exact where it is a product, else the nearest.

    What changes nothing is left out; with `biases`, those that a method changes are saved whole.
    """
    for seat in found:
        base, known = seat.base(), closed(seat.updates)
        if known:
            made = product(seat.updates, base, seat.site.transposed)
        else:
            made = _nearest(seat, base, ask, said)
        whole = _bias(seat) if biases and seat.bias_updates else None
        if made is None and whole is None:
            continue
        low = Low(
            target=seat.entry.target, axes=seat.axes, code=ask.code, embedding=seat.embedding,
            factors=_nothing(seat.site.shape) if made is None else made, whole_bias=whole,
            nested=seat.entry.nested, bias=added(seat),
        )  # fmt: skip
        yield from cut(iter([low]), ask, said) if known else [low]


def added(seat: Seat) -> Array | None:
    """Give what lora_bias adds to a bias, scaled; None where the method has none."""
    spec = seat.entry.parts.get("lora_B.bias")
    if spec is None:
        return None
    scaled: Array = tensorfile.read(spec).astype("float64") * seat.entry.scale
    return scaled


def _nearest(seat: Seat, base: Held, ask: Lossy, said: list[Said]) -> Factors | None:
    """Decompose a change of full rank; None where it changes nothing."""
    import numpy as np

    edge = sum(float(np.linalg.norm(base.values, axis=i).max(initial=0.0)) for i in (0, 1))
    moved = seat.change(base)
    values = moved.T if seat.site.transposed else moved
    if not values.any():
        return None
    change = Change(values=values, noise=_ROUNDED * edge)
    found = factors(seat.entry.target, change, ask.rank or DEFAULT, ask.code)
    if found is None:
        return None
    up, down, figures = found
    said.append(figures)
    return Factors(up.astype("float64"), down.astype("float64"))


def _bias(seat: Seat) -> Array:
    base = seat.base(bias=True)
    whole: Array = (base.values + seat.change(base, bias=True)).reshape(-1)
    return whole


def _nothing(shape: tuple[int, int]) -> Factors:
    import numpy as np

    return Factors(np.zeros((shape[0], 1)), np.zeros((1, shape[1])))
