"""C3A: a weight of circulant blocks.  https://arxiv.org/abs/2407.19342

W + C / in, where block (m, n) of C, b × b, has w[(j − i) mod b] of the kernel's w = kernel[m, n]
in row i and column j. Kernel (out/b, in/b, b), after peft/tuners/c3a/utils.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, shown
from adaptertools.methods._forms import Circulant
from adaptertools.methods._parts import features, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.methods._plain import check as check
from adaptertools.update import Update
from adaptertools.update.formed import Formed

peft_type = "C3A"

tensors = {"c3a_kernel": "the first row of each circulant block (out / b, in / b, b)"}


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    out, inside = features(site, conv1d=False)
    kernel = part(site, "c3a_kernel", None, None, None)
    across, down, side = kernel.shape
    if (across * side, down * side) != (out, inside):
        raise Mismatch(
            f"{shown(site.entry.target)}: c3a_kernel is {list(kernel.shape)}, which makes "
            f"{across * side}×{down * side}; the weight is {out}×{inside}. "
            "Pass the base that it was trained on as --base."
        )
    yield Formed(Circulant(kernel, (out, inside)), site.scale / inside)
