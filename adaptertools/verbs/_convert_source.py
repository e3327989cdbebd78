"""What is converted: a LoRA all of whose tensors are accounted for, and what it has besides.

The checks are those of stacking: a fixed sum for each module, no tensor left over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adaptertools import checkpoint
from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import Unsupported, first, shown
from adaptertools.formats import EXTRAS, Writer
from adaptertools.report import Finding, Level
from adaptertools.tensorfile import same
from adaptertools.verbs._convert_method import Plain, as_lora, fixed, worked_out
from adaptertools.verbs._convert_near import Lossy
from adaptertools.verbs._sources import check_finite, untouched
from adaptertools.verbs._sources_base import shapes
from adaptertools.verbs._sources_forms import WIDTHLESS

_MAGNITUDE, _BIAS = "lora_magnitude_vector", "lora_B.bias"
_EXACT = Lossy()
_DROPPABLE = ("lora_bias", "saved", "rows", "along")  # without the others, the factors mean nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An adapter that a writer can be given, and what is to be said of how it became that."""

    adapter: Adapter
    findings: tuple[Finding, ...]
    lossy: Mapping[str, Any] = field(default_factory=dict)  # figures where something was lost


def take(
    adapter: Adapter, to: str, writer: Writer, drop: bool, base: Path | None,
    doubts: Sequence[Finding] = (), ask: Lossy = _EXACT,
) -> Taken:  # fmt: skip
    """Check an adapter against what a format holds; weights that equal the base's need no place.

    Of other methods than LoRA, those among the writer's METHODS stay what they are; but PEFT's own
    folder holds all of them, so who allows losses there wants a LoRA.
    Raises Unsupported for what it does not hold, unless it is to be dropped; and what `fixed` and
    `worked_out` raise where no LoRA is the same.
    """
    if adapter.config.get("layer_replication"):
        raise Unsupported(
            f"{shown(adapter.ref)} sets layer_replication: its base is rebuilt with repeated "
            "layers, which only PEFT does. Merge it instead."
        )
    same = ask.allowed and to == adapter.format == "peft"
    findings = [*doubts, *_said(adapter)]
    lossy: Mapping[str, Any] = {}
    if adapter.method in getattr(writer, "METHODS", ()) and not same:
        check_finite(untouched(adapter))
    else:
        beside = adapter.config.get("use_dora") and ("dora" in writer.HOLDS and not same)
        whole = beside or not ask.allowed
        found = _lora(adapter, writer, drop, base, ask, whole=bool(whole))
        adapter, lossy = found.adapter, found.lossy
        findings += found.findings
    if base:
        adapter = _without_bases(adapter, base, findings)
    extras = _extras(adapter)
    for kind, names in extras.items():
        if kind in writer.HOLDS:
            continue
        what = f"{EXTRAS[kind]} ({first(names, 3)})"
        if not drop or kind not in _DROPPABLE:
            raise Unsupported(_refusal(to, writer, what, kind))
        adapter = _dropped(adapter, kind)
        findings.append(_finding("CNV011", "warning", f"Dropped as asked: {what}.", adapter))
    return Taken(adapter=adapter, findings=tuple(findings), lossy=lossy)


def _lora(
    adapter: Adapter, writer: Writer, drop: bool, base: Path | None, ask: Lossy, *, whole: bool
) -> Plain:
    """Make a LoRA of it; with `whole` DoRA's magnitudes stay, for the format to hold or refuse."""
    dora = whole and bool(adapter.config.get("use_dora"))
    # Of other formats the base may be of another kind: a pipeline, a GGUF file.
    own = adapter.method in WIDTHLESS or (adapter.method != "LORA" and adapter.format == "peft")
    sizes = shapes(base) if base and base.is_dir() and own else None
    made = fixed(_without(adapter, _MAGNITUDE) if dora else adapter, sizes)
    if made is None:
        return worked_out(adapter, base, ask, drop, writer)
    check_finite(untouched(adapter) if dora else made)
    return Plain(adapter=adapter) if dora else as_lora(made, ask, told=sizes is not None)


def _refusal(to: str, writer: Writer, what: str, kind: str) -> str:
    hint = "Pass --drop-extras to leave them out"
    if kind == "along":
        hint = f"Pass --base to have them compared with the base's own, or else: {hint}"
    if kind not in _DROPPABLE:
        hint = "Merge it into its base instead"
    if kind == "dora":
        hint += ", or pass --base and --allow-lossy for a LoRA near it (--dry-run says how near)"
    return f"{to} cannot hold {what}. It holds no {writer.LACKS.partition(':')[0]}. {hint}."


def _extras(adapter: Adapter) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {
        "dora": [e.target for e in adapter.entries if _MAGNITUDE in e.parts],
        "lora_bias": [e.target for e in adapter.entries if _BIAS in e.parts],
        "saved": [item.name for item in adapter.saved if item.own],
        "along": [item.name for item in adapter.saved if not item.own],
        "rows": [rows.target for rows in adapter.rows],
        "conv": [e.target for e in adapter.entries if _conv(e)],
        "embedding": [e.target for e in adapter.entries if "lora_embedding_A" in e.parts],
        "nested": [e.target for e in adapter.entries if e.nested],
    }
    return {kind: names for kind, names in found.items() if names}


def _conv(entry: Entry) -> bool:
    return "lora_A" in entry.parts and len(entry.parts["lora_A"].shape) > 2


def _dropped(adapter: Adapter, kind: str) -> Adapter:
    if kind == "lora_bias":
        return _without(adapter, _BIAS)
    if kind in ("saved", "along"):
        own = kind == "saved"
        return replace(adapter, saved=tuple(item for item in adapter.saved if item.own != own))
    return replace(adapter, rows=())


def _without(adapter: Adapter, role: str) -> Adapter:
    """Take one kind of tensor out of every module."""
    gone = {e.parts[role].name for e in adapter.entries if role in e.parts}
    entries = tuple(
        replace(e, parts={r: spec for r, spec in e.parts.items() if r != role})
        for e in adapter.entries
    )
    flag = {"use_dora": False} if role == _MAGNITUDE else {"lora_bias": False}
    tensors = {name: spec for name, spec in adapter.tensors.items() if name not in gone}
    return replace(adapter, entries=entries, tensors=tensors, config={**adapter.config, **flag})


def _without_bases(adapter: Adapter, base: Path, findings: list[Finding]) -> Adapter:
    """Leave out weights saved along that equal the base's own, byte by byte."""
    along = [item for item in adapter.saved if not item.own]
    if not along:
        return adapter
    held = checkpoint.read(base, str(base)).tensors
    equal = [item for item in along if item.name in held and same(item.spec, held[item.name])]
    if equal:
        text = f"Left out, because the base has the same: {first(item.name for item in equal)}."
        findings.append(_finding("CNV010", "note", text, adapter))
    return replace(adapter, saved=tuple(item for item in adapter.saved if item not in equal))


def _said(adapter: Adapter) -> Iterator[Finding]:
    if adapter.ignored:
        why = "; ".join(sorted(set(adapter.ignored.values())))
        names = first(adapter.ignored)
        yield _finding("CNV012", "note", f"Not converted: {names} ({why}).", adapter)


def _finding(code: str, level: Level, text: str, adapter: Adapter) -> Finding:
    return Finding(code=code, level=level, place=adapter.ref, text=text)
