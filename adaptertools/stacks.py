"""A tensor of three axes as one edit for each of its matrices.

What looks at a whole weight (the directions that rounding keeps clean, the checks of `verify`)
looks at one expert at a time: the others share neither factors nor rows with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod

from adaptertools.jobs import Edit
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.experts import Experts
from adaptertools.update.picked import Once
from adaptertools.update.sliced import sliced
from adaptertools.update.within import Within


def matrices(edit: Edit) -> Iterator[Edit]:
    """Give an edit for each matrix, called NAME[i]; a tensor that is one matrix is its own.

    Factors that all of them use are read once, and kept while any of these edits lives.
    """
    if not edit.stored:
        yield edit
        return
    count, height = prod(edit.stored[:-2]), edit.stored[-2]
    updates = [_kept(update) for update in edit.updates]
    for i in range(count):
        rows = (i * height, (i + 1) * height)
        own = (_own(update, i, rows, edit.stored[-1]) for update in updates)
        packed = edit.packed
        if packed is not None:
            parts = {role: one_of(spec, i, count) for role, spec in packed.parts.items()}
            packed = replace(packed, parts=parts, shape=edit.stored[-2:])
        source = one_of(edit.source, i, count)._replace(shape=edit.stored[-2:])
        yield replace(
            edit, name=f"{edit.name}[{i}]", source=source, stored=(), packed=packed,
            updates=tuple(update for update in own if update is not None),
        )  # fmt: skip


def written(
    edit: Edit, every: Mapping[str, TensorSpec]
) -> Iterator[tuple[Edit, Mapping[str, TensorSpec]]]:
    """Give the edits of `matrices`, each with what was written for it, by the names it uses."""
    packed = edit.packed.parts.values() if edit.packed is not None else ()
    names = {edit.name, *(spec.name for spec in packed)} & every.keys()
    for i, one in enumerate(matrices(edit)):
        if one is edit:
            yield one, every
        else:
            made = (one_of(every[name], i, prod(edit.stored[:-2])) for name in names)
            yield one, {spec.name: spec for spec in made}


def one_of(spec: TensorSpec, i: int, count: int) -> TensorSpec:
    """Give the i-th of so many equal parts of a tensor, along its first axis."""
    size = spec.nbytes // max(count, 1)
    start = spec.start + i * size
    return spec._replace(
        name=f"{spec.name}[{i}]", shape=spec.shape[1:], start=start, stop=start + size
    )


def _kept(update: Update) -> Update:
    if isinstance(update, Experts):
        return replace(update, up=Once(update.up), down=Once(update.down))
    return update


def _own(update: Update, i: int, rows: tuple[int, int], width: int) -> Update | None:
    """Give what an update does to the i-th matrix, which has these rows; None for nothing."""
    if isinstance(update, Experts):
        return update.expert(i)
    if not isinstance(update, Within):
        return sliced(update, rows, None)
    first, last = max(update.rows[0], rows[0]), min(update.rows[1], rows[1])
    if first >= last:
        return None
    whole = (first, last) == rows and update.columns == (0, width)
    start, inner = update.rows[0], update.update
    if (first, last) != update.rows:
        inner = sliced(inner, (first - start, last - start), None)
    return inner if whole else Within(inner, (first - rows[0], last - rows[0]), update.columns)
