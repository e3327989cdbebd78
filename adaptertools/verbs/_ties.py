"""Tied embeddings: one tensor, two modules, and an adapter that changes only one of them.

In training only the adapted module changes; PEFT's merge writes the change into the shared tensor
and so changes both. Here both are written out and the config unties them, unless the adapter
itself kept them equal, or `--tied keep` asks for what PEFT does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adaptertools import tensorfile
from adaptertools.adapter import Entry, TokenRows
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.layouts import known
from adaptertools.verbs._claims import CHANGES, Claim

_TURNED = {"lora_A": "lora_embedding_B", "lora_B": "lora_embedding_A"}


@dataclass(frozen=True, slots=True)
class Untied:
    """The claims, each on the tensor that it changes, and the copies to be written out."""

    claims: list[Claim]
    copies: Mapping[str, str]  # alias -> the tensor it is a copy of; empty where all stays tied
    said: tuple[str, ...] = ()


def settle(
    claims: Sequence[Claim], aliases: Mapping[str, str], keep: bool, config: Mapping[str, Any]
) -> Untied:
    """Decide what becomes of tied tensors.

    Raises Unsupported where untying would change what the model computes.
    """
    settled, said = _shared(claims, aliases)
    changed = {c.tensor for c in settled if c.kind in CHANGES and not c.shared}
    changed |= {c.tensor for c in settled if c.tensor in aliases}
    loose = {a: s for a, s in aliases.items() if {a, s} & changed}
    if not loose:
        return Untied(settled, {}, tuple(said))
    names = ", ".join(f"{shown(a)} = {shown(s)}" for a, s in loose.items())
    if keep:
        moved = [replace(c, tensor=aliases.get(c.tensor, c.tensor)) for c in settled]
        said.append(f"{names} stay tied, as asked: the change of one acts on both, as in PEFT.")
        return Untied(moved, {}, tuple(said))
    if known.untied_changes_forward(config):
        raise Unsupported(
            f"The adapter changes one of the tied tensors {names}, and untying them would change "
            f"what a {shown(config.get('model_type'))} model computes. Serve it as an adapter, or "
            "pass --tied keep to change both, as PEFT does."
        )
    said.append(
        f"{names} were tied, and the adapter changes one of them: both are written out and "
        "tie_word_embeddings is set to false. PEFT would change both."
    )
    # Every tied name needs a tensor of its own once the config unties.
    return Untied(_with_rows(settled, aliases), dict(aliases), tuple(said))


def _shared(claims: Sequence[Claim], aliases: Mapping[str, str]) -> tuple[list[Claim], list[str]]:
    """Fold equal copies of one change into one claim on the shared tensor."""
    rest, said = list(claims), []
    for claim in claims:
        source = aliases.get(claim.tensor)
        if source is None:
            continue
        forced = bool(claim.adapter.config.get("ensure_weight_tying"))
        twin = next((c for c in rest if c.tensor == source and _pair(c, claim)), None)
        equal = twin is not None and _equal(twin, claim)
        if forced and twin is not None and not equal:
            raise Mismatch(
                f"ensure_weight_tying is set, and the two copies of the change, on {shown(source)} "
                f"and {shown(claim.tensor)}, differ: PEFT did not tie them. To merge each as it "
                "was trained, set ensure_weight_tying to false in adapter_config.json."
            )
        if twin is not None and equal:
            rest.remove(claim)
            rest[rest.index(twin)] = replace(twin, also=(*twin.also, *claim.parts), shared=True)
            said.append(
                f"{shown(claim.tensor)} and {shown(source)} carry the same change: applied once, "
                "and they stay tied."
            )
        elif forced:
            rest[rest.index(claim)] = replace(claim, tensor=source, shared=True)
            said.append(f"{shown(claim.tensor)} stays tied to {shown(source)}: changed once.")
    # ensure_weight_tying may leave only the source's copy in the file; PEFT ties it when loading.
    sources = set(aliases.values())
    forced_too = [
        replace(c, shared=True)
        if c.tensor in sources and c.adapter.config.get("ensure_weight_tying")
        else c
        for c in rest
    ]
    return forced_too, said


def _pair(a: Claim, b: Claim) -> bool:
    return a.adapter is b.adapter and a.kind == b.kind


def _equal(source: Claim, alias: Claim) -> bool:
    if isinstance(source.item, Entry) and isinstance(alias.item, Entry):
        return _equal_factors(source.item, alias.item)
    assert not isinstance(source.item, Entry)
    assert not isinstance(alias.item, Entry)
    a, b = source.item, alias.item
    if isinstance(a, TokenRows) and isinstance(b, TokenRows) and a.indices != b.indices:
        return False
    return tensorfile.same(a.spec, b.spec)


def _equal_factors(source: Entry, alias: Entry) -> bool:
    """Compare two changes; where one is an embedding's, its A and B are the other's B.T and A.T."""
    import numpy as np

    one, two = source.parts, alias.parts
    turned = {x: y for x, y in _TURNED.items() if x in two and y in one}
    if source.scale != alias.scale or {turned.get(role, role) for role in two} != one.keys():
        return False
    return all(
        np.array_equal(tensorfile.read(spec), tensorfile.read(one[turned[role]]).T)
        if role in turned
        else tensorfile.same(spec, one[role])
        for role, spec in two.items()
    )


def _with_rows(claims: Sequence[Claim], aliases: Mapping[str, str]) -> list[Claim]:
    """Let trained token rows, which PEFT ties by itself, reach the copies too."""
    told = {c.tensor for c in claims if c.kind == "rows"}
    more = [
        replace(c, tensor=alias)
        for alias, source in aliases.items()
        for c in claims
        if c.kind == "rows" and c.tensor == source and alias not in told
    ]
    return [*claims, *more]
