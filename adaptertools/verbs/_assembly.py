"""From base and adapters to drafts: one per output tensor, every adapter tensor accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial

from adaptertools.adapter import Adapter
from adaptertools.checkpoint import Checkpoint
from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.layouts import known, replicated
from adaptertools.layouts.converted import layout
from adaptertools.layouts.direct import Names
from adaptertools.layouts.tied import ties as tied_tensors
from adaptertools.packing import CODES, Packed
from adaptertools.tensorfile import TensorSpec
from adaptertools.verbs import _config, _ties
from adaptertools.verbs._claims import CHANGES, Claim, claims
from adaptertools.verbs._drafts import Assembly, Draft, apply, resizable
from adaptertools.verbs._entries import method_of
from adaptertools.verbs._experts import resolve
from adaptertools.verbs._module_order import module_order
from adaptertools.verbs._spread import spread


def assemble(
    base: Checkpoint,
    adapters: Sequence[tuple[Adapter, float]],
    *,
    tied: str = "untie",
    mha_out_proj: str | None = None,
    expert_packing: str | None = None,
    packed: Mapping[str, Packed] | None = None,
) -> Assembly:
    """Put the output together from headers alone; `packed` are the base's packed weights.

    Raises Mismatch where adapter and base do not fit, Unsupported where something cannot be
    merged; nothing has been written then.
    """
    only = [adapter for adapter, _ in adapters]
    for adapter in only:
        method_of(adapter).check(adapter.config)
    packed = packed or {}
    it = _start(base, only, packed)
    for adapter in only:
        for text in getattr(method_of(adapter), "doubts", lambda config: ())(adapter.config):
            it.say("MRG050", text, place=adapter.ref, level="warning")
    now = next(iter(it.config.get("architectures") or ()), "")
    name = _config.architecture(it.config, only, [*it.drafts])
    tensors = {n: draft.source for n, draft in it.drafts.items()}
    names = Names(it.drafts, known.prefix(it.config), cache(partial(layout, it.config, tensors)))
    it.order = partial(module_order, base.config, name)
    adapters = [(spread(adapter, names, it.order), scale) for adapter, scale in adapters]
    adapters = [(_resolved(it, a, names, expert_packing), scale) for a, scale in adapters]
    only = [adapter for adapter, _ in adapters]
    ties = _resolved_ties(it, name, names, only)
    aliases = {alias: source for alias, source in ties.items() if alias not in it.drafts}
    fresh, changed = _config.new_tensors(name), name != now
    every = [c for a, scale in adapters for c in claims(a, scale, names, aliases, fresh, changed)]
    _say_asked(it, every)
    settled = _ties.settle(every, aliases, tied == "keep", it.config)
    apply(it, settled, names, mha_out_proj)
    old = {**base.tensors, **{name: each.logical() for name, each in packed.items()}}
    _reconfigure(it, old, settled, ties, name if name != now else "", only)
    _account(it, only)
    return it


def _resolved(it: Assembly, adapter: Adapter, names: Names, packing: str | None) -> Adapter:
    """Find the parameters of fused experts; note what cannot be told of them for sure."""
    adapter, doubts = resolve(adapter, names.layout, packing)
    it.findings += doubts
    return adapter


def _start(base: Checkpoint, adapters: Sequence[Adapter], packed: Mapping[str, Packed]) -> Assembly:
    """Draft every tensor of the base as it is; layers replicated where an adapter says so."""
    it = Assembly({}, dict(base.config), [])
    wanted = [a.config["layer_replication"] for a in adapters if a.config.get("layer_replication")]
    renamed: Mapping[str, list[str]] = {}
    if wanted:
        if len(adapters) > 1 or packed:
            raise Unsupported(
                "One of the adapters sets layer_replication, which changes the depth of the model. "
                "Merge it alone, and into a 16-bit base."
            )
        layers = replicated.order(wanted[0], replicated.depth(base.config)[1])
        renamed = replicated.rename(base.tensors, layers)
        it.config = replicated.reconfigure(base.config, layers)
        it.say("MRG010", f"layer_replication is written out: {len(layers)} real layers.")
    side = {s.name for p in packed.values() for r, s in p.parts.items() if r != CODES}
    for shard, header in base.shards.items():
        for name, spec in header.tensors.items():
            for new in renamed.get(name, [name]):
                why = f"copy of {name}" if new != name else ""
                it.drafts[new] = Draft(spec, spec.dtype, shard, why=why, side=name in side)
                if found := packed.get(name):
                    logical = found.logical()
                    it.drafts[new] = Draft(logical, logical.dtype, shard, packed=found)
    return it


def _resolved_ties(
    it: Assembly, name: str, names: Names, adapters: Sequence[Adapter]
) -> dict[str, str]:
    """Give the ties in the base's own spelling.

    Raises Unsupported where an adapter changes an embedding of a class whose ties are unknown.
    """
    every = [t for a in adapters for t in _touched(a)]
    touched = [t for t in every if _config.embedding(t)]
    ask = bool(touched) or any(not (names.weight(t) or names.tensor(t)) for t in every)
    ties = tied_tensors(it.config, name, ask=ask)
    parts = (it.config, *(c for c in it.config.values() if isinstance(c, dict)))
    if touched and ties is None and any(c.get("tie_word_embeddings") for c in parts):
        raise Unsupported(
            f"The base ties its embeddings, the adapter changes {first(touched)}, and "
            f"{shown(name) or 'its class'} is not one whose tied tensors are known. Write "
            "lm_head.weight out and set tie_word_embeddings to false in the base, or serve the "
            "adapter."
        )
    found = {}
    for alias, source in (ties or {}).items():
        tensor = names.tensor(source)
        if tensor is None and ask and not names.renamed(alias):
            tensor = names.renamed(source)  # both are spelled as in an older checkpoint
        found[alias] = tensor
    return {alias: source for alias, source in found.items() if source}


def _say_asked(it: Assembly, every: Sequence[Claim]) -> None:
    """Say where names were not the base's, and transformers' own tables told which are meant."""
    if asked := {claim.asked: claim.tensor for claim in every if claim.asked}:
        name, tensor = next(iter(asked.items()))
        it.say(
            "MRG052",
            f"{len(asked)} names of the adapter are not the base's; transformers reads them from "
            f"it all the same: {shown(name)} from {shown(tensor)}"
            + (f", and {len(asked) - 1} more." if len(asked) > 1 else "."),
        )


def _touched(adapter: Adapter) -> list[str]:
    """Name what an adapter changes, in its own spelling."""
    targets = [entry.target for entry in adapter.entries] + [row.target for row in adapter.rows]
    return targets + [saved.name for saved in adapter.saved]


def _reconfigure(
    it: Assembly, old: Mapping[str, TensorSpec], settled: _ties.Untied, ties: Mapping[str, str],
    name: str, adapters: Sequence[Adapter],
) -> None:  # fmt: skip
    """Bring config.json in line with the tensors."""
    drafts = {n: d.source for n, d in it.drafts.items()}
    moved = {c.tensor for c in settled.claims if c.kind in CHANGES and not c.shared}
    loose = settled.copies or any({a, s} & moved for a, s in ties.items() if a in old)
    if name:
        _config.check_head(name, drafts, adapters, known.prefix(it.config))
    if name and (any(c.new for c in settled.claims) or settled.copies):
        it.config = _config.headed(it.config, name, drafts)
        it.say("MRG002", f"The model is now a {name}; config.json says so.", place="config.json")
    elif any(resizable(it, c.tensor) and c.kind == "saved" for c in settled.claims):
        now = next(iter(it.config.get("architectures") or ()), "")
        it.config = _config.headed(it.config, now, drafts) if now else it.config
    if loose and it.config:
        it.config = _config.untied(it.config)
    embeddings = {n: s for n, s in drafts.items() if _config.embedding(n) and len(s.shape) == 2}
    it.config, said = _config.resized(it.config, old, embeddings)
    if said:
        it.say("MRG003", said, place="config.json")


def _account(it: Assembly, adapters: Sequence[Adapter]) -> None:
    """Hold what was planned against what the adapters store: nothing may be left over."""
    for adapter in adapters:
        used = {part for owner, part in it.used if owner == id(adapter)}
        over = sorted(adapter.tensors.keys() - used - adapter.ignored.keys())
        if over:
            raise Mismatch(
                f"{len(over)} tensors of {shown(adapter.ref)} would have no effect: {first(over)}. "
                "Nothing was written. This is either a damaged adapter or a fault of adaptertools."
            )
        for junk, count in adapter.stripped.items():
            it.say("MRG004", f"{junk} taken off {count} names.", place=adapter.ref)
        for why in sorted(set(adapter.ignored.values())):
            names = [n for n, w in adapter.ignored.items() if w == why]
            it.say("MRG005", f"{len(names)} tensors not needed: {why}.", place=adapter.ref)
