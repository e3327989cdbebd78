"""Stack adapters: many LoRAs into one, exactly and without the base, or as a formula says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, Unsafe, shown
from adaptertools.report import Finding, Report
from adaptertools.verbs import _stack_run
from adaptertools.verbs._experts_alike import sources
from adaptertools.verbs._sources import Source, check_finite
from adaptertools.verbs._sources_base import Shapes, shapes
from adaptertools.verbs._stack_ask import (
    LARGEST,
    Ask,
    Options,
    dtype_code,
    named,
    rules,
    weights_of,
    whole_choice,
)
from adaptertools.verbs._stack_config import check_configs, flat
from adaptertools.verbs._stack_match import Named, check_base, check_shapes, check_twice
from adaptertools.verbs._stack_modules import Recipe
from adaptertools.verbs.open import open_adapter
from adaptertools.verbs.plan import sha256_of

Refs = str | Path | Adapter | Sequence[str | Path | Adapter]


def _silent(count: int) -> None:
    """Take progress and say nothing."""


def stack(
    adapters: Refs, *, out: str | Path, weights: Sequence[float] | None = None, how: str = "sum",
    emulate: str | None = None, rank: str | int = "auto", max_rank: int = LARGEST,
    uniform_rank: bool = False, allow_lossy: bool = False,
    weight: Mapping[str, float] | Sequence[str] = (), dtype: str | None = None,
    base: str | Path | None = None, base_check: str = "strict", modules_to_save: str = "error",
    expert_packing: str | None = None, seed: int = 0, density: float | None = None,
    epsilon: float | None = None, gamma: float | None = None, common: float | None = None,
    verify: bool = False, dry_run: bool = False, progress: Callable[[int], None] = _silent,
) -> Report:  # fmt: skip
    """Write one plain LoRA that does what several do together, without their base.

    A weight multiplies an adapter's update ΔW = s·B·A; the default is Σ wᵢΔWᵢ to the last digit of
    the stored dtype, at the smallest rank that holds it. Arithmetic is float64, on factors only.

    Args:
        adapters: one or several folders, Hub references or open adapters.
        out: the folder to create; it has its name only once everything is in it.
        weights: one for each adapter; 1 where it is None.
        how: "sum", or another file of `blends`: "cat", "slerp", "knots-ties", "ties" …
        emulate: instead, another tool's numbers: "peft-linear", "peft-ties", "kohya", "lorahub".
        rank: "auto" loses nothing, "max" is the sources' largest, N, "energy:0.99" (per module),
            "budget:N" (the least error for as many parameters as rank N takes everywhere).
        max_rank, allow_lossy: more than this is refused, or cut.
        uniform_rank: pad all modules with zeros to one rank, for servers without rank_pattern.
        weight: weights of some modules, {"C@*.layers.{0-15}.*": 0.0}; the last match wins.
        dtype: of what is stored; float32 where it is None, "keep" for the adapters' own.
        base: the model, of which headers are read: for VeRA, MiSS, fused experts, and all shapes.
        base_check: "strict", "warn" or "off", where the adapters' bases seem to differ.
        modules_to_save: "error", "mean" or "from=ADAPTER", where tensors are saved whole.
        expert_packing: as of `merge`; seed, density, epsilon, gamma, common: of some formulas.
        verify, dry_run: prove and read back what is written; compute all and write nothing.
        progress: called with bytes read of the adapters.

    Raises Mismatch where the adapters are not of one base, Unsupported where an update depends on
    the base's weights or cannot be had as asked, Unreadable for NaN, Unsafe where `out` exists.
    """
    options = Options(
        how=emulate or how, emulate=bool(emulate), rank=Ask.of(rank), max_rank=max_rank,
        uniform_rank=uniform_rank, allow_lossy=allow_lossy, dtype=dtype_code(dtype),
        base_check=base_check, whole=whole_choice(modules_to_save), seed=seed, verify=verify,
        density=density, epsilon=epsilon, gamma=gamma, common=common,
    )  # fmt: skip
    opened = _opened(adapters, Path(out), dry_run)
    headers = shapes(base) if base else None
    made, own = sources(opened, headers, expert_packing), weights_of(weights, len(opened))
    recipe = _recipe(made, own, weight, options, headers)
    name, said = check_base(recipe.named, base_check)
    said = [*said, *_check_parts(recipe)]
    return _stack_run.run(recipe, name, Path(out), said, dry_run, progress)


def _opened(adapters: Refs, out: Path, dry_run: bool) -> list[Adapter]:
    given = [adapters] if isinstance(adapters, str | Path | Adapter) else list(adapters)
    opened = [open_adapter(adapter) for adapter in given]
    check_twice(opened)
    _check_out(out, opened, dry_run)
    return opened


def _recipe(
    made: Sequence[Source], weights: Sequence[float],
    asked: Mapping[str, float] | Sequence[str], options: Options, base: Shapes | None,
) -> Recipe:  # fmt: skip
    """Put together what is to be stacked; adapters that count nowhere are left out."""
    opened = [each.adapter for each in made]
    said = rules(asked, opened)
    if options.whole.startswith("from="):
        chosen = named(options.whole.removeprefix("from="), opened)
        options = replace(options, whole=f"from={chosen.ref}")
    every = [
        Named(each, number, sha256_of(each.adapter))
        for each, number in zip(made, weights, strict=True)
    ]
    whole = Recipe(named=every, options=options, rules=said, base=base)
    used = [n for n in every if n.weight or any(whole.counts(n, t) for t in n.source.entries)]
    recipe = replace(whole, named=used)
    if not any(recipe.weight(n, t) for n in used for t in n.source.entries):
        raise Mismatch("No weight is other than 0, so there is nothing to stack. Give weights.")
    return recipe


def _check_parts(recipe: Recipe) -> list[Finding]:
    """Refuse what does not fit together, and NaN; say what is not known for sure."""
    check_shapes(recipe.named)
    check_configs(recipe)
    for each in recipe.named:
        check_finite(each.source)
    said = [doubt for each in recipe.named for doubt in each.source.doubts]
    return [*said, *(flat(recipe.named) if recipe.base is None else ())]


def _check_out(out: Path, adapters: Sequence[Adapter], dry_run: bool) -> None:
    """Refuse to write over anything, or into an input."""
    if not dry_run and (out.exists() or out.is_symlink()):
        raise Unsafe(f"{shown(out)} exists already. Choose another --out, or delete it.")
    target = out.resolve()
    for adapter in adapters:
        folder = Path(adapter.folder).resolve()
        if target == folder or folder in target.parents or target in folder.parents:
            raise Unsafe(
                f"--out {shown(out)} and {shown(adapter.folder)} lie inside one another. "
                "Choose a folder of its own; inputs are never written to."
            )
