"""Module by module: measure where ranks depend on all, then write; never all in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools.errors import Unsafe, Unsupported, first, shown
from adaptertools.formats._peft_write import Line, Writer, config_text, key
from adaptertools.formats.peft import CONFIG, WEIGHTS
from adaptertools.report import Finding, Report
from adaptertools.tensorfile import FLOATS, dtype_of
from adaptertools.verbs import _stack_ranks, _stack_told
from adaptertools.verbs._stack_check import read_back
from adaptertools.verbs._stack_config import biased, config_of, disagreements, embedding, nested
from adaptertools.verbs._stack_experts import Together, lines
from adaptertools.verbs._stack_modules import Module, Recipe
from adaptertools.verbs._stack_stored import Said, left_out, stored
from adaptertools.verbs._stack_sums import summed, warned
from adaptertools.verbs._stack_whole import Rows, Whole, listed_rows, token_rows, wholes, widest
from adaptertools.verbs._written import written

if TYPE_CHECKING:
    from adaptertools.update import Array

Progress = Callable[[int], None]


@dataclass(slots=True)
class Job:
    """One stack while it is made."""

    recipe: Recipe
    targets: Sequence[str]
    code: str  # the dtype of factors
    saved: Sequence[Whole]
    rows: Sequence[Rows]
    progress: Progress
    passes: int = 1  # over all modules
    ranks: dict[str, int] | None = None  # known before the first module is written, or None
    said: list[Said] = field(default_factory=list)


def run(
    recipe: Recipe, base: str | None, out: Path, findings: list[Finding], dry_run: bool,
    progress: Progress,
) -> Report:  # fmt: skip
    """Compute the stack and write it, unless it is only to be looked at."""
    import threadpoolctl

    targets = recipe.targets()
    job = Job(
        recipe, targets, _code(recipe), wholes(recipe.named, targets, recipe.options.whole),
        list(token_rows(recipe.named, targets, recipe.options.whole)), progress,
    )  # fmt: skip
    files, more = _stack_told.beside(recipe.named)
    more = [*disagreements(recipe.named), *more]
    # One module is too small for several threads, and with one the bytes are the same every time.
    with threadpoolctl.threadpool_limits(1):
        job.ranks = _ranks(job)
        if dry_run:
            for _ in _tensors(job):
                pass
            facts = summed(recipe, job.said, FLOATS[job.code])
        else:
            facts = _written(job, base, out, [*findings, *more], files)
    findings = [*findings, *more, *warned(recipe, job.said, facts)]
    facts = facts | {"out": str(out), "dry_run": dry_run}
    return Report(verb="stack", subject=str(out), findings=tuple(findings), facts=facts)


def _code(recipe: Recipe) -> str:
    """Give the dtype of the factors: what was asked for, at least float32 where nothing was."""
    own = widest(
        spec.dtype
        for each in recipe.named
        for entry in each.source.entries.values()
        for spec in entry.parts.values()
    )
    asked = recipe.options.dtype
    if asked == "keep":
        return own
    return asked or ("F64" if own == "F64" else "F32")


def _most(recipe: Recipe, targets: Sequence[str]) -> int:
    """Give a rank that no module of the result can exceed."""

    def bound(target: str) -> int:
        return sum(n.source.lows[target].rank for n in recipe.holders(target))

    asked = recipe.options.rank
    return max(max(map(bound, targets)), int(asked.number) if asked.kind == "number" else 0)


def _ranks(job: Job) -> dict[str, int] | None:
    """Measure all modules where their ranks depend on one another; None where each has its own.

    Raises Unsupported where a rank is above the limit, before anything is written.
    """
    recipe, options = job.recipe, job.recipe.options
    together = options.uniform_rank or options.rank.kind == "budget"
    together = together or any(nested(recipe, target) for target in job.targets)
    together = together or bool(recipe.experts())
    if not together and _most(recipe, job.targets) <= options.max_rank:
        return None
    job.passes = 2
    spectra = [module.spectrum() for module in _modules(job)]
    ranks = _stack_ranks.choose(spectra, options.rank, options.uniform_rank)
    return _stack_ranks.check_limit(spectra, ranks, options.max_rank, options.allow_lossy)


def _modules(job: Job) -> Iterator[Module]:
    for target in job.targets:
        module = Module.load(job.recipe, target)
        yield module
        for each in module.holders:
            job.progress(each.source.nbytes(target) // job.passes)


def _tensors(job: Job) -> Iterator[tuple[str, Array]]:
    """Give every factor and bias of the output, module after module, and note its figures."""
    import numpy as np

    recipe, has_bias = job.recipe, biased(job.recipe)
    experts = Together(recipe, job.targets, job.ranks or {})
    for module in _modules(job):
        target, spectrum = module.target, module.spectrum()
        rank = (_stack_ranks.single(spectrum, recipe.options.rank) if job.ranks is None
                else job.ranks[target])  # fmt: skip
        shift = module.bias() if has_bias else None
        if shift is not None and shift.any():
            rank = max(rank, 1)  # PEFT keeps a bias on lora_B, so there must be one
        if not rank:
            job.said.append(left_out(module))
            continue
        up, down, said = stored(module, rank, min(rank, len(spectrum.values)), job.code)
        job.said.append(said)
        if module.expert is not None:
            yield from experts.add(module.expert, up, down)
            continue
        if embedding(recipe, target):
            yield key(target, "lora_embedding_A"), np.ascontiguousarray(up.T)
            yield key(target, "lora_embedding_B"), np.ascontiguousarray(down.T)
            continue
        under, (out, *rest) = nested(recipe, target), module.axes
        kernel = tuple(rest[1:])
        yield key(target, "lora_A", nested=under), down.reshape(rank, rest[0], *kernel)
        yield key(target, "lora_B", nested=under), up.reshape(out, rank, *(1 for _ in kernel))
        if shift is not None:
            yield key(target, "lora_B.bias", nested=under), shift.astype(dtype_of(job.code))


def _lines(job: Job) -> Iterator[Line]:
    """Give the longest that the header can become."""
    recipe, rank = job.recipe, _most(job.recipe, job.targets)
    yield from lines(recipe, job.code, rank)
    experts = recipe.experts()
    for target in (t for t in job.targets if t not in experts):
        holder = recipe.holders(target)[0].source
        out, *rest = holder.axes(target)
        under = nested(recipe, target)
        if embedding(recipe, target):
            yield key(target, "lora_embedding_A"), job.code, (rank, out)
            yield key(target, "lora_embedding_B"), job.code, (rest[0], rank)
            continue
        yield key(target, "lora_A", nested=under), job.code, (rank, *rest)
        yield key(target, "lora_B", nested=under), job.code, (out, rank, *(1 for _ in rest[1:]))
        if biased(recipe):
            yield key(target, "lora_B.bias", nested=under), job.code, (out,)
    for whole in (*job.saved, *(rows.whole for rows in job.rows)):
        yield whole.name, whole.dtype, whole.shape


def _written(
    job: Job, base: str | None, out: Path, findings: Sequence[Finding], files: dict[str, Path]
) -> dict[str, Any]:
    """Write everything under a temporary name; nothing is left of what fails."""
    draft = out.with_name(out.name + ".partial")
    try:
        draft.mkdir(parents=True)
    except FileExistsError:
        raise Unsafe(f"{shown(draft)} is there from an earlier run. Delete it.") from None
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, draft, ignore_errors=True)
        _write_tensors(job, draft / WEIGHTS)
        ranks = {said.target: said.rank for said in job.said if said.rank}
        config = config_of(job.recipe, ranks, base, listed_rows(job.rows, job.recipe.named))
        (draft / CONFIG).write_text(config_text(config), "utf-8")
        facts = summed(job.recipe, job.said, FLOATS[job.code])
        facts["bytes"] = (draft / WEIGHTS).stat().st_size
        if job.recipe.options.verify:
            facts["verified"] = read_back(job.recipe, draft, job.said)
        for name, path in files.items():
            shutil.copyfile(path, draft / name)
        told = [f"`{whole.name}` is that of {_stack_told.short(whole.told)}" for whole in job.saved]
        folders = [each.adapter.folder for each in job.recipe.named]
        text = _stack_told.card(out.name, base, facts, told, folders)
        (draft / "README.md").write_text(text, "utf-8")
        said = [*findings, *warned(job.recipe, job.said, facts)]
        text = _stack_told.receipt(facts, base, said, written(draft))
        (draft / _stack_told.RECEIPT).write_text(text, "utf-8")
        draft.rename(out)
        stack.pop_all()
    return facts


def _write_tensors(job: Job, path: Path) -> None:
    with Writer(path, _lines(job)) as writer:
        for name, values in _tensors(job):
            writer.add(name, job.code, values)
        if not any(said.rank for said in job.said):
            raise Unsupported(
                f"The weighted updates cancel in every module, such as {first(job.targets, 1)}: "
                "the result does nothing. Give other weights."
            )
        for whole in (*job.saved, *(rows.whole for rows in job.rows)):
            writer.stream(whole.name, whole.dtype, whole.shape, whole.make())
