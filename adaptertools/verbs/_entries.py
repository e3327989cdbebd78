"""What an entry of an adapter does to its weight and its bias, through its method's file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from adaptertools import plugins
from adaptertools.adapter import Adapter, Entry, Site
from adaptertools.errors import Unsupported, first, shown
from adaptertools.layouts import known
from adaptertools.layouts.direct import Names
from adaptertools.layouts.pieces import Piece
from adaptertools.methods import Method
from adaptertools.methods._refused import refusal
from adaptertools.tensorfile import FLOATS, TensorSpec
from adaptertools.update import Update
from adaptertools.update.rows import Toward
from adaptertools.verbs import _blocks
from adaptertools.verbs._claims import Claim

if TYPE_CHECKING:
    from adaptertools.verbs._drafts import Assembly, Draft


def method_of(adapter: Adapter) -> Method:
    """Find the method's file; raise Unsupported or UnknownMethod where there is none."""
    module = plugins.load("methods", adapter.method.lower())
    if module is None:
        raise refusal(adapter.method, adapter.ref)
    return cast(Method, module)


def apply_entry(
    it: Assembly, claim: Claim, entry: Entry, names: Names, mha_out_proj: str | None
) -> list[str]:
    """Add an entry's updates to its weight and bias; give what does not fit."""
    site, pieces, bias = seat(it, claim, entry, names, mha_out_proj)
    method = method_of(claim.adapter)
    updates, biases = list(method.updates(site)), list(method.bias_updates(site))
    of_bias = [s.name for role, s in entry.parts.items() if role.endswith(".bias")]
    own = [s.name for s in entry.parts.values() if s.name not in of_bias]
    wrong = []
    if updates or not biases:
        wrong += _lay(it, claim, pieces, updates, own)
    if biases:
        wrong += _lay(it, claim, bias, biases, of_bias or own)
    check_roles(method, entry.parts)
    check_roles(method, claim.adapter.shared)
    it.used |= {(id(claim.adapter), spec.name) for spec in claim.adapter.shared.values()}
    return wrong


def seat(
    it: Assembly, claim: Claim, entry: Entry, names: Names, mha_out_proj: str | None
) -> tuple[Site, tuple[Piece, ...], tuple[Piece, ...]]:
    """Give what a method is asked with, and where the base holds the weight and the bias."""
    pieces = claim.pieces or (Piece(tensor=claim.tensor),)
    for piece in pieces:
        check_float(it.drafts[piece.tensor], claim)
    bias = _bias(names, claim, entry)
    site = Site(
        entry=entry, config=claim.adapter.config, weight=_blocks.whole(it.drafts, pieces),
        transposed=_transposed(it, claim.adapter, entry.target, it.drafts[claim.tensor]),
        bias=_blocks.whole(it.drafts, bias) if bias else None, scale=claim.scale,
        attention=names.beside_attention(claim.tensor), mha_out_proj=mha_out_proj,
        shared=claim.adapter.shared, peers=_peers(it, claim.adapter, names), order=it.order,
    )  # fmt: skip
    return site, pieces, bias


def _bias(names: Names, claim: Claim, entry: Entry) -> tuple[Piece, ...]:
    """Find the bias beside the weight; nothing where there is none."""
    if entry.fused is not None:
        return ()
    if claim.pieces:
        return names.pieces(f"{entry.target}.bias")
    found = names.bias(claim.tensor)
    return (Piece(tensor=found),) if found else ()


def _lay(
    it: Assembly, claim: Claim, pieces: Sequence[Piece], updates: Sequence[Update],
    parts: Sequence[str],
) -> list[str]:  # fmt: skip
    """Add updates of one weight to the tensors that hold it."""
    wrong = []
    for piece in pieces:
        draft = it.drafts[piece.tensor]
        _check_alone(piece.tensor, draft, updates)
        wrong += _blocks.put(draft, piece, updates)
        it.take(claim, draft, (*parts, *claim.also))
    return wrong


def _transposed(it: Assembly, adapter: Adapter, target: str, draft: Draft) -> bool:
    """Tell whether the base stores this weight as (in, out)."""
    if draft.packed is not None:
        return False  # every packing stores nn.Linear's orientation
    transposed = known.stores_in_out(target, it.config)
    if transposed is None and adapter.config.get("fan_in_fan_out"):
        raise Unsupported(
            f"{shown(target)}: the adapter says fan_in_fan_out, and the base's config has no "
            "model_type that says how it stores its weights. Add model_type to it."
        )
    return bool(transposed)


def _peers(it: Assembly, adapter: Adapter, names: Names) -> Mapping[str, tuple[int, int]]:
    """Give (out, in) of every module that the adapter changes; LoRA's each stand alone."""
    found = it.peers.setdefault(id(adapter), {})
    if found or adapter.method == "LORA":
        return found
    for entry in adapter.entries:
        weight = names.weight(entry.target)
        pieces = (Piece(tensor=weight),) if weight else names.pieces(f"{entry.target}.weight")
        if pieces and pieces[0].tensor in it.drafts:
            spec, packed = _blocks.whole(it.drafts, pieces), it.drafts[pieces[0].tensor].packed
            turned = known.stores_in_out(entry.target, it.config) and packed is None
            shape = (spec.rows, spec.columns)
            found[entry.target] = shape[::-1] if turned else shape
    return found


def check_roles(method: Method, parts: Mapping[str, TensorSpec]) -> None:
    """Refuse a role that the method does not know: it would be left out silently."""
    if odd := [spec.name for role, spec in parts.items() if not has_role(role, method.tensors)]:
        raise Unsupported(
            f"{first(sorted(odd))}: {method.peft_type} has no tensor of that name up to PEFT 0.21. "
            "Nothing was written, because leaving it out could change the result."
        )


def has_role(role: str, tensors: Iterable[str]) -> bool:
    """Find a role: `peanut_encoders.N` stands for any number, `frod_V.*` for any name."""
    plain = re.sub(r"\.\d+(?=\.|$)", ".N", role)
    return any(
        t in (role, plain) or (t.endswith(".*") and role.startswith(t[:-1])) for t in tensors
    )


def _check_alone(name: str, draft: Draft, updates: Iterable[Update]) -> None:
    """Refuse to replace what another adapter changed: nothing of that would be left."""
    if draft.updates and any(isinstance(update, Toward) for update in updates):
        raise Unsupported(
            f"{shown(name)} is replaced whole by an adapter, and another adapter changes it: that "
            "change would be lost. Merge one of the adapters."
        )


def check_float(draft: Draft, claim: Claim) -> None:
    """Refuse to add to codes."""
    if draft.source.dtype not in FLOATS:
        raise Unsupported(
            f"{shown(claim.tensor)} is stored as {draft.source.dtype}. Adding to packed or 8-bit "
            "codes would destroy them. Pass the 16-bit model as --base."
        )
