"""What is stored of a module: factors of a rank and a dtype, and how exact they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adaptertools.blends import mixed
from adaptertools.errors import Unreadable, Unsupported, shown
from adaptertools.tensorfile import FLOATS, dtype_of
from adaptertools.update.factors import Factors, Thin, certificate
from adaptertools.verbs._stack_modules import EXACT, Module

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What became of one module: figures for the report."""

    target: str
    shape: tuple[int, int]
    rank: int  # as stored
    needed: int  # the numerical rank of the blend
    norm: float  # of the blend
    energy: float  # the share of Σσ² that is kept
    rounding: float  # ‖stored − kept‖ / ‖kept‖
    survival: Mapping[str, float]  # adapter -> cos(its update, what of it lies in what is kept)
    found: float = 1.0  # the share of the blend that its factors hold, before any cut
    norms: Mapping[str, float] = field(default_factory=dict)  # adapter -> ‖its update‖
    beside: tuple[float, float, float] | None = None  # ⟨kept, sum⟩, ‖kept‖², ‖sum‖² of other hows
    residual: float | None = None  # the worst of the certificate, with --verify

    def as_json(self) -> dict[str, Any]:
        """Give it as the report says it."""
        inner = ("norms", "beside", "found")
        said = {n: getattr(self, n) for n in self.__dataclass_fields__ if n not in inner}
        said |= {"shape": list(self.shape), "survival": dict(self.survival)}
        return (
            said
            if self.residual is not None
            else {k: v for k, v in said.items() if k != "residual"}
        )


def stored(module: Module, rank: int, keep: int, code: str) -> tuple[Array, Array, Said]:
    """Give up (m, rank) and down (rank, n) in the stored dtype, zeros beyond `keep`, and figures.

    Raises Unreadable where an SVD does not satisfy its certificate, Unsupported where a value does
    not fit the dtype.
    """
    thin = module.thin.truncated(keep)
    plain = module.recipe.options.how == "cat" and rank >= module.blended.rank
    exact = module.blended if plain else thin.factors()
    up, down = (_cast(array, code, module.target) for array in (exact.up, exact.down))
    error = _rounding(exact, up, down)
    norms = {n.ref: part.norm() for n, part in zip(module.holders, module.parts, strict=True)}
    said = Said(
        target=module.target, shape=thin.shape, rank=rank, needed=module.thin.rank,
        norm=module.norm, energy=module.thin.energy(keep) * module.found, found=module.found,
        rounding=error, survival=_survival(module, thin, norms), norms=norms,
        beside=_beside(module, exact), residual=_certified(module, keep),
    )  # fmt: skip
    return _padded(up, rank, 1), _padded(down, rank, 0), said


def left_out(module: Module) -> Said:
    """Give the figures of a module of which nothing is kept."""
    norms = {n.ref: part.norm() for n, part in zip(module.holders, module.parts, strict=True)}
    gone = 0.0 if module.thin.rank else 1.0
    return Said(
        target=module.target, shape=module.thin.shape, rank=0, needed=module.thin.rank,
        norm=module.norm, energy=gone, rounding=0.0, survival=dict.fromkeys(norms, 0.0),
        norms=norms,
    )  # fmt: skip


def _cast(values: Array, code: str, target: str) -> Array:
    import numpy as np

    with np.errstate(over="ignore"):
        made: Array = values.astype(dtype_of(code))
    if not np.isfinite(made.astype("float64")).all():
        raise Unsupported(
            f"{shown(target)} has values that {FLOATS[code]} cannot hold. Pass --dtype float32."
        )
    return made


def _rounding(exact: Factors, up: Array, down: Array) -> float:
    """Give ‖B̂Â − BA‖ / ‖BA‖ as (B̂ − B)Â + B(Â − A), in which nothing cancels."""
    import numpy as np

    b, a = up.astype("float64"), down.astype("float64")
    size = exact.norm()
    error = Factors(
        np.concatenate([b - exact.up, exact.up], axis=1),
        np.concatenate([a, a - exact.down], axis=0),
    )
    return error.norm() / size if size else 0.0


def _survival(module: Module, thin: Thin, norms: Mapping[str, float]) -> dict[str, float]:
    """Give cos(UUᵀ·ΔWᵢ·VVᵀ, ΔWᵢ) = ‖UᵀΔWᵢV‖ / ‖ΔWᵢ‖ for each adapter; 1 for one that is zero."""
    import numpy as np

    found = {}
    for each, part in zip(module.holders, module.parts, strict=True):
        core = (thin.u.T @ part.up) @ (part.down @ thin.vt.T)
        norm = norms[each.ref]
        found[each.ref] = min(float(np.linalg.norm(core)) / norm, 1.0) if norm else 1.0
    return found


def _beside(module: Module, kept: Factors) -> tuple[float, float, float] | None:
    """Compare with the plain sum, where the result is something else."""
    recipe = module.recipe
    if recipe.options.how in EXACT:
        return None
    weights = [recipe.weight(n, module.target) for n in module.holders]
    plain = mixed(module.parts, weights)
    return kept.dot(plain), kept.dot(kept), plain.dot(plain)


def _certified(module: Module, keep: int) -> float | None:
    """Prove that what is kept is the best of its rank, by products alone; give the worst part."""
    if not module.recipe.options.verify:
        return None
    made = certificate([module.blended], module.thin, keep)
    if not made.holds():
        raise Unreadable(
            f"{shown(module.target)}: the decomposition does not satisfy its certificate "
            f"({made.left:.1e}, {made.right:.1e}, {made.residual:.1e} over {made.smallest:.1e}). "
            "Check the BLAS library and the memory of this machine."
        )
    return float(max(made.left, made.right))


def _padded(values: Array, rank: int, axis: int) -> Array:
    """Fill up with zeros, which change nothing."""
    import numpy as np

    missing = rank - values.shape[axis]
    if missing <= 0:
        return values
    widths = [(0, missing if at == axis else 0) for at in range(2)]
    made: Array = np.pad(values, widths)
    return made
