"""Extract an adapter: the difference between a fine-tuned model and its base, as low rank."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adaptertools import checkpoint, hub
from adaptertools.checkpoint import Checkpoint
from adaptertools.errors import Mismatch, Unsafe, Unsupported, shown
from adaptertools.formats._peft_write import config_text
from adaptertools.formats.peft import CONFIG, WEIGHTS
from adaptertools.report import Report
from adaptertools.verbs._config import dtype_code
from adaptertools.verbs._extract_fit import fit
from adaptertools.verbs._extract_words import card, config, said
from adaptertools.verbs._extract_write import Made, write
from adaptertools.verbs._stack_ask import Ask


def extract(
    base: str | Path, finetuned: str | Path, *, out: str | Path, rank: str | int = "auto",
    dtype: str = "float32", progress: Callable[[int], object] | None = None,
) -> Report:  # fmt: skip
    """Write the LoRA that takes a base to its fine-tune, weight after weight, out of core.

    Args:
        base, finetuned: folders or Hub references of two models of one architecture.
        out: the folder to write. It has its name only once everything is in it.
        rank: "auto" keeps the singular values above what rounding to the stored dtype alone has;
            "max" all but float64 rounding; a number that many; "energy:0.99" that share of ‖ΔW‖²
            of each weight.
        dtype: of the factors; saved modules keep the fine-tune's.
        progress: called with bytes of the fine-tune that are done.

    Linear weights become factors, of which `facts` says how far B·A is from the difference as it
    was measured after rounding. Norms, embeddings, heads and convolutions become saved modules,
    biases are kept exactly, and what did not change is left out. One weight is in memory at a
    time, in float64 and up to five copies.

    Raises Mismatch where the two do not fit or nothing differs, Unsupported for packed weights and
    changed experts, Unreadable for NaN and infinity, Unsafe where `out` exists.
    """
    ask, code = Ask.of(rank), dtype_code(dtype)
    if ask.kind == "budget":
        raise Unsupported(
            "--rank budget needs all weights at once, and an extraction takes one at a time. Give "
            "energy:0.99, and resize the adapter to the budget."
        )
    old = checkpoint.read(hub.local(base, "base"), str(base))
    new = checkpoint.read(hub.local(finetuned, "fine-tuned model"), str(finetuned))
    fitted, place = fit(old, new), Path(out)
    draft = _draft(place, (old, new))
    try:
        made = write(fitted, draft / WEIGHTS, ask, code, progress or _silent)
        if not (made.matrices or made.wholes or made.biases):
            raise Mismatch(_nothing(old, new, made))
        settings = config(old, new, made)
        (draft / CONFIG).write_text(config_text(settings), "utf-8")
        (draft / "README.md").write_text(card(old, new, str(ask), made), "utf-8")
        draft.rename(place)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return Report(
        verb="extract", subject=str(finetuned), facts=_facts(out, old, new, ask, code, made),
        findings=tuple(said(old, new, fitted, made)),
    )  # fmt: skip


def _silent(count: int) -> None:
    """Take progress and say nothing."""


def _draft(out: Path, inputs: tuple[Checkpoint, ...]) -> Path:
    """Make the folder that gets its name at the end."""
    if out.exists() or out.is_symlink():
        raise Unsafe(f"{shown(out)} exists already. Choose another --out, or delete it.")
    for each in inputs:
        source, target = Path(each.folder).resolve(), out.resolve()
        if source in target.parents:
            raise Unsafe(
                f"--out {shown(out)} lies inside {shown(each.ref)}. Inputs are never written to; "
                "choose a folder of its own."
            )
    draft = out.with_name(out.name + ".partial")
    try:
        draft.mkdir(parents=True)
    except FileExistsError:
        raise Unsafe(f"{shown(draft)} is there from an earlier run. Delete it.") from None
    return draft


def _nothing(old: Checkpoint, new: Checkpoint, made: Made) -> str:
    if made.rounding:
        return (
            f"{shown(new.ref)} differs from {shown(old.ref)} by rounding only, in {made.rounding} "
            "weights. There is no adapter in it; pass --rank max to take the rounding all the same."
        )
    return (
        f"{shown(new.ref)} and {shown(old.ref)} hold the same values: nothing was fine-tuned, so "
        "there is no adapter to extract. Give the model that was trained."
    )


def _facts(
    out: str | Path, old: Checkpoint, new: Checkpoint, ask: Ask, code: str, made: Made
) -> Mapping[str, Any]:
    square = sum(each.norm**2 for each in made.matrices)
    lost = sum((each.error * each.norm) ** 2 for each in made.matrices)
    return {
        "out": str(out), "base": old.ref, "finetuned": new.ref, "rank": str(ask), "dtype": code,
        "modules": [each.as_json() for each in made.matrices], "saved": made.wholes,
        "biases": made.biases, "unchanged": made.same, "rounding": made.rounding,
        "error": (lost / square) ** 0.5 if square else 0.0,
        "worst": max((each.worst for each in made.matrices), default=0.0),
        "largest_rank": max((each.rank for each in made.matrices), default=0),
    }  # fmt: skip
