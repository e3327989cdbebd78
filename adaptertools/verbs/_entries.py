"""What an entry of an adapter does to its weight and its bias, through its method's file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from adaptertools import plugins
from adaptertools.adapter import Adapter, Entry, Site
from adaptertools.errors import Unsupported, first, shown
from adaptertools.layouts import known
from adaptertools.layouts.direct import Names
from adaptertools.methods import Method
from adaptertools.methods._refused import refusal
from adaptertools.tensorfile import FLOATS, TensorSpec
from adaptertools.update import Update
from adaptertools.update.rows import Toward
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
    draft = it.drafts[claim.tensor]
    check_float(draft, claim)
    bias = names.bias(claim.tensor)
    site = Site(
        entry=entry, config=claim.adapter.config, weight=draft.source,
        transposed=_transposed(it, claim.adapter, entry.target, draft),
        bias=it.drafts[bias].source if bias else None, scale=claim.scale,
        attention=names.beside_attention(claim.tensor), mha_out_proj=mha_out_proj,
        shared=claim.adapter.shared, peers=_peers(it, claim.adapter, names), order=it.order,
    )  # fmt: skip
    method = method_of(claim.adapter)
    updates, biases = list(method.updates(site)), list(method.bias_updates(site))
    _check_alone(claim.tensor, draft, updates)
    draft.updates += updates
    wrong = [w for update in updates for w in _fits(claim.tensor, update, draft)]
    of_bias = [s.name for role, s in entry.parts.items() if role.endswith(".bias")]
    own = [s.name for s in entry.parts.values() if s.name not in of_bias]
    if updates or not biases:
        it.take(claim, draft, (*own, *claim.also))
    if biases:
        assert bias is not None
        wrong += [w for update in biases for w in _fits(bias, update, it.drafts[bias])]
        _check_alone(bias, it.drafts[bias], biases)
        it.drafts[bias].updates += biases
        it.take(claim, it.drafts[bias], [*(of_bias or own), *claim.also])
    _check_roles(method, entry.parts)
    _check_roles(method, claim.adapter.shared)
    it.used |= {(id(claim.adapter), spec.name) for spec in claim.adapter.shared.values()}
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
        draft = it.drafts.get(names.weight(entry.target) or "")
        if draft is not None:
            shape = (draft.source.rows, draft.source.columns)
            turned = known.stores_in_out(entry.target, it.config) and draft.packed is None
            found[entry.target] = shape[::-1] if turned else shape
    return found


def _check_roles(method: Method, parts: Mapping[str, TensorSpec]) -> None:
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


def _fits(name: str, update: Update, draft: Draft) -> list[str]:
    have = (draft.source.rows, draft.source.columns)
    if update.shape is None or update.shape == have:
        return []
    return [
        f"{shown(name)}: the update is {update.shape[0]}×{update.shape[1]}, "
        f"the weight is {have[0]}×{have[1]}"
    ]


def check_float(draft: Draft, claim: Claim) -> None:
    """Refuse to add to codes."""
    if draft.source.dtype not in FLOATS:
        raise Unsupported(
            f"{shown(claim.tensor)} is stored as {draft.source.dtype}. Adding to packed or 8-bit "
            "codes would destroy them. Pass the 16-bit model as --base."
        )
