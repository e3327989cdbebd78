"""PSOFT: the largest singular components of a weight, turned.  https://openreview.net/forum?id=FSHrinMArK

W + U·S·(R − 1)·Vᵀ over the r largest, or U·√S·(R − 1)·√S·Vᵀ ("pissa_init"). R = diag(b)·Q·diag(a),
Q = (1 + K)(1 − K)⁻¹ of a skew K whose upper triangle is stored row by row (or a Neumann series of
it; or, without `psoft_orth`, Q itself is stored). After peft/tuners/psoft/layer.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.methods._parts import features, number, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.methods._principal_turn import Turn
from adaptertools.update import Update
from adaptertools.update.principal import Principal, check_torch

peft_type = "PSOFT"

tensors = {
    "psoft_R": "the turn: a triangle of r(r − 1)/2, or (r, r)",
    "psoft_R.vector_a": "scales before the turn (r)",
    "psoft_R.vector_b": "scales after it (r)",
}

_MOST = 1000  # terms of a series, or turns of an iteration


def check(config: Mapping[str, Any]) -> None:
    """Refuse what names no factorisation of the base."""
    for key, known in (
        ("ab_svd_init", ("psoft_init", "pissa_init")), ("psoft_svd", ("full", "lowrank")),
    ):  # fmt: skip
        if config.get(key, known[0]) not in known:
            raise Unsupported(
                f"{key} is {shown(config[key])}, which no PEFT up to 0.21 knows. "
                f"Known: {', '.join(known)}."
            )
    check_torch(peft_type)


def doubts(config: Mapping[str, Any]) -> Iterable[str]:
    """Say what the file leaves open."""
    yield (
        "PSOFT's update depends on the signs of the base's singular vectors, which are not in the "
        "file: they are torch's on this CPU, as PEFT takes them when it loads the adapter here. "
        "Training on a GPU may have had others. Ask both models (`adaptertools smoke`)."
    )


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    shape, config = features(site, conv1d=False), site.config
    weight, r = part(site, "psoft_R"), int(number(config, "r", whole=True))
    wanted = (r * (r - 1) // 2,) if config.get("psoft_orth", True) else (r, r)
    if weight.shape != wanted or not 0 < r <= min(shape):
        raise Mismatch(
            f"{shown(site.entry.target)}: psoft_R is {list(weight.shape)}, {list(wanted)} was "
            f"expected at rank {r}, of a {shape[0]}×{shape[1]} weight. "
            "Config, weights and base are not of one adapter."
        )
    a, b = (
        part(site, f"psoft_R.vector_{x}", r) if config.get(f"psoft_mag_{x}", True) else None
        for x in "ab"
    )
    series = config.get("use_cayley_neumann", False)
    terms = _count(config, "num_cayley_neumann_terms") if series else 0
    held = series and config.get("cayley_neumann_eps") is not None
    limit = number(config, "cayley_neumann_eps") if held else None
    turn = Turn(r, weight, a, b, terms, limit, config.get("ab_svd_init") == "pissa_init")
    random = config.get("psoft_svd") == "lowrank"
    seed = int(number(config, "random_seed", whole=True)) % 2**64 if random else None
    turns = _count(config, "psoft_svd_lowrank_niter") if random else 0
    yield Principal(turn, shape, seed, turns, site.scale)


def _count(config: Mapping[str, Any], key: str) -> int:
    """Give how often something is to be repeated, which a stranger wrote."""
    count = int(number(config, key, whole=True))
    if not 0 < count <= _MOST:
        raise Unsupported(f"{key} is {count} in adapter_config.json; 1 to {_MOST} can be done.")
    return count
