"""RandLoRA: W + s·B·(λ∘A∘γ), of full rank, A and B random and shared.  arXiv:2502.00987

s is randlora_alpha / r. A (r, 1, min) and B (max, n, r) serve all modules, min and max being the
smaller and the larger of the largest out and the largest in. A lies on the smaller axis of a
module; λ (r, n) and γ (n, min) make (r, n, min) of it. Both are flattened in the order in which
they are stored, as peft/tuners/randlora/layer.py does; where in > out the product is transposed.
Without save_projection sparse ones are drawn again from projection_prng_key. PEFT 0.21 saves copies
of A and B under every module too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.methods import _bases, _drawn
from adaptertools.methods._parts import features, number, part
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Matrix, Update
from adaptertools.update.lowrank import LowRank
from adaptertools.update.matrices import Turned, oriented

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "RANDLORA"

tensors = {
    "randlora_lambda": "scales of A's rows, for each base (r, n)",
    "randlora_gamma": "scales of A's columns, for each base (n, min)",
    "randlora_A": "projection on the smaller axis, of all modules (r, 1, largest min)",
    "randlora_B": "projections on the larger axis, of all modules (largest max, n, r)",
}


@dataclass(frozen=True, slots=True)
class Basis:
    """A or B, flattened as far as a module needs it: saved, or drawn; A scaled by λ and γ."""

    shape: tuple[int, int]
    spec: TensorSpec | None
    drawn: tuple[int, int, int, int, float] | None
    scales: tuple[TensorSpec, TensorSpec] | None = None  # λ and γ

    def read(self, dtype: str) -> Array:
        """Load it in this dtype."""
        whole = tensorfile.read(self.spec) if self.spec else self._draw()
        if self.scales is None:
            rows, columns = self.shape
            return whole[:rows, : columns // whole.shape[2]].astype(dtype).reshape(self.shape)
        across, along = (tensorfile.read(spec).astype(dtype) for spec in self.scales)
        a = whole[:, :, : self.shape[1]].astype(dtype)
        return (across[:, :, None] * a * along[None]).reshape(self.shape)  # type: ignore[no-any-return]

    def _draw(self) -> Array:
        assert self.drawn is not None
        return _bases.drawn(*self.drawn)[self.scales is None]


def check(config: Mapping[str, Any]) -> None:
    """Refuse a config without alpha or r."""
    number(config, "randlora_alpha")
    number(config, "r", whole=True)


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    out, inside = features(site)
    long, short = max(out, inside), min(out, inside)
    rank = int(number(site.config, "r", whole=True))
    gamma = part(site, "randlora_gamma", None, short)
    scales, inner = part(site, "randlora_lambda", rank, gamma.rows), rank * gamma.rows
    a, b = (
        _saved(site, "randlora_A", (rank, 1, short)),
        _saved(site, "randlora_B", (long, gamma.rows, rank)),
    )
    drawn = None if a and b else _seed(site, rank)
    tall, flat = Basis((long, inner), b, drawn), Basis((inner, short), a, drawn, (scales, gamma))
    pair: tuple[Matrix, Matrix] = (tall, flat) if short == inside else (Turned(flat), Turned(tall))
    scale = number(site.config, "randlora_alpha") / rank
    return [LowRank(*oriented(*pair, site.transposed), scale * site.scale)]


def _saved(site: Site, role: str, least: tuple[int, ...]) -> TensorSpec | None:
    """Give a basis that was saved; None where it is drawn."""
    own, spec = site.entry.parts.get(role), site.shared.get(role)
    if own and spec and not tensorfile.same(own, spec):
        raise Mismatch(
            f"{shown(own.name)} is not the base_model.{role} that all modules share. "
            "Save the adapter again."
        )
    spec = spec or own or _drawn.saved(site, role)
    if spec and (
        len(spec.shape) != 3 or any(a < b for a, b in zip(spec.shape, least, strict=True))
    ):
        raise Mismatch(
            f"{shown(spec.name)} is {list(spec.shape)}, and {shown(site.entry.target)} needs "
            f"{list(least)} of it. Pass the base that it was trained on as --base."
        )
    return spec


def _seed(site: Site, rank: int) -> tuple[int, int, int, int, float]:
    """Give what the bases are drawn from."""
    sizes = _drawn.largest(site)
    if not (site.config.get("sparse") or site.config.get("very_sparse")):
        raise Unsupported(
            "The adapter lacks base_model.randlora_A and randlora_B. PEFT draws them from the seed "
            "in bfloat16 or float16, whichever the machine has, so they are not known from here. "
            "Load the adapter where it was trained and save it with save_projection."
        )
    sparsity = min(sizes) ** 0.5 if site.config.get("very_sparse") else 3.0
    return _drawn.seed(site, "randlora_A"), rank, max(sizes), min(sizes), sparsity


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []
