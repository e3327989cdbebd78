"""smoke: prove a merge by running it: load, generate, and hold it against base and adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaptertools.errors import Unsupported, shown
from adaptertools.report import Finding, plain
from adaptertools.verbs import _smoke_ask as ask
from adaptertools.verbs import _smoke_quiet as quietly
from adaptertools.verbs._smoke_judge import Pair, Share, pair, same_shapes, share
from adaptertools.verbs._smoke_load import QUANTS
from adaptertools.verbs._smoke_run import Run
from adaptertools.verbs._smoke_street import Street, Walked, settle, walk
from adaptertools.verbs._smoke_subject import subject
from adaptertools.verbs._smoke_verdict import Verdict, finding, health, judge, sides


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model that was run, and what it did."""

    name: str  # "base", "adapter", "adapter 1" …, "merged"; "model" where it is not compared
    ref: str  # as it was named
    loaded: str  # its dtype and quantisation
    tokens_per_second: float  # generated, or read where the model does not generate
    peak_bytes: int | None  # while it was loaded and asked
    perplexity: float | None  # over the texts; None where the model predicts no next token
    answers: tuple[str, ...]  # one for each prompt


@dataclass(frozen=True, kw_only=True)
class Smoke:
    """What the models did, how far they are from one another, and whom the merged one follows."""

    subject: str
    kind: str
    device: str
    quant: str
    verdict: Verdict
    share: Share | None  # of the adapter in the merged model
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    prompts: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong: the merged model, if any, follows the adapter."""
        return all(finding.level != "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Give what schemas/smoke.schema.json describes."""
        found: dict[str, Any] = plain(asdict(self) | {"ok": self.ok})
        return found


def smoke(
    thing: str | Path, *, base: str | Path | None = None, adapters: Sequence[str | Path] = (),
    quant: str = "keep", device: str = "auto", prompts: Sequence[str] | None = None,
    texts: Sequence[str] | None = None, max_new_tokens: int = 32, seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Smoke:  # fmt: skip
    """Load a model or an adapter, let it generate, and compare base, adapter and merged model.

    An adapter is run beside its base and compared with the base alone; several are switched in
    turn. A merged model is compared with the base and adapters that its receipt names. A model
    without a receipt is only run, unless base or adapters are given.

    Args:
        thing: folder or Hub reference of a model or of an adapter in PEFT's format.
        base: the base, where it is not the one that the adapter or the receipt names.
        adapters: further adapters, or those of a merged model in the order of its receipt.
        quant: "4bit" (nf4), "fp4" or "8bit" to quantise 16-bit models at load, "none" to run all
            as stored; "keep" also quantises a 16-bit base as the merged model is.
        device: "auto", "cpu" or "cuda".
        prompts: what to go on with. texts: what to read. Built-in English where they are None.
        max_new_tokens: how far to go on after each prompt.
        seed: fixes the random token ids that stand in where there is no tokenizer.
        progress: called with a line as each step begins.

    Raises NotFound, Unreadable, Mismatch, Unsafe or Unsupported; each says what to do.
    """
    it = subject(thing, base, adapters)
    if quant not in QUANTS:
        raise Unsupported(f"--quant {shown(quant)} is unknown. Known: {', '.join(QUANTS)}.")
    if max_new_tokens < 1 or [] in (prompts and list(prompts), texts and list(texts)):
        raise Unsupported("smoke needs at least one prompt, one text and one new token.")
    quietly.need("torch", "transformers", *["peft"] * bool(it.adapters))
    progress("Importing torch and transformers")
    with quietly.hush(small=it.small):
        street = settle(
            it, quant=quant, device=device, prompts=prompts, texts=texts,
            new_tokens=max_new_tokens, seed=seed, say=progress,
        )  # fmt: skip
        return _conclude(str(thing), street, walk(street))


def _conclude(thing: str, street: Street, done: Walked) -> Smoke:
    runs, script = done.runs, street.script
    for run in runs[1:]:
        same_shapes(runs[0].name, run.name, runs[0].outputs, run.outputs)
    choices = street.kind.gives != "states" and runs[0].outputs[0].shape[-1] > 1
    said, how = health(runs), None
    verdict: Verdict = "runs"
    pairs = _pairs(done, choices)
    if done.base and done.sides and not any(each.code == "SMK001" for each in said):
        said += sides(done.sides, done.base, choices=choices)
        if done.merged:
            outputs = (done.base.outputs, done.sides.runs[0].outputs, done.merged.outputs)
            how = share(*outputs, done.sides.others, choices=choices)
            verdict, more = judge(
                how, *pairs[:2], dtypes=(done.base.loaded.dtype, done.merged.loaded.dtype),
                quantised=done.base.loaded.quantised or done.merged.loaded.quantised,
                scalable="twice" in done.sides.others,
            )  # fmt: skip
            said += more
    return Smoke(
        subject=thing, kind=street.kind.name, device=street.place, quant=street.quant,
        verdict=verdict, share=how, rows=tuple(_row(run, street, done) for run in runs),
        pairs=pairs, prompts=script.asked, findings=(*said, *_notes(street, done)),
    )  # fmt: skip


def _pairs(done: Walked, choices: bool) -> tuple[Pair, ...]:
    """Compare each adapter with merged model and base, and the merged model with the base."""
    beside = done.sides.runs if done.sides else ()
    wanted = [(run, other) for run in beside for other in (done.merged, done.base) if other]
    if done.merged and done.base:
        wanted.append((done.merged, done.base))
    return tuple(
        pair(one.name, other.name, one.outputs, other.outputs, choices=choices)
        for one, other in wanted
    )


def _row(run: Run, street: Street, done: Walked) -> Row:
    return Row(
        name=run.name, ref=run.ref, loaded=run.loaded.how, tokens_per_second=run.speed,
        peak_bytes=run.peak, perplexity=ask.perplexity(run.outputs, done.texts),
        answers=tuple(ask.said(street.script, told) for told in run.told),
    )  # fmt: skip


def _notes(street: Street, done: Walked) -> list[Finding]:
    """Say what was done otherwise than one might think."""
    said = []
    if street.script.why:
        text = f"{street.script.why} Random token ids stand in for words."
        said.append(finding("note", "SMK030", "", text))
    if done.sides is None:
        text = "There is no adapter to compare with: it was only run."
        said.append(finding("note", "SMK031", "", text, "Name base and adapter."))
    if street.quant not in ("keep", "none"):
        said += [
            finding("note", "SMK032", model.ref, "It is quantised on disk, and was left so.")
            for model in (street.it.base, street.it.merged)
            if model is not None and model.packing
        ]
    return said
