"""Which side of a layer the factors of (IA)³ belong to: a feed-forward layer's are its inputs'."""

from __future__ import annotations

from adaptertools.adapter import Site
from adaptertools.errors import Unreadable, shown
from adaptertools.methods._parts import part
from adaptertools.patterns import matches_whole


def feeds(site: Site) -> bool:
    """Tell whether the factors are those of the inputs; raises Unreadable where nothing says."""
    outputs, inputs = site.shape
    if len(site.weight.shape) == 2:
        of_inputs = part(site, "ia3_l").shape == (1, inputs) and (outputs > 1 or _named(site))
        part(site, "ia3_l", *((1, inputs) if of_inputs else (outputs, 1)))
        return of_inputs
    of_inputs, kernel = _named(site), [1] * (len(site.weight.shape) - 2)
    channels = site.weight.shape[1]  # of one group
    count = part(site, "ia3_l", 1, None, *kernel).shape[1]
    if not of_inputs or count % channels or outputs % (count // channels):
        part(site, "ia3_l", 1, channels if of_inputs else outputs, *kernel)
    return of_inputs


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
