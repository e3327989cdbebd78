"""Drafts of the output's tensors, and how a claim changes one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from adaptertools import plugins, tensorfile
from adaptertools.adapter import Adapter, Entry, Factor, Saved, Site, TokenRows
from adaptertools.errors import Mismatch, UnknownMethod, Unsupported, first, shown
from adaptertools.layouts import known
from adaptertools.layouts.direct import Names
from adaptertools.methods import Method
from adaptertools.packing import Packed, Repack
from adaptertools.report import Finding, Level
from adaptertools.tensorfile import FLOATS, TensorSpec
from adaptertools.update import Update
from adaptertools.update.rows import Rows, Toward
from adaptertools.verbs import _config, _ties
from adaptertools.verbs._claims import Claim

# Whole tensors first, then rows of them, then what is added: as PEFT's wrappers are nested.
_ORDER = ("base", "saved", "rows", "entry")


@dataclass(slots=True)
class Draft:
    """One output tensor while it is being put together."""

    source: TensorSpec
    dtype: str
    shard: str
    updates: list[Update] = field(default_factory=list)
    why: str = ""
    parts: list[str] = field(default_factory=list)
    saved: Saved | None = None  # the copy that took the base's place
    packed: Packed | None = None  # in the base; `source` is logical then
    repack: Repack | None = None  # in the output
    turned: bool = False  # the output is the transpose of the source
    side: bool = False  # scales and the like of a packed weight: never of another dtype


@dataclass(slots=True)
class Assembly:
    """The output, tensor by tensor, with the config that goes with it."""

    drafts: dict[str, Draft]
    config: dict[str, Any]
    findings: list[Finding]
    used: set[tuple[int, str]] = field(default_factory=set)  # adapter and tensor

    def take(self, claim: Claim, draft: Draft, parts: Iterable[str]) -> None:
        """Note that a draft consumes these tensors of the claim's adapter."""
        draft.parts += parts
        self.used |= {(id(claim.adapter), part) for part in parts}

    def say(self, code: str, text: str, place: str = "", level: Level = "note") -> None:
        """Note a deviation or a fact for the report; a warning is what nobody would expect."""
        self.findings.append(Finding(code=code, level=level, place=place, text=text))


def method_of(adapter: Adapter) -> Method:
    """Find the method's file; raise UnknownMethod with the list where there is none."""
    module = plugins.load("methods", adapter.method.lower())
    if module is None:
        names = ", ".join(n.upper() for n in plugins.names("methods"))
        raise UnknownMethod(
            f"{shown(adapter.ref)} has peft_type {shown(adapter.method)}, which cannot be merged "
            f"yet. Known: {names}."
        )
    return cast(Method, module)


def apply(it: Assembly, settled: _ties.Untied, names: Names, mha_out_proj: str | None) -> None:
    """Turn claims into sources and updates: base weights first, then what changes them."""
    ordered = sorted(settled.claims, key=lambda c: _ORDER.index(c.kind))
    wrong: list[str] = []
    whole = [c for c in ordered if c.kind == "base"]
    for claim in (c for c in whole if c.tensor not in settled.copies):
        _replace(it, claim)
    for alias, source in settled.copies.items():
        copied = it.drafts[source]
        it.drafts[alias] = Draft(
            copied.source, copied.dtype, copied.shard, why=f"tied copy of {source}"
        )
    for claim in (c for c in whole if c.tensor in settled.copies):
        _replace(it, claim)
    for claim in ordered:
        if isinstance(claim.item, Entry):
            wrong += _apply_entry(it, claim, claim.item, names, mha_out_proj)
        elif isinstance(claim.item, TokenRows):
            wrong += _apply_rows(it, claim, claim.item)
        elif claim.kind == "saved":
            _replace(it, claim)
    if wrong:
        named = ordered[0].adapter.base
        said = f" The adapter names {shown(named)} as its base." if named else ""
        raise Mismatch(f"{first(wrong, 3)}.{said} Pass the right one as --base.")
    for sentence in settled.said:
        it.say("MRG001", sentence)


def _apply_entry(
    it: Assembly, claim: Claim, entry: Entry, names: Names, mha_out_proj: str | None
) -> list[str]:
    """Add an entry's updates to its weight and bias; give what does not fit."""
    draft = it.drafts[claim.tensor]
    _check_float(draft, claim)
    transposed = known.stores_in_out(entry.target, it.config)
    if draft.packed is not None:
        transposed = False  # every packing stores nn.Linear's orientation
    elif transposed is None:
        if claim.adapter.config.get("fan_in_fan_out"):
            raise Unsupported(
                f"{shown(entry.target)}: the adapter says fan_in_fan_out, and the base's config "
                "has no model_type that says how it stores its weights. Add model_type to it."
            )
        transposed = False
    bias = names.bias(claim.tensor)
    site = Site(
        entry=entry, config=claim.adapter.config, weight=draft.source, transposed=transposed,
        bias=it.drafts[bias].source if bias else None, scale=claim.scale,
        attention=names.beside_attention(claim.tensor), mha_out_proj=mha_out_proj,
    )  # fmt: skip
    method = method_of(claim.adapter)
    wrong = []
    for update in method.updates(site):
        wrong += _fits(claim, update, draft)
        draft.updates.append(update)
    own = [s.name for role, s in entry.parts.items() if not role.endswith(".bias")]
    it.take(claim, draft, (*own, *claim.also))
    for update in method.bias_updates(site):
        assert bias is not None
        wrong += _fits(claim, update, it.drafts[bias])
        it.drafts[bias].updates.append(update)
        it.take(claim, it.drafts[bias], [n for n in claim.parts if n not in own])
    _check_roles(method, entry)
    return wrong


def _check_roles(method: Method, entry: Entry) -> None:
    """Refuse a role that the method does not know: it would be left out silently."""
    if odd := sorted(entry.parts.keys() - method.tensors.keys()):
        names = first(entry.parts[role].name for role in odd)
        raise Unsupported(
            f"{names}: {method.peft_type} has no tensor of that name up to PEFT 0.21. "
            "Nothing was written, because leaving it out could change the result."
        )


def _fits(claim: Claim, update: Update, draft: Draft) -> list[str]:
    have = (draft.source.rows, draft.source.columns)
    if update.shape is None or update.shape == have:
        return []
    return [
        f"{shown(claim.tensor)}: the update is {update.shape[0]}×{update.shape[1]}, "
        f"the weight is {have[0]}×{have[1]}"
    ]


def _check_float(draft: Draft, claim: Claim) -> None:
    if draft.source.dtype not in FLOATS:
        raise Unsupported(
            f"{shown(claim.tensor)} is stored as {draft.source.dtype}. Adding to packed or 8-bit "
            "codes would destroy them. Pass the 16-bit model as --base."
        )


def _check_plain(draft: Draft, claim: Claim) -> None:
    _check_float(draft, claim)
    if draft.packed is not None:
        raise Unsupported(
            f"{shown(claim.tensor)}: {shown(claim.adapter.ref)} saves it whole, the base has it "
            f"in {draft.packed.codec.kind}. Pass the 16-bit model as --base."
        )


def _apply_rows(it: Assembly, claim: Claim, rows: TokenRows) -> list[str]:
    draft = it.drafts[claim.tensor]
    _check_float(draft, claim)
    last = max(rows.indices, default=0)
    if last >= draft.source.rows or rows.spec.columns != draft.source.columns:
        return [
            f"{shown(claim.tensor)}: token rows up to {last} of width {rows.spec.columns}, "
            f"the weight is {draft.source.rows}×{draft.source.columns}"
        ]
    draft.updates.append(Rows(rows.indices, Factor(rows.spec), claim.scale))
    it.take(claim, draft, claim.parts)
    return []


def _replace(it: Assembly, claim: Claim) -> None:
    """Let a saved tensor take the place of the base's, or join as a new one."""
    assert isinstance(claim.item, Saved)
    spec, name, draft = claim.item.spec, claim.tensor, it.drafts.get(claim.tensor)
    if spec.dtype not in FLOATS:
        raise Unsupported(f"{shown(spec.name)} is stored as {spec.dtype}; a float was expected.")
    if draft is not None:
        _check_plain(draft, claim)
    _check_twice(draft, claim.item)
    if draft is None:
        if claim.scale != 1.0:
            raise Unsupported(
                f"{shown(name)} is new in the model, so --scale {claim.scale:g} of it means "
                "nothing. Pass --scale 1 for this adapter."
            )
        shard = next(reversed(it.drafts.values())).shard
        draft = it.drafts[name] = Draft(spec, _usual(it.drafts.values()), shard)
    elif spec.shape[1:] != draft.source.shape[1:] or (
        spec.shape != draft.source.shape and not resizable(it, name)
    ):
        raise Mismatch(
            f"{shown(name)}: the adapter saves it as {list(spec.shape)}, the base has "
            f"{list(draft.source.shape)}. Pass the base that it was trained on as --base."
        )
    if claim.kind == "base" or claim.scale == 1.0:
        draft.source = spec
    else:
        draft.updates.append(Toward(Factor(spec), claim.scale))
    how = "saved with" if claim.kind == "base" else "trained and saved in"
    draft.why, draft.saved = f"{how} {claim.adapter.ref}", claim.item
    it.take(claim, draft, claim.parts)


def _check_twice(draft: Draft | None, saved: Saved) -> None:
    if draft and draft.saved and not tensorfile.same(draft.saved.spec, saved.spec):
        raise Unsupported(
            f"{shown(saved.name)} is saved twice, and differently: one tensor cannot be both. "
            "Merge one of the adapters, or remove the tensor from the other."
        )


def resizable(it: Assembly, name: str) -> bool:
    """Tell whether a tensor may change its number of rows: embeddings and heads."""
    head = known.architecture(next(iter(it.config.get("architectures") or ()), "")).get("head", ())
    return _config.embedding(name) or name in head


def _usual(drafts: Iterable[Draft]) -> str:
    """Give the float dtype that most bytes of the base have."""
    sizes: Counter[str] = Counter()
    for draft in drafts:
        if draft.source.dtype in FLOATS:
            sizes[draft.dtype] += draft.source.nbytes
    return sizes.most_common(1)[0][0] if sizes else "F32"
