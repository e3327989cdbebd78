"""Drafts of the output's tensors, and how a claim changes one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from adaptertools import tensorfile
from adaptertools.adapter import Entry, Factor, Saved, TokenRows
from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.layouts import known
from adaptertools.layouts.direct import Names
from adaptertools.packing import Packed, Repack
from adaptertools.report import Finding, Level
from adaptertools.tensorfile import FLOATS, TensorSpec
from adaptertools.update import Update
from adaptertools.update.rows import Rows, Toward
from adaptertools.verbs import _blocks, _config, _ties
from adaptertools.verbs._blocks import matrix
from adaptertools.verbs._claims import Claim
from adaptertools.verbs._entries import apply_entry, check_float

# Whole tensors first, then rows of them, then what is added: as PEFT's wrappers are nested.
_ORDER = ("base", "saved", "rows", "entry", "fused")


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
    stored: tuple[int, ...] = ()  # of a 3-D tensor that is edited as one matrix, its shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that it is stored with."""
        return self.stored or self.source.shape

    def stack(self) -> None:
        """Edit a 3-D tensor as the matrix of all its rows."""
        if len(self.source.shape) == 3:
            self.stored, self.source = self.source.shape, matrix(self.source)


@dataclass(slots=True)
class Assembly:
    """The output, tensor by tensor, with the config that goes with it."""

    drafts: dict[str, Draft]
    config: dict[str, Any]
    findings: list[Finding]
    used: set[tuple[int, str]] = field(default_factory=set)  # adapter and tensor
    peers: dict[int, dict[str, tuple[int, int]]] = field(default_factory=dict)  # by adapter
    order: Callable[[], tuple[str, ...]] = tuple  # the names of all modules, as the model has them

    def take(self, claim: Claim, draft: Draft, parts: Iterable[str]) -> None:
        """Note that a draft consumes these tensors of the claim's adapter."""
        draft.parts += parts
        self.used |= {(id(claim.adapter), part) for part in parts}

    def say(self, code: str, text: str, place: str = "", level: Level = "note") -> None:
        """Note a deviation or a fact for the report; a warning is what nobody would expect."""
        self.findings.append(Finding(code=code, level=level, place=place, text=text))


def apply(it: Assembly, settled: _ties.Untied, names: Names, mha_out_proj: str | None) -> None:
    """Turn claims into sources and updates: base weights first, then what changes them."""
    ordered = sorted(settled.claims, key=lambda c: _ORDER.index(c.kind))
    wrong: list[str] = []
    whole = [c for c in ordered if c.kind == "base"]
    for claim in (c for c in whole if c.tensor not in settled.copies):
        (_replace_blocks if claim.pieces else _replace)(it, claim)
    for alias, source in settled.copies.items():
        copied = it.drafts[source]
        it.drafts[alias] = Draft(
            copied.source, copied.dtype, copied.shard, why=f"tied copy of {source}"
        )
    for claim in (c for c in whole if c.tensor in settled.copies):
        _replace(it, claim)
    for claim in ordered:
        if isinstance(claim.item, Entry):
            wrong += apply_entry(it, claim, claim.item, names, mha_out_proj)
        elif isinstance(claim.item, TokenRows):
            wrong += _apply_rows(it, claim, claim.item)
        elif claim.kind == "saved":
            (_replace_blocks if claim.pieces else _replace)(it, claim)
    if wrong:
        named = ordered[0].adapter.base
        said = f" The adapter names {shown(named)} as its base." if named else ""
        raise Mismatch(f"{first(wrong, 3)}.{said} Pass the right one as --base.")
    for sentence in settled.said:
        it.say("MRG001", sentence)


def _check_plain(draft: Draft, claim: Claim) -> None:
    check_float(draft, claim)
    if draft.packed is not None:
        raise Unsupported(
            f"{shown(claim.tensor)}: {shown(claim.adapter.ref)} saves it whole, the base has it "
            f"in {draft.packed.codec.kind}. Pass the 16-bit model as --base."
        )


def _apply_rows(it: Assembly, claim: Claim, rows: TokenRows) -> list[str]:
    draft = it.drafts[claim.tensor]
    check_float(draft, claim)
    if claim.pieces:
        raise Unsupported(
            f"{shown(rows.target)}: the base stores this embedding in parts, as in "
            f"{shown(claim.tensor)}, and token rows are put into whole ones. Merge it with PEFT."
        )
    last = max(rows.indices, default=0)
    if last >= draft.source.rows or rows.spec.columns != draft.source.columns:
        return [
            f"{shown(claim.tensor)}: token rows up to {last} of width {rows.spec.columns}, "
            f"the weight is {draft.source.rows}×{draft.source.columns}"
        ]
    for before in (update for update in draft.updates if isinstance(update, Rows)):
        twice, other = sorted({*before.indices} & {*rows.indices}), before.values
        if twice and isinstance(other, Factor) and other.spec.file != rows.spec.file:
            raise Unsupported(
                f"{shown(claim.tensor)}: two adapters bring tokens {first(twice)}; a row cannot be "
                "both. Merge one of the adapters, or take the rows out of one."
            )
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


def _replace_blocks(it: Assembly, claim: Claim) -> None:
    """Let a saved tensor take the place of the blocks of the base's tensors that it is."""
    assert isinstance(claim.item, Saved)
    saved = claim.item
    have, want = _blocks.whole(it.drafts, claim.pieces).shape, saved.spec.shape
    if have != want and have != (*want, 1):
        raise Mismatch(
            f"{shown(saved.name)}: the adapter saves it as {list(want)}, the base has "
            f"{list(have)}. Pass the base that it was trained on as --base."
        )
    for piece in claim.pieces:
        draft = it.drafts[piece.tensor]
        _check_plain(draft, claim)
        values = Factor(_blocks.part(saved.spec, piece))
        _blocks.put(draft, replace(piece, model=None), [Toward(values, claim.scale)])
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
