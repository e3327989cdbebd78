"""MiSS: every shard of a row takes the same update.  https://arxiv.org/abs/2409.15371

W is (out, in), its rows cut into shards of r columns, the last one ragged. After
peft/tuners/miss/layer.py, by `init_weights`:
  otherwise  W[i, j] + block[j mod r, i],            block (r, out)
  "mini"     W[i, j] + block[j mod r, i mod m],      block (r, m)
  "bat"      W + W·B + B in each r × r square,       block (out/r, r, r), one B per r rows
"""

from __future__ import annotations

from collections.abc import Iterator

from adaptertools.adapter import Factor, Site
from adaptertools.errors import Mismatch, shown
from adaptertools.methods._forms import Shards
from adaptertools.methods._parts import features, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.methods._plain import check as check
from adaptertools.update import Update
from adaptertools.update.formed import Formed
from adaptertools.update.squares import Squares

peft_type = "MISS"

tensors = {"miss_block": "what each shard takes: (r, out), (r, mini_r) or (out / r, r, r)"}


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    out, inside = features(site, conv1d=False)
    kind = site.config.get("init_weights")
    if kind == "bat":
        block = part(site, "miss_block", None, None, None)
        count, r, side = block.shape
        if r != side or count * r != out or inside % r:
            raise Mismatch(
                f"{shown(site.entry.target)}: miss_block is {list(block.shape)}, and does not cut "
                f"a weight of {list(site.weight.shape)} into squares. Pass the base that it was "
                "trained on as --base."
            )
        yield Squares(Factor(block), r, (out, inside), site.scale)
        return
    width = None if kind == "mini" else out
    block = part(site, "miss_block", None, width)
    if out % block.shape[1]:
        raise Mismatch(
            f"{shown(site.entry.target)}: miss_block repeats after {block.shape[1]} rows, which "
            f"do not divide the weight's {out}. Pass the base that it was trained on as --base."
        )
    yield Formed(Shards(Factor(block), (out, inside)), site.scale)
