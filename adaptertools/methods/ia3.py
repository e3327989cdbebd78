"""(IA)³: outputs, or the inputs of a feed-forward layer, times learnt numbers l.  arXiv:2205.05638

Feed-forward: W' = W · diag(l), the bias as it was; else W' = diag(l) · W and b' = l ∘ b. Shapes on
disk, after peft/tuners/ia3/layer.py: (1, in) and (out, 1); of a convolution (1, n, 1, …) for both,
where feedforward_modules in the config tells which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools.adapter import Site
from adaptertools.errors import Unreadable, shown
from adaptertools.methods._parts import part
from adaptertools.methods._table import table
from adaptertools.patterns import matches_whole
from adaptertools.update import Update
from adaptertools.update.scaled import Scaled

peft_type = "IA3"

tensors = {"ia3_l": "factors of the outputs (out, 1), or of the inputs (1, in)"}


def check(config: Mapping[str, Any]) -> None:
    """Accept every config: the factors are all there is."""


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight: its rows or its columns times the factors."""
    spec, (outputs, inputs) = part(site, "ia3_l"), site.shape
    if not _feeds(site):
        shape = (1, outputs) if site.transposed else (outputs, 1)
    elif len(spec.shape) > 2:
        shape = (spec.shape[1] // site.weight.shape[1], inputs)  # a row for each group
    else:
        shape = (inputs, 1) if site.transposed else (1, inputs)
    yield Scaled(table(spec, *shape), site.scale)


def bias_updates(site: Site) -> Iterator[Update]:
    """Give the update of the bias, which is part of the outputs."""
    if site.bias is not None and not _feeds(site):
        yield Scaled(table(part(site, "ia3_l"), site.shape[0], 1), site.scale)


def _feeds(site: Site) -> bool:
    """Tell whether the factors are those of the inputs."""
    outputs, inputs = site.shape
    if len(site.weight.shape) == 2:
        feeds = part(site, "ia3_l").shape == (1, inputs) and (outputs > 1 or _named(site))
        part(site, "ia3_l", *((1, inputs) if feeds else (outputs, 1)))
        return feeds
    feeds, kernel = _named(site), [1] * (len(site.weight.shape) - 2)
    channels = site.weight.shape[1]  # of one group
    count = part(site, "ia3_l", 1, None, *kernel).shape[1]
    if not feeds or count % channels or outputs % (count // channels):
        part(site, "ia3_l", 1, channels if feeds else outputs, *kernel)
    return feeds


def _named(site: Site) -> bool:
    """Tell whether feedforward_modules names the module; peft/tuners/ia3/model.py."""
    wanted, name = site.config.get("feedforward_modules"), site.entry.target
    if isinstance(wanted, str):
        return matches_whole(wanted, name, "feedforward_modules")
    if not isinstance(wanted, list) or not all(isinstance(each, str) for each in wanted):
        raise Unreadable(
            f"feedforward_modules is {shown(wanted)}, and without it nobody can tell whether the "
            f"factors of {shown(name)} are those of its inputs. Write down which were meant."
        )
    return name.endswith(tuple(wanted))
