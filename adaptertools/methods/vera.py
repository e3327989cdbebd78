"""VeRA: W + diag(b)·B·diag(d)·A, A and B random and shared.  https://arxiv.org/abs/2310.11454

A (r, largest in) and B (largest out, r) serve all modules, each of which takes their first columns
and rows. Without save_projection they are drawn again from projection_prng_key: first A, then B,
Kaiming-uniform. After peft/tuners/vera/model.py and layer.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from adaptertools.adapter import Factor, Site
from adaptertools.methods import _drawn
from adaptertools.methods._parts import features, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.methods._plain import check as check
from adaptertools.update import Matrix, Update
from adaptertools.update.lowrank import LowRank
from adaptertools.update.matrices import Cut, Scaled, oriented

peft_type = "VERA"

tensors = {
    "vera_lambda_b": "scales of the outputs (out)",
    "vera_lambda_d": "scales of the rank's components (r)",
    "vera_A": "down projection of all modules (r, largest in)",
    "vera_B": "up projection of all modules (largest out, r)",
}


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    rank = part(site, "vera_lambda_d", None).rows
    return product(site, "vera", rank, rank)


def product(site: Site, name: str, rank: int, drawn: int) -> Iterable[Update]:
    """Give the product of a VeRA of which the first `rank` rows of A count, of `drawn` in all."""
    out, inside = features(site)
    of_out = part(site, f"{name}_lambda_b", out)
    of_rank = Factor(part(site, f"{name}_lambda_d", drawn))
    down = Scaled(_down(site, f"{name}_A", rank, drawn, inside), of_rank)
    up = Scaled(_up(site, f"{name}_B", rank, drawn, out), Factor(of_out))
    return [LowRank(*oriented(up, down, site.transposed), site.scale)]


def _down(site: Site, role: str, rank: int, drawn: int, inside: int) -> Matrix:
    if spec := _drawn.saved(site, role):
        return _drawn.cut(site, spec, rank, inside)
    widest = _drawn.largest(site)[1]
    whole = _drawn.Drawn((drawn, widest), _drawn.seed(site, role), 0, _drawn.kaiming(widest))
    return Cut(whole, (rank, inside))


def _up(site: Site, role: str, rank: int, drawn: int, out: int) -> Matrix:
    if spec := _drawn.saved(site, role):
        return _drawn.cut(site, spec, out, rank)
    tallest, widest = _drawn.largest(site)
    seed, before = _drawn.seed(site, role), drawn * widest
    return Cut(_drawn.Drawn((tallest, rank), seed, before, _drawn.kaiming(rank)), (out, rank))
