"""PEANuT: an update worked out of the weight by a small network.  https://arxiv.org/abs/2410.01870

W + s·B·hₙ, where h₀ = f(A·W), then hᵢ = f(Eᵢ·hᵢ₋₁) down `depth` encoders, and up as many decoders
h ← f(Dᵢ·h) + what the encoder at that level was given. A is (r, out), B (out, r), E and D (r, r);
f is act_fn, s scaling. peft/tuners/peanut/layer.py. Several adapters each see the original weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Site
from adaptertools.errors import Unreadable, Unsupported, shown
from adaptertools.methods._activations import ACTIVATIONS
from adaptertools.methods._parts import features, number, part
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.through import Through

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "PEANUT"

tensors = {
    "peanut_A": "down projection of the outputs (r, out)",
    "peanut_B": "up projection (out, r)",
    "peanut_encoders.N": "a layer on the way down (r, r)",
    "peanut_decoders.N": "a layer on the way up (r, r)",
}


def check(config: Mapping[str, Any]) -> None:
    """Refuse a depth that is none and an activation that is not known here."""
    depth = number({"depth": 0, **config}, "depth", whole=True)
    if not 0 <= depth < 1000:
        raise Unreadable(f"adapter_config.json gives PEANUT depth {depth}, which is none.")
    if config.get("act_fn", "relu") not in ACTIVATIONS:
        raise Unsupported(
            f"act_fn is {shown(config['act_fn'])}, which is not computed here; these are: "
            f"{', '.join(ACTIVATIONS)}. Serve it as an adapter."
        )


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    outputs, inputs = features(site, conv1d=False)
    first = part(site, "peanut_A", None, outputs)
    last, rank = part(site, "peanut_B", outputs, first.rows), first.rows
    levels = range(int(site.config.get("depth", 0)))
    encoders = tuple(part(site, f"peanut_encoders.{i}", rank, rank) for i in levels)
    decoders = tuple(part(site, f"peanut_decoders.{i}", rank, rank) for i in levels)
    if extra := len(site.entry.parts) - 2 - 2 * len(levels):
        raise Unreadable(
            f"{shown(site.entry.target)} has {extra} more layers than the depth of {len(levels)} "
            "in adapter_config.json. Correct depth."
        )
    scale = number({"scaling": 1.0, **site.config}, "scaling")
    core = Network((outputs, inputs), (first, last), encoders, decoders,
                   site.config.get("act_fn", "relu"), scale)  # fmt: skip
    return [Through(core, False, site.scale)]


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []


@dataclass(frozen=True, slots=True)
class Network:
    """The network of a layer, from the tensors of its parts."""

    shape: tuple[int, int]
    ends: tuple[TensorSpec, TensorSpec]
    encoders: tuple[TensorSpec, ...]
    decoders: tuple[TensorSpec, ...]
    act: str
    scale: float

    def left(self) -> Array:
        """Give A."""
        return _read(self.ends[0])

    def up(self) -> Array:
        """Give s·B."""
        return _read(self.ends[1]) * self.scale

    def between(self, seen: Array) -> Array:
        """Give what the network makes of A·W."""
        act = ACTIVATIONS[self.act]
        found, given = act(seen), []
        for encoder in self.encoders:
            given.append(found)
            found = act(_read(encoder) @ found)
        for decoder in self.decoders:
            found = act(_read(decoder) @ found) + given.pop()
        return found


def _read(spec: TensorSpec) -> Array:
    array: Array = tensorfile.read(spec).astype("float64")
    return array
