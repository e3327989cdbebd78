"""Whom the merged model follows: distances between what models made of the same texts.

Let a be what base and adapter give, b the base, m the merged model: logits less their mean at each
position, which the softmax does not see. The share of the adapter in the merged model is
<m - b, a - b> / <a - b, a - b>: 1 where the update arrived, 0 where it did not, 2 where it was
added twice, -1 with the wrong sign. Rounding errors do not move it, they only blur it, since they
do not point where the adapter does. Deep models bend: so the same base is also run with twice the
update, with its opposite, with only the modules that the adapter brings whole, and without those;
the merged model must be nearest to the adapter as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from adaptertools.errors import Mismatch, shown
from adaptertools.verbs._smoke_ask import Outputs

SEEN = 1e-6  # what moves the outputs by less is not told from float32's rounding


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How far one model is from another, over the same texts, position by position."""

    one: str
    other: str
    kl: float | None  # mean of KL(one ‖ other), in nats; None for hidden states
    top1: float | None  # share of the positions with the same first choice
    largest: float  # largest difference of a logit, or of a hidden state
    distance: float  # norm of the difference, relative to that of `one`

    @property
    def gap(self) -> float:
        """How far they are apart: as distributions, where they are any."""
        return self.distance if self.kl is None else self.kl


@dataclass(frozen=True, kw_only=True)
class Share:
    """How much of the adapter is in the merged model, and how sure that is."""

    value: float
    error: float  # standard error over the positions
    effect: float  # how far the update moves the base, relative to the base
    nearest: str  # "base", "adapter", "twice", "opposite", "whole" or "update"
    lost: bool  # whether even that is further than the adapter is from the base
    likeness: float  # cosine between merged model and adapter


def pair(one: str, other: str, a: Outputs, b: Outputs, *, choices: bool) -> Pair:
    """Compare two models; `choices` where their outputs are logits."""
    import torch

    total, same, count, largest, gap, size = 0.0, 0, 0, [0.0], 0.0, 0.0
    for x, y in zip(a, b, strict=True):
        p, q = (torch.log_softmax(z, -1) for z in (x, y))
        total += float((p.exp() * (p - q)).sum()) if choices else 0.0
        same += int((x.argmax(-1) == y.argmax(-1)).sum())
        count += len(x)
        largest.append(float((x - y).abs().max()))
        left, right = (centred(z, choices) for z in (x, y))
        gap += float((left - right).square().sum())
        size += float(left.square().sum())
    return Pair(
        one=one, other=other, kl=max(total, 0.0) / count if choices else None,
        top1=same / count if choices else None, largest=float(torch.tensor(largest).max()),
        distance=sqrt(gap / size) if size else 0.0,
    )  # fmt: skip


def share(
    base: Outputs, adapter: Outputs, merged: Outputs, others: Mapping[str, Outputs], *,
    choices: bool,
) -> Share:  # fmt: skip
    """Say how much of the update is in the merged model, and whom it is nearest to.

    Where the adapter also brings whole modules, the share is that of the update beside them.
    """
    stacks = {"base": base, **others, "adapter": adapter, "merged": merged}
    flat = {name: [centred(z, choices) for z in outputs] for name, outputs in stacks.items()}
    m = flat.pop("merged")
    norm = sqrt(_dot(flat["base"], flat["base"]))
    origin = flat["base"]
    if "whole" in flat and _gap(flat["adapter"], flat["whole"]) > SEEN * norm:
        origin = flat["whole"]
    value, error, effect = _along(origin, flat["adapter"], m)
    gaps = {name: _gap(m, outputs) for name, outputs in flat.items()}
    nearest = min(gaps, key=lambda name: (gaps[name], name != "adapter"))
    size = sqrt(_dot(flat["adapter"], flat["adapter"]) * _dot(m, m))
    return Share(
        value=value, error=error, effect=effect / norm if norm else 0.0, nearest=nearest,
        lost=gaps[nearest] > 1.5 * _gap(flat["adapter"], flat["base"]),
        likeness=_dot(flat["adapter"], m) / size if size else 1.0,
    )  # fmt: skip


def _along(origin: Outputs, adapter: Outputs, merged: Outputs) -> tuple[float, float, float]:
    """Project onto what the adapter changes: share, its standard error, the size of the change."""
    import torch

    three = list(zip(origin, adapter, merged, strict=True))
    x = torch.cat([((m - o) * (a - o)).sum(-1) for o, a, m in three]).double()
    w = torch.cat([(a - o).square().sum(-1) for o, a, _ in three]).double()
    total = float(w.sum())
    if not total:
        return 0.0, 0.0, 0.0
    value = float(x.sum()) / total
    return value, float((x - value * w).norm()) / total, sqrt(total)


def _dot(one: Outputs, other: Outputs) -> float:
    return sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))


def _gap(one: Outputs, other: Outputs) -> float:
    return sqrt(sum(float((a - b).square().sum()) for a, b in zip(one, other, strict=True)))


def centred(values: Any, choices: bool) -> Any:
    """Take the mean of each position from its logits; a single logit and hidden states stay."""
    return values - values.mean(-1, keepdim=True) if choices and values.shape[-1] > 1 else values


def finite(outputs: Outputs) -> bool:
    """Tell whether there is no NaN and no infinity."""
    import torch

    return all(bool(torch.isfinite(output).all()) for output in outputs)


def same_shapes(one: str, other: str, a: Outputs, b: Outputs) -> None:
    """Raise Mismatch where two models do not answer alike: other vocabularies or labels."""
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            raise Mismatch(
                f"{shown(other)} gives {y.shape[-1]} numbers at each position and {shown(one)} "
                f"{x.shape[-1]}: another vocabulary or other labels. Pass the base of this model."
            )
