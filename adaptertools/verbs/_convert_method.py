"""Which way an adapter becomes a plain LoRA: by its tensors alone, with the base, or nearly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools.adapter import Adapter
from adaptertools.errors import Unsupported, first, shown
from adaptertools.formats import Writer
from adaptertools.methods._lora_forms import LORA_FORMS
from adaptertools.methods._refused import REFUSED, refusal
from adaptertools.report import Finding
from adaptertools.verbs._convert_closed import Began, closed
from adaptertools.verbs._convert_lora import Low, lows, needed, write_out
from adaptertools.verbs._convert_near import Lossy, added, changes, cut, facts
from adaptertools.verbs._convert_seats import Seat, seats
from adaptertools.verbs._entries import method_of
from adaptertools.verbs._sources import Source, check_finite, source, untouched
from adaptertools.verbs._sources_base import Shapes
from adaptertools.verbs._sources_forms import FACTORED, WIDTHLESS
from adaptertools.verbs._sources_low import Dependent

if TYPE_CHECKING:
    from adaptertools.verbs._extract_matrix import Said

# init_lora_weights whose training began with factors of the base, taken out of it.
_BEGINS = ("pissa", "olora")
# Methods that store a convolution's kernel flattened, as if it were a linear layer.
_FLAT = ("ADALORA", "LOHA", "LOKR")
_UNTOLD = (
    "Its tensors do not tell a convolution from a linear layer; all were taken for linear. Pass "
    "--base where there are convolutions."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A LoRA, and what is to be said of how it became one."""

    adapter: Adapter
    findings: tuple[Finding, ...] = ()
    lossy: dict[str, Any] = field(default_factory=dict)  # figures where something was lost


def fixed(adapter: Adapter, sizes: Shapes | None) -> Source | None:
    """Take an adapter apart without its base's weights; None where its update depends on them.

    Raises Unsupported with what to do where no LoRA can stand for it, and what `source` raises.
    """
    if adapter.method in REFUSED:
        raise refusal(adapter.method, adapter.ref, "written as a LoRA")
    if (form := LORA_FORMS.get(adapter.method, "")).startswith("no: "):
        raise Unsupported(
            f"{shown(adapter.ref)} is of type {adapter.method}, which no LoRA can stand for: "
            f"{form.removeprefix('no: ')}. Merge it into its base instead (`adaptertools merge`), "
            "or serve it with PEFT."
        )
    if adapter.method not in (*FACTORED, *WIDTHLESS):
        method_of(adapter)
        return None
    if begins(adapter):
        return None
    try:
        return source(adapter, sizes)
    except Dependent:
        return None


def begins(adapter: Adapter) -> str:
    """Tell whether training began with factors taken out of the base; their kind, or ''."""
    init = adapter.config.get("init_lora_weights")
    name = init.lower() if adapter.method == "LORA" and isinstance(init, str) else ""
    if name.startswith("pissa_niter"):
        raise Unsupported(
            f'init_lora_weights is "{shown(init)}": what training began with comes from a random '
            "factorisation, and is not in the file. Save the adapter again with PEFT's "
            "path_initial_model_for_weight_conversion, which needs the adapter as it was before "
            "training."
        )
    return name if name in _BEGINS else ""


def as_lora(made: Source, ask: Lossy, *, told: bool) -> Plain:
    """Write factors out that the tensors alone say, cut to the rank that was asked for.

    `told` says that a base has told the weights' axes.
    """
    adapter = made.adapter
    said: list[Said] = []
    if needed(adapter):
        found = _written(adapter, cut(lows(made, ask.code), ask, said), said, ask)
        flat = adapter.method in _FLAT and adapter.format == "peft" and not told
        doubt = [_finding("CNV017", "note", _UNTOLD, adapter)] if flat else []
        return replace(found, findings=(*found.findings, *doubt))
    if not ask.allowed or ask.rank is None or made.experts or adapter.config.get("use_dora"):
        return Plain(adapter=adapter)
    found = _written(adapter, cut(lows(made, ask.code), ask, said), said, ask)
    return found if said else Plain(adapter=adapter)


def worked_out(
    adapter: Adapter, base: Path | None, ask: Lossy, drop: bool, writer: Writer
) -> Plain:
    """Write the change that an adapter makes to the base's weights as factors.

    Raises Unsupported where there is no base, where its rank is full and nothing may be lost, and
    for biases that it changes where the target has no place for them.
    """
    if base is None:
        raise Unsupported(f"{_kind(adapter)}: {_without_base(adapter)}")
    kind = begins(adapter)
    config = {**adapter.config, "init_lora_weights": True} if kind else adapter.config
    named, found = seats(replace(adapter, config=config), base)
    check_finite(untouched(named))
    if kind:
        found = [_began(seat, kind) for seat in found]
    if not ask.allowed and (full := [s.entry.target for s in found if not closed(s.updates)]):
        raise Unsupported(
            f"{_kind(adapter)}: the update of {first(full, 2)} has full rank, and a LoRA can only "
            "come near it. Pass --allow-lossy, and --rank N, energy:0.99 or auto (16 without it); "
            "with --dry-run it says how near, and writes nothing."
        )
    doubts = getattr(method_of(adapter), "doubts", lambda config: ())(adapter.config)
    notes = [_finding("CNV016", "warning", text, adapter) for text in doubts]
    odd = [s.entry.target for s in found if s.bias_updates and added(s) is None]
    if odd and "saved" not in writer.HOLDS:
        notes.append(_biases(adapter, odd, drop))
    said: list[Said] = []
    every = changes(found, ask, said, biases=bool(odd) and "saved" in writer.HOLDS)
    turned = any(seat.site.transposed for seat in found)
    made = _written(named, every, said, ask, turned=turned, kind=kind)
    return replace(made, findings=(*notes, *made.findings))


def _began(seat: Seat, kind: str) -> Seat:
    """Add what was taken out of the base before training."""
    if seat.embedding or len(seat.axes) > 2 or (kind == "olora" and seat.site.transposed):
        raise Unsupported(
            f"{shown(seat.entry.target)}: PEFT begins {kind} on linear layers only"
            f"{' that are no Conv1D' * (kind == 'olora')}. Merge it with PEFT."
        )
    if not closed(seat.updates):
        raise Unsupported(
            f"{shown(seat.entry.target)}: its update looks at the weight that training had, and "
            f"{kind} had changed that. Save the adapter again with PEFT's "
            "path_initial_model_for_weight_conversion."
        )
    return replace(seat, updates=(*seat.updates, Began(kind, seat.entry.rank, seat.entry.scale)))


def _written(
    adapter: Adapter, every: Iterator[Low], said: list[Said], ask: Lossy, *, turned: bool = False,
    kind: str = "",
) -> Plain:  # fmt: skip
    made = write_out(adapter, every, turned=turned)
    ranks = " to ".join(str(rank) for rank in sorted(set(made.ranks)))
    what = "DoRA" if adapter.config.get("use_dora") else adapter.method
    what += " with blocks" * bool(adapter.config.get("use_bdlora")) + f" ({kind})" * bool(kind)
    if not said:
        text = (
            f"{what} written as LoRA of rank {ranks}: the same update, stored to "
            f"{made.error:.1g} of it."
        )
        told = [_finding("CNV013", "note", text, adapter)]
        if kind:
            text = (
                "The base is taken for the one before training: what training took out of it is "
                "worked out of it again, and is not in the file."
            )
            told.append(_finding("CNV015", "note", text, adapter))
        return Plain(adapter=made.adapter, findings=tuple(told))
    figures = facts(said, ask)
    text = (
        f"{what} written as LoRA of rank {ranks}: off by {figures['error']:.2g} of the "
        f"update in all, and by at most {figures['worst']:.2g} in one of {len(said)} modules."
    )
    told = [_finding("CNV014", "note" if figures["whole"] else "warning", text, adapter)]
    return Plain(adapter=made.adapter, findings=tuple(told), lossy=figures)


def _biases(adapter: Adapter, odd: Sequence[str], drop: bool) -> Finding:
    what = f"what {adapter.method} does to the biases of {first(odd, 3)}"
    if not drop:
        raise Unsupported(
            f"{shown(adapter.ref)}: {what} has no place in this format. Pass --drop-extras to "
            "leave it out, --to peft to have these biases saved whole, or merge it into its base."
        )
    return _finding("CNV011", "warning", f"Dropped as asked: {what}.", adapter)


def _kind(adapter: Adapter) -> str:
    keys = ("use_dora", "kasa_config")
    said = next((key for key in keys if adapter.config.get(key)), "")
    said = f"init_lora_weights {kind}" if (kind := begins(adapter)) else said
    return f"{shown(adapter.ref)} is of type {adapter.method}" + (f" with {said}" if said else "")


def _without_base(adapter: Adapter) -> str:
    exact = LORA_FORMS.get(adapter.method, "").startswith("exactly") or begins(adapter)
    text = "what it changes is told only beside the base's weights. Pass its folder as --base"
    if not exact:
        text += ", and --allow-lossy, because a LoRA can only come near it; --dry-run says how near"
    return f"{text}."


def _finding(code: str, level: Any, text: str, adapter: Adapter) -> Finding:
    return Finding(code=code, level=level, place=adapter.ref, text=text)
