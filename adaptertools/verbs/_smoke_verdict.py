"""What smoke concludes from its runs: one word, and findings that give the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from adaptertools.errors import first
from adaptertools.report import Finding, Level
from adaptertools.verbs._smoke_judge import SEEN, Pair, Share, finite, pair
from adaptertools.verbs._smoke_run import Run, Sides

Verdict = Literal["adapter", "base", "twice", "opposite", "part", "neither", "unseen", "runs"]

BLUR = {"bfloat16": 4 / 256, "float16": 4 / 1024}  # what a 16-bit forward pass may blur
_REASONS = {
    "base": (
        "SMK010", "It follows the base and not the adapter: {0:.0%} of the update arrived.",
        "The update was not applied, or rounding took it back: merge again, from 16 bits or with "
        "adapter-aware rounding.",
    ),
    "twice": (
        "SMK011", "It overdoes the adapter: {0:.0%} of the update arrived.",
        "The update was added twice, or with too large a scale: check alpha, rank and rsLoRA.",
    ),
    "opposite": (
        "SMK012", "It does the opposite of the adapter: {0:.0%} of the update arrived.",
        "The update was subtracted.",
    ),
    "part": (
        "SMK016", "It holds only a part of the adapter: {0:.0%} of the update arrived, and what it "
        "is nearest to is the {1}.", "Merge again: `adaptertools verify` finds what is missing.",
    ),
    "neither": (
        "SMK013", "It follows neither adapter nor base: both are far from it.",
        "Weights are damaged, misplaced, or of another model: `adaptertools verify` finds out.",
    ),
}  # fmt: skip


_LEFT = {"whole": "modules that it brings whole, alone", "update": "update alone, without them"}


def finding(level: Level, code: str, place: str, text: str, hint: str = "") -> Finding:
    """Make a finding."""
    return Finding(code=code, level=level, place=place, text=text, hint=hint)


def health(runs: Sequence[Run]) -> list[Finding]:
    """Report NaN, and weights that were in no file."""
    said = []
    for run in runs:
        if not finite(run.outputs):
            said.append(finding("error", "SMK001", run.name, "Its outputs hold NaN or infinity."))
        if run.loaded.missing and not run.name.startswith("adapter"):
            level: Level = "error" if run.name in ("merged", "model") else "warning"
            text = f"Its files lack {first(run.loaded.missing, 3)}: random numbers stand there."
            said.append(finding(level, "SMK002", run.name, text))
    return said


def sides(found: Sides, base: Run, *, choices: bool) -> list[Finding]:
    """Report adapters that change nothing, or that cannot be switched."""
    said = []
    for run in found.runs:
        moved = pair(base.name, run.name, base.outputs, run.outputs, choices=choices).distance
        if moved < SEEN:
            text = "The adapter changes nothing: it is untrained, or empty."
            said.append(finding("warning", "SMK020", run.name, text))
    for ref in found.runs[0].loaded.unread:
        text = "transformers' load_adapter leaves parts of it out, such as the magnitudes of a "
        text += "DoRA; here PEFT loaded them."
        said.append(finding("warning", "SMK023", ref, text, "Serve it with PEFT, or merged."))
    off = pair(base.name, "off", base.outputs[:1], found.off, choices=choices).distance
    if off > max(1e-3, BLUR.get(base.loaded.dtype, 0.0)):
        text = "Switched off, it does not give the base back: it changes more than PEFT takes back."
        said.append(finding("warning", "SMK021", found.runs[0].name, text))
    if not found.back:
        text = "Switched off and on again, it answers otherwise than before."
        said.append(finding("error", "SMK022", found.runs[0].name, text))
    return said


def judge(
    how: Share, near: Pair, far: Pair, *, quantised: bool, dtypes: Sequence[str], scalable: bool
) -> tuple[Verdict, list[Finding]]:
    """Conclude whom the merged model follows.

    `near` is the pair of adapter and merged model, `far` that of adapter and base; `scalable`
    says whether the update was tried twice and turned round. Where something is quantised, or the
    adapter moves less than the dtype blurs, the merged model may be further from the adapter than
    the base is: then only the share counts.
    """
    dtype = max(dtypes, key=lambda name: BLUR.get(name, 0.0))
    blurred = quantised or how.effect < BLUR.get(dtype, 0.0)
    closer = near.gap < far.gap
    word = _word(how, closer, blurred, scalable)
    if word == "unseen":
        return word, []
    said = []
    if word != "adapter":
        code, text, hint = _REASONS[word]
        if how.effect < BLUR.get(dtype, 0.0):
            hint = f"The adapter moves the base by {how.effect:.2%} only, less than {dtype} shows."
        said.append(
            finding("error", code, "merged", text.format(how.value, _LEFT.get(how.nearest)), hint)
        )
    elif not closer:
        text = "Rounding blurs it more than the adapter changes it; the adapter is in it all the "
        said.append(finding("warning", "SMK014", "merged", f"{text}same."))
    if how.error > 0.25:
        text = f"The share of the adapter is not sure: {how.value:.2f} ± {how.error:.2f}."
        said.append(finding("warning", "SMK015", "merged", text, "Give more text with --text."))
    return word, said


def _word(how: Share, closer: bool, blurred: bool, scalable: bool) -> Verdict:
    if how.effect < SEEN:
        return "unseen" if how.likeness > 0.9 else "neither"
    if how.lost and not blurred:
        return "neither"
    if how.nearest in ("whole", "update"):
        return "part"
    if how.nearest == "opposite" or how.value < -0.5:
        return "opposite"
    if how.nearest == "base":
        return "base"
    if how.nearest == "twice" or (not scalable and how.value > 1.5):
        return "twice"
    return "adapter" if (closer or blurred) and how.likeness > 0.5 else "neither"
