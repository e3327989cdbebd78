"""What becomes of an update in a packed model: foreseen for the plan, summed up for the report."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from adaptertools.errors import Unsupported
from adaptertools.jobs import Edit, MergePlan
from adaptertools.packed_tiles import foresee
from adaptertools.report import Finding
from adaptertools.retention import TYPICAL_ERROR
from adaptertools.rounding import Rounding
from adaptertools.scales import NEAREST

LOST, WEAK = 0.5, 0.9  # below the first an update is lost, below the second weak

# In measured order of what is left of the loss gain, on a trained MiniLM (benchmarks/README.md).
_WAYS = (
    "the adapter kept beside the packed base", "16 bit on the decoded base (--quant none)",
    "the 16-bit original, merged and packed once (--base-weights original)",
)  # fmt: skip
_EIGHT, _AGAIN = "8 bit (--quant 8bit)", "the same packing again, on its kept scales"


def foreseen(edits: Sequence[Edit]) -> list[Rounding]:
    """Measure on a few rows of each weight what packing will do to its update."""
    packed = (edit for edit in edits if edit.updates and edit.repack and not edit.turned)
    return [found for edit in packed if (found := foresee(edit)) is not None]


def summed(said: Sequence[Rounding]) -> dict[str, Any]:
    """Give retention over all packed tensors, each weighted by the energy of its update."""
    known = [(r.retention, r) for r in said if r.retention is not None]
    total = sum(k.energy for k, _ in known)
    if not total:
        return {}

    def mean(values: Sequence[float | None]) -> float | None:
        pairs = [(v, k.energy) for v, (k, _) in zip(values, known, strict=True) if v is not None]
        energy = sum(e for _, e in pairs)
        return sum(v * e for v, e in pairs) / energy if energy else None

    kept = mean([k.kept for k, _ in known])
    return {
        "tensors": len(known), "kept": kept, "nearest": mean([k.nearest for k, _ in known]),
        "in_band": mean([k.in_band for k, _ in known]),
        "noise": median(k.noise for k, _ in known),
        "update_norm": median(r.update_norm for _, r in known),
        "moved": median(k.moved for k, _ in known), "clipped": sum(k.clipped for k, _ in known),
        "weak": sum(LOST <= k.kept < WEAK for k, _ in known),
        "lost": sum(k.kept < LOST for k, _ in known),
    }  # fmt: skip


def sentence(summary: dict[str, Any], edits: Sequence[Edit]) -> str:
    """Say in plain words what nearest would have kept and what was kept."""
    changed = [edit for edit in edits if edit.updates and not edit.plain]
    how = "/".join(sorted({e.repack.rounding for e in changed if e.repack}))
    from_grid = any(e.packed for e in changed)
    packings = [e.packed or e.repack for e in changed]
    kinds = {each.codec.kind for each in packings if each}
    kept, noise = _share(summary["kept"]), f"{summary['noise']:.1%}"
    text = f"{_WORDS.get(how, how)} kept {kept} of this adapter"
    if (near := summary["nearest"]) is not None and how != "nearest":
        said = text[0].lower() + text[1:]
        text = f"Nearest rounding would have kept {_share(near)} of this adapter; {said}"
        text = text.removesuffix(" of this adapter")
    error = TYPICAL_ERROR.get(next(iter(sorted(kinds)), ""))
    known = f", the {'/'.join(sorted(kinds))} base already has about {error:.1%}" if error else ""
    text += (
        f"; added noise {noise} of the weights{known}"
        if from_grid
        else (f"; the packed weights are off by {noise}")
    )
    return text + ". Retention is of weights, it is no accuracy."


_WORDS = {
    "": "Rounding to 16 bit",
    "adapter": "Adapter-aware rounding", "stochastic": "Stochastic rounding",
    "nearest": "Nearest rounding",
    "search": "Nearest rounding on searched scales",
}  # fmt: skip


def _share(value: float) -> str:
    return f"{value:.0%}" if value < 0.995 or value > 1.005 else f"{value:.1%}"


def check_nearest(said: Sequence[Rounding], edits: Sequence[Edit], force: bool) -> None:
    """Refuse nearest rounding where it would take most of the adapter back."""
    how = {e.name: e.repack.rounding for e in edits if e.repack and e.packed}
    near = summed([r for r in said if how.get(r.tensor) in NEAREST])
    if near and near["kept"] < LOST and not force:
        raise Unsupported(
            f"--rounding nearest would keep {_share(near['kept'])} of this adapter: the base lies "
            "on its grid, and what is smaller than half a step is rounded back. Leave --rounding "
            "out, choose --quant 8bit or none, or pass --force."
        )


def check_cut(said: Sequence[Rounding], edits: Sequence[Edit], force: bool) -> None:
    """Refuse kept scales that cut an update off: rows that grow (IA3, RoAd) leave the grid."""
    kept = {e.name for e in edits if e.packed and e.repack and e.repack.kept}
    dice = {e.name for e in edits if e.repack and e.repack.rounding not in NEAREST}
    left = summed([r for r in said if r.tensor in kept & dice])
    if left and left["kept"] < LOST and not force:
        raise Unsupported(
            f"The packed base's own scales would keep {_share(left['kept'])} of this adapter: what "
            "grows beyond the largest weight of its block is cut off. Choose --quant 8bit or none, "
            "merge into the 16-bit original (--base-weights original), or pass --force."
        )


def advice(edits: Sequence[Edit], rounding: str | None) -> str:
    """Give the measured order of quality and what was chosen; empty where nothing is packed."""
    if not any(e.updates and (e.packed or e.repack) for e in edits):
        return ""
    was = {e.packed.codec.kind for e in edits if e.updates and e.packed}
    chosen = next(
        (e.repack.codec.kind if e.repack else "16 bit" for e in edits if e.updates and e.packed),
        next((e.repack.codec.kind for e in edits if e.repack), "16 bit"),
    )
    if not was:
        return (
            f"From 16 bits the update is added first and packed once, to {chosen}: nearest keeps "
            "it in the mean, the noise is the packing's own."
        )
    ways = "; ".join([*_WAYS, *[_EIGHT] * (not was & {"int8", "fp8"}), _AGAIN])
    how = f", {rounding or 'adapter'} rounding" if chosen in was else ""
    return f"Measured order of quality for a packed base: {ways}. Chosen: {chosen}{how}."


def verdict(summary: dict[str, Any], plan: MergePlan) -> Finding:
    """Give the sentence as a finding: a warning where part of the adapter is lost."""
    text = sentence(summary, plan.edits)
    if summary["lost"] or summary["weak"]:
        text += (
            f" {summary['lost']} tensors keep less than half of their update, {summary['weak']} "
            "less than 90 %."
        )
    bad = summary["kept"] < WEAK or summary["lost"]
    return Finding(code="MRG045", level="warning" if bad else "note", place=plan.out, text=text)
