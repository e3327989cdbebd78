"""What is said of an extraction: adapter_config.json, the card, and findings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from adaptertools.checkpoint import Checkpoint
from adaptertools.errors import first, shown
from adaptertools.formats._peft_write import plain_config
from adaptertools.layouts import known
from adaptertools.ref import parse
from adaptertools.report import Finding, Level
from adaptertools.verbs._extract_fit import Fit
from adaptertools.verbs._extract_write import Made
from adaptertools.version import VERSION

_TASKS = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM", "ForTokenClassification":
          "TOKEN_CLS", "ForSequenceClassification": "SEQ_CLS", "ForQuestionAnswering":
          "QUESTION_ANS", "ForConditionalGeneration": "SEQ_2_SEQ_LM"}  # fmt: skip


def config(old: Checkpoint, new: Checkpoint, made: Made) -> dict[str, Any]:
    """Give adapter_config.json: factors by full names, scale 1, saved modules by full names."""
    ranks = {each.target: each.rank for each in made.matrices} or {made.placeholder: 1}
    held = plain_config(ranks, sorted(ranks))
    ref = parse(old.ref)
    return {
        **held,
        "base_model_name_or_path": ref.repo or old.ref,
        "revision": _commit(old) if ref.repo else None,
        "bias": "all" if made.biases else "none",
        "fan_in_fan_out": made.turned,
        "modules_to_save": sorted(made.owners) or None,
        "task_type": _task(new),
    }


def _commit(old: Checkpoint) -> str | None:
    """Give the commit that was fetched, by the folder of the cache, or the revision as named."""
    name = Path(old.folder).name
    return name if re.fullmatch(r"[0-9a-f]{40}", name) else parse(old.ref).revision


def _task(new: Checkpoint) -> str | None:
    """Name the task of the fine-tune's class, where PEFT has one for it."""
    name = str(next(iter(new.config.get("architectures") or ()), ""))
    task = next((task for ending, task in _TASKS.items() if name.endswith(ending)), None)
    heads = known.model(new.model_type).get("heads", {})
    return task if task is None or heads.get(task, name) == name else None


def card(old: Checkpoint, new: Checkpoint, rank: str, made: Made) -> str:
    """Write README.md: front matter that the Hub reads, then words for people; no paths."""
    repo = parse(old.ref).repo
    head = ["---", *([f"base_model: {json.dumps(repo)}"] if repo else []),
            "base_model_relation: adapter", "library_name: peft", "tags:", "- lora",
            "- adaptertools", "---"]  # fmt: skip
    base, tuned = (parse(each.ref).repo or Path(each.ref).name for each in (old, new))
    text = ["", f"# `{shown(tuned)}` as a LoRA of `{shown(base)}`", ""]
    text += [f"Extracted from the weights by adaptertools {VERSION}, `--rank {rank}`.", ""]
    if made.matrices:
        errors = sorted(each.error for each in made.matrices)
        ranks = sorted(each.rank for each in made.matrices)
        text.append(f"- {len(ranks)} weights as factors, rank {ranks[0]} to {ranks[-1]}")
        text.append(f"- ‖ΔW − B·A‖ / ‖ΔW‖: median {median(errors):.2g}, at most {errors[-1]:.2g}")
    text += [f"- {len(made.wholes)} tensors of saved modules, exact"] * bool(made.wholes)
    text += [f"- {len(made.biases)} biases, exact"] * bool(made.biases)
    return "\n".join([*head, *text, ""])


def said(old: Checkpoint, new: Checkpoint, fitted: Fit, made: Made) -> Iterator[Finding]:
    """Say what somebody who uses the adapter should know."""

    def say(code: str, level: Level, text: str, place: str = "") -> Finding:
        return Finding(code=code, level=level, place=place, text=text)

    lossy = [each for each in made.matrices if each.error > 0.1]
    if lossy:
        worst = max(lossy, key=lambda each: each.error)
        yield say("EXT001", "warning", f"{len(lossy)} of {len(made.matrices)} weights are off by "
                  f"more than 10 % of their change, {shown(worst.target)} by {worst.error:.0%}. "
                  "A full fine-tune is not low-rank; ask for a higher --rank.")  # fmt: skip
    large = [e for e in made.matrices if e.rank * sum(e.shape) > e.shape[0] * e.shape[1]]
    if large:
        yield say("EXT002", "warning", f"The factors of {len(large)} weights take more room "
                  f"than the weights, such as {shown(large[0].target)}.")  # fmt: skip
    if made.rounding:
        yield say("EXT003", "note", f"{made.rounding} weights differ by no more than rounding to "
                  "their dtype, and are left out. --rank max takes them too.")  # fmt: skip
    dtypes = [{s.dtype for s in each.tensors.values()} for each in (old, new)]
    if dtypes[0] != dtypes[1]:
        names = " and ".join(first(sorted(each)) for each in dtypes)
        yield say("EXT004", "note", f"Base and fine-tune are stored in {names}: the difference "
                  "holds the rounding of one to the other.")  # fmt: skip
    if fitted.left:
        yield say("EXT005", "note", f"{shown(new.ref)} has another head: {first(fitted.left)} of "
                  "the base stays behind.")  # fmt: skip
    if made.wholes:
        yield say("EXT006", "note", f"{len(made.wholes)} tensors are saved whole: "
                  f"{first(made.wholes, 3)}.")  # fmt: skip
    if made.placeholder:
        yield say("EXT008", "note", f"No linear weight changed. {shown(made.placeholder)} has "
                  "factors of zeros, because PEFT loads no LoRA without one.")  # fmt: skip
    if parse(old.ref).repo is None:
        yield say("EXT007", "note", "The adapter names its base by the path that was given. Set "
                  "base_model_name_or_path to its repository before you publish it.")  # fmt: skip
