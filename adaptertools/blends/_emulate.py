"""What other tools make of the same adapters and weights, cross terms and all.

Each of these adds the factors, not the updates: (Σ bᵢBᵢ)(Σ aᵢAᵢ) has a term for every pair of
adapters, and depends on how a trainer happened to split an update into B and A. They are here to
reproduce a result that exists, under the name of the tool that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from adaptertools.blends import Options
from adaptertools.errors import Unsupported
from adaptertools.update.factors import Factors

if TYPE_CHECKING:
    from adaptertools.update import Array


class Raw(NamedTuple):
    """An adapter's factors as they are stored: B (m, r) and A (r, n), and the scale beside them.

    Of an embedding, hand over the transposes, lora_embedding_B and _A, and turn the result.
    """

    factors: Factors
    scale: float
    rslora: bool = False


Emulator = Callable[[Sequence[Raw], Sequence[float], Options], Factors]


def peft_linear(raw: Sequence[Raw], weights: Sequence[float], options: Options) -> Factors:
    """B = Σ √|wᵢsᵢ| Bᵢ, A = Σ sgn(wᵢsᵢ) √|wᵢsᵢ| Aᵢ: `linear` of PEFT 0.19 to 0.21.2."""
    one, other = _sides(raw, weights, "peft-linear")
    return Factors(_added(one) * _after(raw), _added(other))


def peft_ties(raw: Sequence[Raw], weights: Sequence[float], options: Options) -> Factors:
    """TIES on the Bᵢ and on the Aᵢ, each for itself: `ties` of PEFT 0.19 to 0.21.2.

    Signs are elected before the weights, and plus where they are even.
    """
    one, other = _sides(raw, weights, "peft-ties")
    up, down = (_peft_ties(side, options.density) for side in (one, other))
    return Factors(up * _after(raw), down)


def kohya(raw: Sequence[Raw], weights: Sequence[float], options: Options) -> Factors:
    """α₁/r · (Σ |cᵢ| Bᵢ)(Σ cᵢ Aᵢ), cᵢ = wᵢ √(αᵢ/α₁): `merge_lora.py` of kohya-ss/sd-scripts.

    Its own terms come in with w², its --concat and its SVD variant are something else again.
    """
    _rank(raw, "kohya")
    base = raw[0].scale  # with one rank for all, αᵢ/α₁ is sᵢ/s₁, and α₁/r is s₁
    if any(each.scale * base <= 0 for each in raw):
        raise Unsupported("kohya's merge takes the root of αᵢ/α₁, and an alpha here is 0 or below.")
    shares = [w * (each.scale / base) ** 0.5 for w, each in zip(weights, raw, strict=True)]
    up = _added([(abs(c), each.factors.up) for c, each in zip(shares, raw, strict=True)])
    down = _added([(c, each.factors.down) for c, each in zip(shares, raw, strict=True)])
    return Factors(up * base, down)


def lorahub(raw: Sequence[Raw], weights: Sequence[float], options: Options) -> Factors:
    """s₁ (Σ wᵢBᵢ)(Σ wᵢAᵢ): `get_final_weights` of sail-sg/lorahub, loaded as the first adapter.

    Also what AdapterHub and LoRAX call linear. The weight comes in squared, its sign is lost.
    """
    _rank(raw, "lorahub")
    up = _added([(w, each.factors.up) for w, each in zip(weights, raw, strict=True)])
    down = _added([(w, each.factors.down) for w, each in zip(weights, raw, strict=True)])
    return Factors(up * raw[0].scale, down)


EMULATORS: dict[str, Emulator] = {
    "peft-linear": peft_linear,
    "peft-ties": peft_ties,
    "kohya": kohya,
    "lorahub": lorahub,
}


def _rank(raw: Sequence[Raw], tool: str) -> None:
    """Raise Unsupported where ranks differ, as the tools do."""
    ranks = sorted({each.factors.rank for each in raw})
    if len(ranks) > 1:
        raise Unsupported(
            f"{tool} adds factors, and these are of ranks {', '.join(map(str, ranks))}: the tool "
            "itself refuses them. Use --how sum."
        )


_Side = list[tuple[float, "Array"]]


def _added(side: _Side) -> Array:
    import numpy as np

    found: Array = np.sum([c * values for c, values in side], axis=0)
    return found


def _sides(raw: Sequence[Raw], weights: Sequence[float], tool: str) -> tuple[_Side, _Side]:
    """Give PEFT's coefficients with the Bᵢ, and with the Aᵢ, which carry the sign."""
    _rank(raw, tool)
    both = [(w * each.scale, each.factors) for w, each in zip(weights, raw, strict=True)]
    one = [(abs(c) ** 0.5, f.up) for c, f in both]
    other = [(abs(c) ** 0.5 * (1 if c >= 0 else -1), f.down) for c, f in both]
    return one, other


def _after(raw: Sequence[Raw]) -> float:
    """Give the scale of PEFT's new adapter: alpha is r, but use_rslora is the first adapter's."""
    return float(raw[0].factors.rank ** 0.5) if raw[0].rslora else 1.0


def _peft_ties(side: _Side, density: float) -> Array:
    """Do as `ties` of peft/utils/merge_utils.py does with one kind of factor."""
    import numpy as np

    trimmed = [_top(values, density) for _, values in side]
    elected = np.where(sum(trimmed) >= 0, 1, -1)
    agree = [np.sign(values) == elected for values in trimmed]
    summed = sum(c * t * a for (c, _), t, a in zip(side, trimmed, agree, strict=True))
    merged: Array = summed / np.maximum(sum(a.astype(float) for a in agree), 1)
    return merged


def _top(values: Array, density: float) -> Array:
    import numpy as np

    if density >= 1:
        return values
    made = np.zeros_like(values)
    order = np.argsort(-np.abs(values), axis=None, kind="stable")[: int(density * values.size)]
    made.flat[order] = values.flat[order]
    return made
