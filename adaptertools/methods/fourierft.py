"""FourierFT: few entries of the update's spectrum.  https://arxiv.org/abs/2405.03003

W + scaling · Re(ifft2(S)), with S (out, in) zero but for `fourierft_spectrum` (n) at the first n
places of torch.randperm(out · in) from the seed `random_loc_seed`. A base that stores (in, out)
takes the transpose. After peft/tuners/fourierft/layer.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools.adapter import Site
from adaptertools.methods._forms import Spectrum
from adaptertools.methods._parts import features, number, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.methods._seeded import drawn
from adaptertools.update import Update
from adaptertools.update.formed import Formed

peft_type = "FOURIERFT"

tensors = {"fourierft_spectrum": "entries of the spectrum (n)"}


def check(config: Mapping[str, Any]) -> None:
    """Refuse a config without scaling or seed: places and size of the update would be unknown."""
    number(config, "scaling")
    number(config, "random_loc_seed", whole=True)


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    out, inside = features(site)
    values = part(site, "fourierft_spectrum", None)
    places = drawn(site, values, out, inside)
    shape = (inside, out) if site.transposed else (out, inside)
    yield Formed(Spectrum(places, values, shape), site.scale * number(site.config, "scaling"))
