"""WaveFT: few entries of the update's wavelet transform.  https://arxiv.org/abs/2505.12532

W + scaling · S without the transform (`use_idwt` false), S as in FourierFT; or W + scaling · Y with
  Y[2k + t − (L − 2), 2l + s − (L − 2)] += v · f[t] · g[s]
over the entries v of S, f and g the filters (L) of rows and columns. S is centred in a matrix that
is L − 2 larger and of even sides, whose quarters hold k, l; the lower one takes the high-pass g,
the right one the high-pass f (PEFT's naming, peft/tuners/waveft/{layer,waverec2d}.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools.adapter import Site
from adaptertools.errors import Unsupported, first, shown
from adaptertools.methods._entries import Scattered
from adaptertools.methods._parts import features, number, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.methods._seeded import drawn
from adaptertools.methods._wavelets import Wavelets, families
from adaptertools.update import Update
from adaptertools.update.formed import Formed
from adaptertools.update.scatter import Scatter

peft_type = "WAVEFT"

tensors = {"waveft_spectrum": "entries of the wavelet transform (n)"}


def check(config: Mapping[str, Any]) -> None:
    """Refuse a config without scaling or seed, and wavelets that PEFT has no numbers for."""
    number(config, "scaling")
    number(config, "random_loc_seed", whole=True)
    family = config.get("wavelet_family", "db1")
    if config.get("use_idwt", True) and family not in [*families()]:
        raise Unsupported(
            f"wavelet_family is {shown(family)}, which PEFT up to 0.21 cannot apply either. "
            f"Known: {first(families(), 30)}."
        )


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    out, inside = features(site)
    values = part(site, "waveft_spectrum", None)
    places = drawn(site, values, out, inside)
    shape = (inside, out) if site.transposed else (out, inside)
    scale = site.scale * number(site.config, "scaling")
    if not site.config.get("use_idwt", True):
        yield Scatter(Scattered(places, values, shape), scale)
        return
    low = tuple(families()[site.config.get("wavelet_family", "db1")])
    yield Formed(Wavelets(places, values, shape, low), scale)
