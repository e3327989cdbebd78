"""Compare adapters: how alike their updates are, where they cancel, and which are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from adaptertools import tensorfile
from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, first, shown
from adaptertools.report import Finding, Level
from adaptertools.verbs._compare_modules import Sums
from adaptertools.verbs._compare_parts import Compared, Comparison, Overall, Side
from adaptertools.verbs._experts_alike import sources
from adaptertools.verbs._sources import Source, check_finite
from adaptertools.verbs._sources_base import shapes
from adaptertools.verbs.open import open_adapter

SAMPLES = 10_000
# What another gauge and storing can do to an update: some roundings of its dtype, 1 % at most.
_STEPS = {"F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
_ROUNDINGS, _MOST = 16, 0.01
_CANCEL, _PILE = 0.5, 1.5  # energy ratios of the sum that are worth a word


def compare(
    adapters: Sequence[str | Path | Adapter], *, base: str | Path | None = None,
    expert_packing: str | None = None, samples: int = SAMPLES, seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Comparison:  # fmt: skip
    """Say how adapters relate, module by module and overall, from their factors alone.

    Args:
        adapters: two or more folders, Hub references or open adapters.
        base: the model, of which headers are read, for fused experts that differ in layout.
        expert_packing: as of `merge`.
        samples: entries of each weight whose signs are compared; all, where it has no more.
        seed: fixes which entries these are.
        progress: called with bytes read.

    All arithmetic is float64, and no update is ever formed. The two adapters of a pair are the
    same update where ‖a − b‖ is within the rounding of their stored dtype, whatever their factors.

    Raises Mismatch where there is nothing to compare: one adapter, one named twice, no module in
    common, or one of different shapes; Unsupported for an update that depends on the weights;
    Unreadable for NaN and infinity; and what opening raises.
    """
    opened = [open_adapter(each) for each in adapters]
    _check_given(opened)
    if samples < 1:
        raise Mismatch(f"samples is {samples}: at least one entry of each weight was expected.")
    made = sources(opened, shapes(base) if base else None, expert_packing)
    targets = _targets(made)
    for each in made:
        check_finite(each)
    sums, modules = Sums(len(made)), []
    for target in targets:
        modules.append(_module(sums, made, target, samples, seed, progress or _silent))
    return _said(made, sums, tuple(modules))


def _silent(count: int) -> None:
    """Take progress and say nothing."""


def _check_given(opened: Sequence[Adapter]) -> None:
    if len(opened) < 2:
        raise Mismatch(f"{len(opened)} adapter was given, and a comparison takes two or more.")
    folders = [Path(each.folder).resolve() for each in opened]
    if twice := [each.ref for each, f in zip(opened, folders, strict=True) if folders.count(f) > 1]:
        raise Mismatch(f"One adapter is named twice, as {first(twice)}. Name each once.")


def _targets(sources: Sequence[Source]) -> list[str]:
    """Name all modules; those of several adapters must be of one shape."""
    held: dict[str, list[Source]] = {}
    for each in sources:
        for target in each.entries:
            held.setdefault(target, []).append(each)
    for target, those in held.items():
        shapes = [each.shape(target) for each in those]
        if len(set(shapes)) > 1:
            odd = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            raise Mismatch(
                f"{shown(target)} is {'×'.join(map(str, shapes[0]))} in "
                f"{shown(those[0].adapter.ref)} and {'×'.join(map(str, shapes[odd]))} in "
                f"{shown(those[odd].adapter.ref)}. They are of different bases; compare adapters "
                "of one."
            )
    if not any(len(those) > 1 for those in held.values()):
        some = "; ".join(f"{shown(e.adapter.ref)}: {first(e.entries, 2)}" for e in sources[:2])
        raise Mismatch(
            f"No two of the {len(sources)} adapters change a module in common ({some}). "
            "Compare adapters of one base."
        )
    return list(held)


def _module(
    sums: Sums, sources: Sequence[Source], target: str, samples: int, seed: int,
    progress: Callable[[int], object],
) -> Compared:  # fmt: skip
    entries = [each.entries.get(target) for each in sources]
    held = [
        None if entry is None else each.load(entry)
        for each, entry in zip(sources, entries, strict=True)
    ]
    found = sums.add(target, held, samples, seed)
    progress(sum(each.nbytes(target) for each in sources if target in each.entries))
    return found


def _said(sources: Sequence[Source], sums: Sums, modules: tuple[Compared, ...]) -> Comparison:
    from adaptertools.update.signs import share

    sides = tuple(
        Side(
            ref=each.adapter.ref, base=each.adapter.base, method=each.adapter.method,
            modules=len(each.entries), norm=sums.squares[i] ** 0.5, rank=sums.ranks[i],
        )
        for i, each in enumerate(sources)
    )  # fmt: skip
    rough = [_rounding(each) for each in sources]
    pairs = [sums.overall(a, b, max(rough[a], rough[b])) for a, b in sums.pairs]
    findings = [
        *(d for each in sources for d in each.doubts),
        *_alike(sides, pairs),
        *_sum(sums),
        *_beside(sources, sides),
    ]
    return Comparison(
        adapters=sides, pairs=tuple(pairs), energy=sums.energy, modules=modules,
        conflict=share(sums.conflict) if sums.conflict else None, findings=tuple(findings),
    )  # fmt: skip


def _rounding(each: Source) -> float:
    """Give what rounding its factors, under any gauge, may have moved an update by."""
    dtypes = {spec.dtype for e in each.entries.values() for spec in e.parts.values()}
    return min(_ROUNDINGS * max(_STEPS.get(d, 1.0) for d in dtypes), _MOST)


def _finding(code: str, level: Level, text: str, place: str = "") -> Finding:
    return Finding(code=code, level=level, place=place, text=text)


def _alike(sides: Sequence[Side], pairs: Sequence[Overall]) -> Iterator[Finding]:
    """Say which two are one and the same."""
    for side in sides:
        if not side.norm:
            yield _finding("CMP001", "warning", "All its updates are zero: it was saved before it "
                           "was trained.", side.ref)  # fmt: skip
    for pair in pairs:
        names = f"{shown(sides[pair.a].ref)} and {shown(sides[pair.b].ref)}"
        off = f"{pair.distance:.2g} apart, relative to the larger"
        if pair.likeness == "equal":
            yield _finding(
                "CMP002", "warning", f"{names} are the same update, in the same factors."
            )
        elif pair.likeness == "gauge":
            yield _finding("CMP002", "warning", f"{names} are the same update in other factors, "
                           f"which no hash of the files would tell: {off}.")  # fmt: skip
        elif pair.likeness == "near":
            yield _finding("CMP003", "warning", f"{names} are near-duplicates: cosine "
                           f"{pair.cosine:.5f}, {off}.")  # fmt: skip
        elif pair.likeness == "opposite":
            yield _finding("CMP004", "warning", f"{names} undo one another: cosine "
                           f"{pair.cosine:.5f}.")  # fmt: skip


def _sum(sums: Sums) -> Iterator[Finding]:
    ratio = sums.energy
    if ratio is not None and ratio < _CANCEL:
        yield _finding("CMP005", "note", f"Their sum has {ratio:.0%} of the energy of its parts: "
                       "they cancel in good part.")  # fmt: skip
    elif ratio is not None and ratio > _PILE:
        yield _finding("CMP006", "note", f"Their sum has {ratio:.0%} of the energy of its parts: "
                       "they pull the same way, and their sum goes further than each.")  # fmt: skip


def _beside(sources: Sequence[Source], sides: Sequence[Side]) -> Iterator[Finding]:
    """Say what the figures are not about, and what a stack would stumble over."""
    bases = {Path(side.base).name.lower(): side.base for side in sides if side.base}
    if len(bases) > 1:
        yield _finding("CMP007", "warning", f"They name different bases: {first(bases.values())}. "
                       "Updates of different weights are compared.")  # fmt: skip
    for (_, one), (_, two) in combinations(enumerate(sources), 2):
        mine = {saved.name: saved for saved in one.saved}
        both = [(mine[saved.name], saved) for saved in two.saved if saved.name in mine]
        if odd := [a.name for a, b in both if not tensorfile.same(a.spec, b.spec)]:
            names = f"{shown(one.adapter.ref)} and {shown(two.adapter.ref)}"
            yield _finding("CMP008", "note", f"{names} both bring {first(odd)}, and differ there.")
    for each, side in zip(sources, sides, strict=True):
        if count := len(each.saved) + len(each.rows):
            names = first([*(s.name for s in each.saved), *(r.target for r in each.rows)], 3)
            yield _finding("CMP009", "note", f"{count} tensors that are saved whole, or as rows, "
                           f"are not in the figures: {names}.", side.ref)  # fmt: skip
